"""What the denoising loss works on: examples, made once, and the micro-batches that a step makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank_diffusion import seeds
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import DataError
from lowrank_diffusion.image import cache
from lowrank_diffusion.image.buckets import Size
from lowrank_diffusion.image.data import Picture, content_key
from lowrank_diffusion.image.model import Embedding


@dataclass(frozen=True)
class Words:
    """A prompt as text encoders read it that are trained."""

    ids: Tensor
    """(2, L) int64, on the device: for each encoder; with data.caption_chunks (2, n, L)."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there is of it."""
        return (self.ids,)


@dataclass(frozen=True)
class Example:
    """One crop as the loss needs it.

    Latents wait in main memory: class pictures in all buckets would take hundreds of MiB of a small GPU.
    """

    mean: Tensor
    """(C, h, w) float32: mean of the latent distribution, on the CPU."""
    std: Tensor
    """(C, h, w) float32, on the CPU."""
    embedding: Embedding | Words
    """On the device."""
    time_ids: tuple[int, ...]

    @property
    def size(self) -> Size:
        """(width, height) of the crop, pixels."""
        return self.time_ids[5], self.time_ids[4]


@dataclass(frozen=True)
class Batch:
    """A micro-batch; class examples, if any, follow the instance examples."""

    latents: Tensor
    """(B, C, h, w) float32"""
    noise: Tensor
    """(B, C, h, w) float32"""
    timesteps: Tensor
    """(B,) int64"""
    tokens: Tensor | None
    """(B, L, D), unless the text encoders are trained"""
    pooled: Tensor | None
    """(B, P), likewise"""
    time_ids: Tensor
    """(B, 6)"""
    weights: Tensor
    """(B,): 1 for instances, prior.weight for class examples."""
    count: float
    """Instances in it."""
    ids: Tensor | None = None
    """(B, 2, L) or (B, 2, n, L) int64: the captions, where the text encoders are trained."""
    told: Tensor | None = None
    """(B,) bool, with data.caption_dropout: whether the caption is seen."""


def stacked(tensors: list[Tensor]) -> Tensor | None:
    """In a new first dimension; nothing of nothing."""
    return torch.stack(tensors) if tensors else None


def marks(pictures: list[Picture]) -> dict[str, str]:
    """A digest of each picture's file and caption, 16 hex digits, by its name."""
    return {p.path.name: cache.key(content_key(p.path), p.caption)[:16] for p in pictures}


def split(pictures: list[Picture], cfg: Config) -> tuple[list[Picture], list[Picture]]:
    """(training, held out): ``validation.holdout`` pictures drawn by the seed. Raises DataError if none is left."""
    holdout = cfg.validation.holdout
    if holdout >= len(pictures):
        raise DataError([f"validation.holdout={holdout} leaves none of the {len(pictures)} pictures to train on."])
    order = torch.randperm(len(pictures), generator=seeds.generator(cfg.seed, 0, "holdout")).tolist()
    held_out = set(order[:holdout])
    return (
        [picture for index, picture in enumerate(pictures) if index not in held_out],
        [picture for index, picture in enumerate(pictures) if index in held_out],
    )
