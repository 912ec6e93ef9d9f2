"""The small picture and text encoder that measures: a CLIPModel trained on the same drawings.

It also learns the (style, concept) pairs that the base never sees: it is the ruler, not what is measured,
and must know a right answer. Only the unseen 3D set is kept from it, which tells how far to trust it.

Its embedding must hold what a picture shows, in which style and in which colours. So three losses act on
it: pictures against their captions (CLIP), the main object against one learnt direction per concept, and
the style. The last two heads are dropped afterwards.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from . import nets
from .fit import Fit, Run, averaged
from .rasterise import Library, on_white
from .settings import CONTEXT, SIDE, Settings, Sizes
from .towers import TextTower

PATCH = 16  # px
SHARPNESS = 24.0  # logit scale of the concept head
STYLE_WEIGHT = 0.4
CONCEPT_WEIGHT = 1.0


@dataclass
class Lessons:
    """N scenes: bytes (N, 3, H, W), ids (N, K, T), concept and style of the main object (N,), -100 if two."""

    pictures: torch.Tensor
    ids: torch.Tensor
    concept: torch.Tensor
    style: torch.Tensor
    concepts: int
    styles: int


def lessons(pictures: torch.Tensor, ids: np.ndarray, planned: dict[str, Any], library: Library) -> Lessons:
    """Add to rendered scenes what their main object is."""
    first = planned["picture"][:, 0]
    shared = (planned["picture"][:, 1] >= 0) & (planned["picture"][:, 1] != first) & (planned["box"][:, 0, 0] < 0.6)
    concept = np.where(shared, -100, library.concept[first])
    columns = [torch.from_numpy(a.astype(np.int64)).to(pictures.device) for a in (concept, library.style[first])]
    words = torch.from_numpy(ids).to(pictures.device)
    return Lessons(pictures, words, *columns, len(library.concepts), len(library.styles))


def vision_config(sizes: Sizes) -> dict[str, Any]:
    """Arguments of CLIPVisionConfig."""
    return {
        "hidden_size": sizes.judge_width,
        "intermediate_size": 4 * sizes.judge_width,
        "num_hidden_layers": sizes.judge_layers,
        "num_attention_heads": max(1, sizes.judge_width // 32),
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": sizes.judge_embedding,
    }


class Judge(nn.Module):
    """Picture tower, text tower and the two heads that only training needs."""

    def __init__(self, sizes: Sizes, concepts: int, styles: int) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        width, layers = sizes.judge_text_width, max(2, min(3, sizes.judge_layers))
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision_config(sizes)))
        self.text = TextTower(sizes.vocabulary, width, layers, CONTEXT, sizes.judge_embedding)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))
        self.concept = nn.Parameter(torch.randn(concepts, sizes.judge_embedding) * 0.1)
        self.style = nn.Linear(sizes.judge_embedding, styles)

    def forward(self, pictures: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised embeddings of pictures (B, 3, H, W) in [-1, 1] and captions (A, T): (B, E), (A, E)."""
        seen = self.vision(pixel_values=pictures).image_embeds
        told = self.text(ids)[1]
        return F.normalize(seen.float(), dim=-1), F.normalize(told.float(), dim=-1)


class Disturber:
    """Random changes that leave alone what a picture shows. `strength` 1 keeps colours, 3 does not.

    The mild kind goes with captions, which speak of colours and places; the strong kind with the names of
    concepts, which must be recognised in drawings of any style.
    """

    def __init__(self, generator: torch.Generator, count: int, strength: float) -> None:
        self.generator, self.count, self.strength = generator, count, strength

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        """(count, *shape) numbers."""
        drawn = torch.rand((self.count, *shape), generator=self.generator, device=self.generator.device)
        return drawn * (high - low) + low

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """(count, 3, H, W) in [-1, 1] -> the same."""
        moved = self._move(pictures)
        soft = F.avg_pool2d(F.pad(moved, (2, 2, 2, 2), mode="replicate"), 5, 1)
        moved = torch.lerp(moved, soft, self.uniform(0, 1, 1, 1, 1).square())
        if self.strength > 1:
            moved = self._hide(self._tint(moved))
        noise = torch.randn(moved.shape, generator=self.generator, device=moved.device)
        bright = self.uniform(0.85, 1.1, 1, 1, 1)
        return (moved * bright + noise * self.uniform(0, 0.08 * self.strength, 1, 1, 1)).clamp(-1, 1)

    def _move(self, pictures: torch.Tensor) -> torch.Tensor:
        """Turn, scale and shift."""
        reach = 0.1 * self.strength
        theta = torch.zeros(self.count, 2, 3, device=pictures.device)
        scale, tilt = self.uniform(1 - reach, 1 + 1.3 * reach), self.uniform(-1.2 * reach, 1.2 * reach)
        squeeze = self.uniform(1 - reach / 2, 1 + reach / 2)
        theta[:, 0, 0], theta[:, 1, 1] = scale * squeeze, scale / squeeze
        theta[:, 0, 1], theta[:, 1, 0] = tilt, -tilt
        theta[:, :, 2] = self.uniform(-reach, reach, 2) * 0.7
        grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
        return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)

    def _tint(self, pictures: torch.Tensor) -> torch.Tensor:
        """Rotate all hues about the grey axis for half of the pictures, fade colours, change contrast."""
        angle = self.uniform(-math.pi, math.pi) * (self.uniform(0, 1) < 0.5)
        cosine, sine = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
        grey = torch.full((3, 3), 1 / 3, device=pictures.device)
        unit = torch.eye(3, device=pictures.device)
        cross = (unit.roll(1, 0) - unit.roll(-1, 0)) / math.sqrt(3)  # k x v for k along grey (Rodrigues)
        turn = cosine * unit + (1 - cosine) * grey + sine * cross
        fade = self.uniform(-0.4, 1.1, 1, 1).clamp(min=0)
        turn = fade * turn + (1 - fade) * grey
        return torch.einsum("bij,bjhw->bihw", turn, pictures) * self.uniform(0.6, 1.2, 1, 1, 1)

    def _hide(self, pictures: torch.Tensor) -> torch.Tensor:
        """Cover one rectangle of each picture with a plain colour."""
        line = torch.linspace(0, 1, pictures.shape[-1], device=pictures.device)
        spans = []
        for _ in range(2):
            start, length = self.uniform(-0.2, 1, 1), self.uniform(0, 0.4, 1)
            spans.append((line > start) & (line < start + length))
        covered = (spans[0][:, None, :, None] & spans[1][:, None, None, :]).float()
        return torch.lerp(pictures, self.uniform(-1, 1, 3, 1, 1).expand_as(pictures), covered)


