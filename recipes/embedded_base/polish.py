"""A last, text-only stage: sentences may be built from words that the captions never used.

Training captions put unknown words where a style stands, nowhere else, so "please show me a llama" still
confuses the towers. Here they learn to read such a frame like one they know. The teacher is the trained pair
of towers, the student a copy; both read captions with the same number of tokens in the same places, one in a
known frame and one in a frame of filler words, and the student must arrive at the teacher's states:

    teacher   a  cute drawing of   a blue llama        a  twemoji  icon of      a blue llama
    student   go bring us some     a blue llama        oh twemoji  vora lets    a blue llama

Half of every batch repeats ordinary captions unchanged, so that nothing else moves. No picture is needed
and a CPU does it in minutes. Shapes: B captions, T tokens.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from . import tokenizer, words
from .captions import invented, unknown
from .fit import Fit, Run
from .scenes import Planner
from .settings import Settings

POOLED_WEIGHT = 0.5
FILLERS = (
    "give", "want", "would", "like", "could", "make", "create", "generate", "produce", "look", "see", "let",
    "us", "our", "your", "his", "her", "their", "any", "lovely", "great", "very", "quite", "really",
    "today", "now", "again", "featuring", "containing", "for", "about", "to", "it", "that", "which", "what",
    "how", "there", "imagine", "visualize", "masterpiece", "wallpaper", "item", "subject", "example",
    "sample", "copy", "series", "pack", "library", "file", "page", "screen", "print", "poster", "banner",
    "badge", "we", "i", "need", "bring", "find", "get", "take", "do", "try", "can", "have", "was", "were",
    "are", "be", "been", "just", "only", "also", "an attempt at", "kind", "sort", "type", "form", "shape",
    "idea", "concept", "study", "scene", "vision", "go", "perfect", "simple", "quick", "fresh", "famous",
    "classic", "official", "original", "typical", "standard", "done", "created", "produced", "prepared",
    "rendered", "designed", "using", "through", "via", "after", "as if",
)  # fmt: skip
# What may stand before and after a style word in the frames that the towers know.
OPENINGS = ("a", "the", "one", "my")
CLOSINGS = ("{n} of", "style {n} of", "{n},", "style")
ENDINGS = (
    "in {s} style", "in the style of {s}", ", {s}", "by {s}", "from {s}", "drawn in {s} style",
    "with a {s} look",
)  # fmt: skip


@dataclass
class Pairs:
    """N captions as the student reads them and as the teacher does, (N, T) int16 each."""

    student: torch.Tensor
    teacher: torch.Tensor


class Rewriter:
    """Frames of filler words with a given number of tokens."""

    def __init__(self, reader: Tokenizer, banned: set[str], seed: int) -> None:
        self.reader = reader
        self.rng = random.Random(seed)
        self.by_size: dict[int, list[str]] = defaultdict(list)
        spare = [w for w in FILLERS if not set(w.split()) & banned]
        made = [invented(self.rng) for _ in range(6000)] + self.scrambled(12_000, banned)
        for word in spare * 25 + made:
            self.by_size[self.size(word)].append(word)

    def scrambled(self, count: int, banned: set[str]) -> list[str]:
        """Words of two or three pieces of the vocabulary: an unknown word arrives as such pieces, whatever it says."""
        pieces = [token.removesuffix("</w>") for token in self.reader.get_vocab()]
        pieces = [piece for piece in pieces if piece.isascii() and piece.isalpha() and len(piece) <= 4]
        drawn = ("".join(self.rng.choices(pieces, k=self.rng.randint(2, 3))) for _ in range(count))
        return [word for word in drawn if word not in banned]

    def size(self, text: str) -> int:
        """Tokens of a text, without start and end."""
        return len(self.reader.encode(text, add_special_tokens=False).ids)

    def filler(self, size: int) -> str:
        """Words that take exactly `size` tokens."""
        chosen = []
        while size > 0:
            piece = self.rng.choice([n for n in (1, 1, 2, 3, 4) if n <= size and self.by_size[n]])
            chosen.append(self.rng.choice(self.by_size[piece]))
            size -= piece
        return " ".join(chosen)

    def pair(self, scene: str, style: str) -> tuple[str, str]:
        """(student, teacher) captions of one scene; style is a known name, or nothing."""
        rng = self.rng
        noun = rng.choice(words.NOUNS)
        opening = f"{rng.choice(OPENINGS)} {self.unknowns()}".strip()
        if not style:
            known = f"{opening} {noun} of"
            return f"{self.filler(self.size(known))} {scene}", f"{known} {scene}"
        if rng.random() < 0.6:
            after = f"{self.unknowns()} {rng.choice(CLOSINGS).format(n=noun)}".strip()
            made = f"{self.filler(self.size(opening))} {style} {self.filler(self.size(after))} {scene}"
            return made, f"{opening} {style} {after} {scene}"
        first, last = rng.choice(ENDINGS).split("{s}")
        known = f"{opening} {noun} of" if rng.random() < 0.5 else ""
        before = self.filler(self.size(known)) if known else ""
        made = f"{before} {scene} {self.filler(self.size(first))} {style} {self.filler(self.size(last))}"
        return made.strip(), f"{known} {scene} {first}{style}{last}".strip()

    def unknowns(self) -> str:
        """No, one, two or three words without a meaning: frames differ in length."""
        return " ".join(unknown(self.rng) for _ in range(self.rng.choice((0, 0, 1, 1, 2, 3))))


def pairs(planner: Planner, settings: Settings, reader: Tokenizer, banned: set[str], count: int) -> Pairs:
    """Half ordinary captions, half rewritten ones."""
    rewriter = Rewriter(reader, banned, settings.seed)
    planned = planner.chunk(settings.seed + 77, 0, count, 1)
    student, teacher = [], []
    for told in planned["captions"]:
        student += told
        teacher += told
    scenes = planner.phrases(settings.seed + 78, count)
    for scene, style in scenes:
        known = rewriter.rng.choice(words.STYLES[style]) if rewriter.rng.random() < 0.5 else ""
        made, plain = rewriter.pair(scene, known)
        student.append(made)
        teacher.append(plain)
    read, right = (torch.from_numpy(tokenizer.encode(reader, t).astype(np.int64)) for t in (student, teacher))
    end = reader.token_to_id(tokenizer.END)
    aligned = (read == end).sum(1) == (right == end).sum(1)  # a rare merge would shift everything after it
    return Pairs(read[aligned], right[aligned])


def train(model: nn.Module, data: Pairs, settings: Settings, run: Run) -> bool:
    """Advance the towers of `model` in place; True when the last step is done."""
    towers = nn.ModuleDict({"text_encoder": model.text_encoder, "text_encoder_2": model.text_encoder_2})
    teacher = copy.deepcopy(towers).requires_grad_(False)
    batch = settings.polish.batch
    plain = int((data.student == data.teacher).all(1).sum())  # ordinary captions come first

    def loss(generator: torch.Generator) -> torch.Tensor:
        where = {"generator": generator, "device": run.device}
        same = torch.randint(plain, (batch // 3,), **where)
        framed = torch.randint(plain, len(data.student), (batch - batch // 3,), **where)
        rows = torch.cat([same, framed])
        total = torch.zeros((), device=run.device)
        for name, tower in towers.items():
            states, pooled = tower(data.student[rows])
            with torch.no_grad():
                right, summary = teacher[name](data.teacher[rows])
            scale = right.square().mean()
            total = total + (states - right).square().mean() / scale
            if name == "text_encoder_2":
                total = total + POOLED_WEIGHT * (pooled - summary).square().mean() / summary.square().mean()
        return total

    fit = Fit(towers, loss, settings.polish, run)
    done = fit.go(report=25)
    with torch.no_grad():
        for weight, mean in zip(towers.parameters(), fit.average.shadow, strict=True):
            weight.copy_(mean)
    return done
