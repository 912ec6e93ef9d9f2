"""What the base must be able to do, as lists of prompts with a right answer each, and how answers are judged.

Concepts are recognised by the picture encoder: a picture's embedding against the mean embedding of every
concept's drawings over all styles. Colours are counted in pixels.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from lowrank_diffusion.image.encoder import Encoder

from . import words
from .colours import COLOURS, MEASURED
from .splits import CONCRETE

# The styles that both this base and its predecessor know under the same name.
SHARED_STYLES = ("noto", "twemoji", "emojione", "fxemoji", "fluent-flat")
KNOWN_FORMS = ("3d icon", "photo", "placeholder", "tag")


@dataclass(frozen=True)
class Prompt:
    """A sentence and what a right picture of it shows."""

    text: str
    concepts: tuple[int, ...]
    style: str | None = None
    colour: str | None = None  # of the thing
    ground: str | None = None  # of the background


@dataclass
class Catalogue:
    """Concepts and styles as the encoder's folder lists them, and what training held out."""

    concepts: list[dict[str, Any]]
    styles: list[str]
    held: dict[str, Any]
    drawn: dict[str, set[str]] = field(default_factory=dict)  # style -> concept codes that it draws

    def name(self, index: int) -> str:
        """ "an owl"."""
        name = self.concepts[index]["names"][0]
        return ("an " if name[0] in "aeiou" else "a ") + name


def catalogue(encoder: Path, held: dict[str, Any]) -> Catalogue:
    """Read the encoder's list of concepts."""
    data = json.loads((encoder / "concepts.json").read_text())
    return Catalogue(data["concepts"], data["styles"], held, {k: set(v) for k, v in data["drawn"].items()})


def families(book: Catalogue, limit: int | None = None, seed: int = 5) -> dict[str, list[Prompt]]:
    """Prompt families; `limit` shortens each for a quick look."""
    rng = random.Random(seed)
    made = {
        "new templates": _trained(book, rng),
        "new templates, no style": _neutral(book, rng),
        "bare names": _forms(book, rng, ("{n}",)),
        "synonyms": _synonyms(book, rng),
        "held-out pairs": _held(book, rng),
        "unknown style word": _unknown(book, rng),
        "3d icon of": _forms(book, rng, ("a 3d icon of {x}", "{n}, 3d icon")),
        "photo of sks": _forms(book, rng, ("a photo of {x}", "a photo of sks {n}")),
        "recolourings": _colours(book),
        "backgrounds": _grounds(book, rng),
        "two things": _pairs(book, rng),
    }
    return {name: prompts[:limit] for name, prompts in made.items()}


def _trained(book: Catalogue, rng: random.Random) -> list[Prompt]:
    """200 concepts, each in one style that training saw, in sentences that it did not."""
    prompts = []
    for index in _sample(book, rng, 200):
        style = rng.choice(_styles_of(book, index))
        text = rng.choice(book.held["templates"]).format(x=book.name(index), s=words.STYLES[style][0])
        prompts.append(Prompt(text, (index,), style))
    return prompts


def _neutral(book: Catalogue, rng: random.Random) -> list[Prompt]:
    forms = book.held["neutral_templates"]
    return [Prompt(rng.choice(forms).format(x=book.name(i)), (i,)) for i in _sample(book, rng, 200)]


def _forms(book: Catalogue, rng: random.Random, forms: tuple[str, ...]) -> list[Prompt]:
    prompts = []
    for k, index in enumerate(_sample(book, rng, 100)):
        text = forms[k % len(forms)].format(x=book.name(index), n=book.concepts[index]["names"][0])
        prompts.append(Prompt(text, (index,)))
    return prompts


def _synonyms(book: Catalogue, rng: random.Random) -> list[Prompt]:
    able = [i for i in _sample(book, rng, 1000) if len(book.concepts[i]["names"]) > 1]
    return [Prompt(f"an icon of {rng.choice(book.concepts[i]['names'][1:])}", (i,)) for i in able[:100]]


def _held(book: Catalogue, rng: random.Random) -> list[Prompt]:
    """Known concepts in a style in which training never saw them."""
    index = {c["code"]: i for i, c in enumerate(book.concepts)}
    found = [(index[c], s) for s in SHARED_STYLES for c in book.held["pairs"].get(s, ()) if c in index]
    chosen = rng.sample(found, min(200, len(found)))
    forms = ("a {s} icon of {x}", "{x}, {s}", "a picture of {x} in {s} style")
    return [Prompt(rng.choice(forms).format(x=book.name(i), s=words.STYLES[s][0]), (i,), s) for i, s in chosen]