def train(data: Lessons, settings: Settings, run: Run) -> bool:
    """Leave a checkpoint; True when the last step is done."""
    sizes = settings.sizes
    model = nets.seeded(lambda: Judge(sizes, data.concepts, data.styles), settings.seed).to(run.device)
    batch, kinds = settings.judge.batch, data.ids.shape[1]
    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda")
    embed = torch.compile(model) if settings.compiled else model
    half = batch // 2
    target = torch.arange(half, device=run.device)

    def loss(generator: torch.Generator) -> torch.Tensor:
        where = {"generator": generator, "device": run.device}
        rows = torch.randint(len(data.pictures), (batch,), **where)
        ids = data.ids[rows, torch.randint(kinds, (batch,), **where)].long()
        clean = data.pictures[rows].float() / 127.5 - 1
        mild = Disturber(generator, half, 1.0)(clean[:half])
        strong = Disturber(generator, batch - half, 3.0)(clean[half:])
        with autocast:
            seen, told = embed(torch.cat([mild, strong]), ids[:half])
        logits = seen[:half] @ told.T * model.logit_scale.clamp(max=4.6).exp()
        matched = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        scores = SHARPNESS * seen @ F.normalize(model.concept, dim=-1).T
        named = F.cross_entropy(scores, data.concept[rows], label_smoothing=0.05)
        drawn = F.cross_entropy(model.style(seen[:half] * 8), data.style[rows[:half]])
        return matched + CONCEPT_WEIGHT * named + STYLE_WEIGHT * drawn

    return Fit(model, loss, settings.judge, run).go()


@torch.no_grad()
def finish(data: Lessons, library: Library, settings: Settings, run: Run) -> Path:
    """Write the averaged weights in fp16, and the gallery: the mean embedding of every concept and style."""
    model = Judge(settings.sizes, data.concepts, data.styles)
    path = run.folder / "judge.safetensors"
    nets.save_half(averaged(model, run.folder), path)
    model = nets.load_half(model, path).to(run.device).eval()
    seen = []
    for start in range(0, len(library.concept), 256):
        pictures = torch.from_numpy(on_white(library.pixels[start : start + 256])).to(run.device)
        values = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        seen.append(F.normalize(model.vision(pixel_values=values).image_embeds.float(), dim=-1))
    found = torch.cat(seen).cpu()
    gallery = {
        "concepts": _means(found, library.concept, data.concepts),
        "styles": _means(found, library.style, data.styles),
    }
    nets.save_half(gallery, run.folder / "gallery.safetensors")
    return path


def _means(found: torch.Tensor, groups: np.ndarray, count: int) -> torch.Tensor:
    """Normalised mean of the rows (N, E) of each group: (count, E)."""
    sums = torch.zeros(count, found.shape[1]).index_add_(0, torch.from_numpy(groups).long(), found)
    return F.normalize(sums, dim=-1)


def export(settings: Settings, weights: Path, words: Path, out: Path) -> None:
    """Write the two towers as a CLIPModel folder with processor and tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    sizes = settings.sizes
    state = {k: v.float() for k, v in load_file(weights).items()}
    vision = {k.removeprefix("vision."): v for k, v in state.items() if k.startswith("vision.")}
    text = {k.removeprefix("text."): v for k, v in state.items() if k.startswith("text.")}
    depth = len({k.split(".")[3] for k in text if ".layers." in k})
    config = CLIPConfig(
        vision_config=vision_config(sizes),
        text_config=text_config(sizes.vocabulary, sizes.judge_text_width, depth, sizes.judge_embedding),
        projection_dim=sizes.judge_embedding,
    )
    model = CLIPModel(config)
    model.load_state_dict({**vision, **text, "logit_scale": state["logit_scale"]}, strict=True)
    model.half().save_pretrained(out)
    plain_dtype(out / "config.json")
    half, size = [0.5, 0.5, 0.5], {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=half, image_std=half)
    processor.save_pretrained(out)
    CLIPTokenizer.from_pretrained(words).save_pretrained(out)
    shutil.copy(weights.with_name("gallery.safetensors"), out)


def text_config(vocabulary: int, width: int, layers: int, projection: int) -> dict[str, Any]:
    """Arguments of CLIPTextConfig for a `TextTower`."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": CONTEXT,
        "projection_dim": projection,
        "hidden_act": "quick_gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def plain_dtype(config: Path) -> None:
    """Say float32 over fp16 files: transformers builds a model in the dtype its config names, diffusers does not."""
    text = config.read_text().replace('"float16"', '"float32"')
    config.write_text(text)
