"""The micro-batches of a run: which examples, noise and timesteps a step sees, as a function of seed and step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import seeds
from ..config import Config
from . import buckets
from .buckets import Size
from .dataset import Example, TokenIds, Variants
from .families import Embedding, Objective


@dataclass(frozen=True)
class Batch:
    """A micro-batch on the device; class examples, if any, follow the instance examples."""

    latents: Tensor
    """(B, C, h, w) float32"""
    noise: Tensor
    """(B, C, h, w) float32"""
    timesteps: Tensor
    """(B,) int64"""
    tokens: Tensor | None
    """(B, L, D), unless the text encoders are trained"""
    pooled: Tensor | None
    """(B, P), on the same condition, in families that have it"""
    framing: Tensor
    """(B, 6)"""
    weights: Tensor
    """(B,): the pictures' own for instances, prior.weight for class examples."""
    count: float
    """Instances in it."""
    ids: Tensor | None = None
    """(B, E, L) or (B, E, n, L) int64: the captions, where the text encoders are trained."""
    caption_kept: Tensor | None = None
    """(B,) bool: whether the caption is seen; None where all are, or where silence stands in its place already."""
    mask: Tensor | None = None
    """(B, 1, h, w) float32, 0 to 1: where the loss counts; None in sets without any mask."""


class Examples(Protocol):
    """What a :class:`.dataset.Dataset` is to the batches."""

    instances: list[Variants]
    classes: dict[Size, list[Variants]]
    sizes: tuple[Size, ...]

    @property
    def silence(self) -> Embedding | TokenIds | None:
        """What takes the place of a dropped caption; None where that is zeros."""
        ...


class Batches:
    """Micro-batches of a dataset, on ``device``; framing is of ``dtype``.

    With ``data.buckets`` one holds pictures of one size; class pictures have examples of every size.
    """

    def __init__(self, data: Examples, cfg: Config, objective: Objective, device: torch.device, dtype: torch.dtype):
        self.data, self.cfg, self.objective, self.device, self.dtype = data, cfg, objective, device, dtype
        self.buckets = buckets.Batches(data.sizes, cfg.train.batch, cfg.seed) if cfg.data.buckets else None

    def at(self, step: int, micro: int) -> Batch:
        """Micro-batch ``micro`` of ``step``: pictures by epoch in a drawn order; crop, noise and timestep drawn."""
        cfg = self.cfg
        number = step * cfg.train.accumulate * cfg.train.gpus + micro
        chosen = self._instances(number)
        instances = len(chosen)
        if self.data.classes:
            position = number * cfg.train.batch
            chosen += self._in_order(self.data.classes[chosen[0].size], position, cfg.train.batch, "class")
        generator = seeds.generator(cfg.seed, step, f"noise {micro}")
        shape = (len(chosen), *chosen[0].mean.shape)
        vae_noise, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        offset = torch.randn((*shape[:2], 1, 1), generator=generator)
        timesteps = self.objective.drawn_timesteps(len(chosen), generator)
        noise = self.objective.shifted(noise, offset)
        weights = torch.tensor([example.weight for example in chosen])
        weights[instances:] = cfg.prior.weight
        caption_kept = None
        if cfg.data.caption_dropout:
            caption_kept = torch.rand(len(chosen), generator=generator) >= cfg.data.caption_dropout
            caption_kept[instances:] = True
        return self.collate(chosen, vae_noise, noise, timesteps, weights, caption_kept)

    def _instances(self, number: int) -> list[Example]:
        position = number * self.cfg.train.batch
        if self.buckets is None:
            return self._in_order(self.data.instances, position, self.cfg.train.batch, "instance")
        pictures = [self.data.instances[index] for index in self.buckets.at(number)]
        return [self._variant(picture, position + i, "instance") for i, picture in enumerate(pictures)]

    def _in_order(self, pictures: list[Variants], position: int, count: int, name: str) -> list[Example]:
        """``count`` pictures from ``position`` on in an endless sequence of shuffled epochs, one crop of each."""
        chosen = []
        for place in range(position, position + count):
            epoch, index = divmod(place, len(pictures))
            order = torch.randperm(len(pictures), generator=seeds.generator(self.cfg.seed, epoch, f"order {name}"))
            chosen.append(self._variant(pictures[int(order[index])], place, name))
        return chosen

    def _variant(self, variants: Variants, place: int, name: str) -> Example:
        return variants[seeds.number(self.cfg.seed, place, f"crop of {name}") % len(variants)]

    def collate(
        self, examples: list[Example], vae_noise: Tensor, noise: Tensor, timesteps: Tensor, weights: Tensor,
        caption_kept: Tensor | None = None,
    ) -> Batch:  # fmt: skip
        """A micro-batch of examples with what was drawn for them, (B, ...) on the CPU; the batch is on the device."""
        mean, std = torch.stack([e.mean for e in examples]), torch.stack([e.std for e in examples])
        framing = torch.tensor([e.framing for e in examples], dtype=self.dtype)
        captions = [e.embedding for e in examples]
        if caption_kept is not None and self.data.silence is not None:
            kept, silence = caption_kept.tolist(), self.data.silence
            captions = [caption if keep else silence for caption, keep in zip(captions, kept, strict=True)]
            caption_kept = None
        read = [caption for caption in captions if isinstance(caption, Embedding)]
        masks = stacked([e.mask for e in examples if e.mask is not None])
        return Batch(
            latents=self._moved(mean + std * vae_noise),
            noise=self._moved(noise),
            timesteps=self._moved(timesteps),
            tokens=stacked([caption.tokens for caption in read]),
            pooled=stacked([caption.pooled for caption in read if caption.pooled is not None]),
            framing=self._moved(framing),
            weights=self._moved(weights),
            count=float(self.cfg.train.batch if self.data.classes else len(examples)),
            ids=stacked([caption.ids for caption in captions if isinstance(caption, TokenIds)]),
            caption_kept=None if caption_kept is None else self._moved(caption_kept),
            mask=masks if masks is None else self._moved(masks),
        )

    def _moved(self, tensor: Tensor) -> Tensor:  # from pinned memory CUDA copies without making the CPU wait
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def stacked(tensors: list[Tensor]) -> Tensor | None:
    """In a new first dimension; None if there are none."""
    return torch.stack(tensors) if tensors else None