def _unknown(book: Catalogue, rng: random.Random) -> list[Prompt]:
    forms = ("a {s} icon of {x}", "{x}, {s}", "a {s} picture of {x}", "{x} in {s} style")
    return [
        Prompt(rng.choice(forms).format(x=book.name(i), s=rng.choice(book.held["style_words"])), (i,))
        for i in _sample(book, rng, 200)
    ]


def _colours(book: Catalogue) -> list[Prompt]:
    index = {c["code"]: i for i, c in enumerate(book.concepts)}
    made = []
    for k, (code, colour) in enumerate(pair for pair in book.held["colours"] if pair[0] in index):
        name = book.concepts[index[code]]["names"][0]
        text = (f"a {colour} {name}", f"an icon of a {colour} {name}")[k % 2]
        made.append(Prompt(text.replace("a orange", "an orange"), (index[code],), colour=colour))
    return made


def _grounds(book: Catalogue, rng: random.Random) -> list[Prompt]:
    made = []
    for index in _sample(book, rng, 40, concrete=True):
        colour = rng.choice(MEASURED)
        text = f"{book.name(index)} on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"
        made.append(Prompt(text, (index,), ground=colour))
    return made


def _pairs(book: Catalogue, rng: random.Random) -> list[Prompt]:
    pool = _sample(book, rng, 80, concrete=True)
    pairs = zip(pool[::2], pool[1::2], strict=False)
    return [Prompt(f"{book.name(a)} and {book.name(b)}", (a, b)) for a, b in pairs]


def _styles_of(book: Catalogue, index: int) -> list[str]:
    """Shared styles in which training saw a concept."""
    code = book.concepts[index]["code"]
    return [s for s in SHARED_STYLES if code in book.drawn[s] and code not in book.held["pairs"].get(s, ())]


def _sample(book: Catalogue, rng: random.Random, count: int, concrete: bool = False) -> list[int]:
    """Concepts that training saw in at least one shared style."""
    able = [
        i
        for i, c in enumerate(book.concepts)
        if c["code"] not in book.held["objects"] and _styles_of(book, i) and (not concrete or c["group"] in CONCRETE)
    ]
    return rng.sample(able, min(count, len(able)))


class Eye(Encoder):
    """The picture encoder with its gallery."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(folder, device)
        gallery = load_file(folder / "gallery.safetensors")
        self.concepts = F.normalize(gallery["concepts"].float(), dim=-1)
        self.styles = F.normalize(gallery["styles"].float(), dim=-1)


def rank(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How many columns of (N, C) score higher than each row's right one: (N,), 0 is a hit."""
    return (scores > scores.gather(1, right[:, None])).sum(1)


def colour_shares(picture: Image.Image, border: bool) -> dict[str, float]:
    """Share of each colour word among the pixels of the frame (8 px) or of everything that is not white."""
    rgb = np.asarray(picture.convert("RGB").resize((128, 128))).astype(np.float32) / 255
    edge = np.ones((128, 128), bool)
    edge[8:-8, 8:-8] = False
    area = edge if border else (rgb.min(-1) < 0.93)
    values = _lab(rgb[area])
    palette = _lab(np.array(list(COLOURS.values()), np.float32) / 255)
    nearest = ((values[:, None] - palette[None]) ** 2).sum(-1).argmin(1) if len(values) else np.zeros(0, int)
    counts = np.bincount(nearest, minlength=len(COLOURS)) / max(1, len(values))
    return dict(zip(COLOURS, counts.tolist(), strict=True))


# A word's neighbours that count as obeying it: a lit or shaded surface strays into them.
KIN = {"yellow": ("gold",), "blue": ("cyan",), "orange": ("gold",), "black": (), "green": ("teal",)}


def obeys(shares: dict[str, float], colour: str) -> bool:
    """Is the word the commonest colour, outlines and white parts aside, on a fifth of the thing at least?"""
    if colour == "black":
        return shares["black"] >= 0.35
    rivals = [c for c in shares if c not in ("black", "white", "grey", colour, *KIN.get(colour, ()))]
    own = shares[colour] + sum(shares[k] for k in KIN.get(colour, ()))
    return shares[colour] >= 0.1 and own >= 0.2 and own > max(shares[c] for c in rivals)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) in [0, 1] -> CIE L*a*b*, D65."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    scaled = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    x, y, z = root[:, 0], root[:, 1], root[:, 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)
