"""What a run learns from: pictures and class pictures as examples, made once before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import seeds
from ..config import Config
from ..errors import DataError
from ..metadata import Pictures
from . import buckets, cache, crops, model, prior
from .buckets import Size
from .crops import Crop
from .data import Picture, content_key
from .families import Embedding
from .model import Base, Progress


@dataclass(frozen=True)
class TokenIds:
    """A prompt as text encoders read it while they are trained."""

    ids: Tensor
    """(E, L) int64, on the device: for each encoder; with data.caption_chunks (E, n, L)."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there is of it."""
        return (self.ids,)


Prompts = dict[str, Embedding | TokenIds]
"""On the device: as the denoiser reads them, or as text encoders in training do."""


@dataclass(frozen=True)
class Example:
    """One crop as the loss needs it.

    Latents wait in main memory: class pictures in all buckets would take hundreds of MiB of a small GPU.
    """

    mean: Tensor
    """(C, h, w) float32: mean of the latent distribution, on the CPU."""
    std: Tensor
    """(C, h, w) float32, on the CPU."""
    embedding: Embedding | TokenIds
    """On the device."""
    framing: tuple[int, ...]
    """See :attr:`.crops.Crop.framing`."""

    @property
    def size(self) -> Size:
        """(width, height) of the crop, pixels."""
        return self.framing[5], self.framing[4]


Variants = list[Example]
"""One picture: its crops; a step takes one of them."""


class Dataset:
    """Examples of a run's pictures.

    Args:
        base: whose VAE and text encoders make them, and are let go again.
        cfg: the run's settings.
        instance: the pictures of ``data.instance``.
        progress: called while something takes long.

    Raises:
        DataError, ConfigError, ModelError: something about the pictures, the settings or the base cannot be used.
    """

    def __init__(self, base: Base, cfg: Config, instance: list[Picture], progress: Progress):
        self.base, self.cfg = base, cfg
        pictures, held_out = split(instance, cfg)
        self.side = cfg.data.resolution or base.native_size()
        sizes, held_out_sizes = self._sizes(pictures), self._sizes(held_out)
        if cfg.data.buckets:
            progress(f"Buckets: {buckets.describe(sizes)}", 1, 1)
        self.sizes = tuple(sizes)
        class_pictures = prior.pictures(base, cfg, self.side, progress)
        self.marks = {"pictures": marks(pictures), "class pictures": marks(class_pictures)}
        captions, place, other = [p.caption for p in pictures], Path(cfg.data.instance), Path(cfg.prior.pictures)
        self.trained_on = Pictures(captions, len(class_pictures), place.name, other.name, sizes)
        # A class picture is seen beside instances of any size, in one forward pass with them.
        class_sizes = sorted(set(sizes)) if class_pictures else []
        groups = [crops.fit(pictures, sizes, cfg.data, cfg.seed)]
        groups += [crops.fit(class_pictures, [size] * len(class_pictures), cfg.data, cfg.seed) for size in class_sizes]
        groups += [crops.fit(held_out, held_out_sizes, cfg.data, cfg.seed)]
        # Every prompt and every crop that will ever be seen: the VAE can go, and frozen text encoders too.
        self.prompts = self.embeddings(self._texts(groups), progress)
        self.instances, *classes, self.held_out = self.examples(groups, progress)
        self.classes = dict(zip(class_sizes, classes, strict=True))

    def _sizes(self, pictures: list[Picture]) -> list[Size]:
        """At which size each picture is seen. Raises ConfigError."""
        if not self.cfg.data.buckets:
            return [(self.side, self.side)] * len(pictures)
        table = buckets.table(self.cfg.data, self.side)
        return [buckets.nearest(picture.width, picture.height, table) for picture in pictures]

    def _texts(self, groups: list[list[list[Crop]]]) -> list[str]:
        sample = self.cfg.sample
        texts = [crop.caption for group in groups for picture in group for crop in picture]
        texts += [*sample.prompts, sample.negative] if sample.prompts else []
        return texts + ([""] if self._reads_silence else [])

    @property
    def _reads_silence(self) -> bool:
        return bool(self.cfg.data.caption_dropout) and not self.base.family.silence_is_zero

    @property
    def silence(self) -> Embedding | TokenIds | None:
        """What takes the place of a dropped caption; None where that is zeros, or none is dropped."""
        return self.prompts[""] if self._reads_silence else None

    def embeddings(self, prompts: list[str], progress: Progress) -> Prompts:
        """Prompts on the base's device."""
        family, base, chunks = self.base.family, self.base, self.cfg.data.caption_chunks
        if self.cfg.adapter.text_encoders != "none":
            tokenizers = [base.part(name) for name in family.tokenizers]
            ids = family.network().tokenise(tokenizers, prompts, chunks)
            return {prompt: TokenIds(tensor.to(base.device)) for prompt, tensor in ids.items()}
        read = model.embed(base, prompts, progress, chunks)
        to = {"device": base.device, "dtype": base.dtype}
        return {prompt: Embedding(*(tensor.to(**to) for tensor in e.tensors)) for prompt, e in read.items()}

    def examples(self, groups: list[list[list[Crop]]], progress: Progress) -> list[list[Variants]]:
        """Crops, grouped as they are, with their latents and their captions of ``prompts``."""
        flat = [crop for group in groups for picture in group for crop in picture]
        latents = iter(model.encode(self.base, flat, self.cfg.data, progress))

        def example(crop: Crop) -> Example:
            latent = next(latents)
            return Example(latent["mean"], latent["std"], self.prompts[crop.caption], crop.framing)

        return [[[example(crop) for crop in picture] for picture in group] for group in groups]

    def tensors(self) -> Iterator[Tensor]:
        """What VAE and text encoders made of everything that is trained on."""
        for group in (self.instances, *self.classes.values()):
            for example in (example for variants in group for example in variants):
                yield from (example.mean, example.std, *example.embedding.tensors)


def marks(pictures: list[Picture]) -> dict[str, str]:
    """A digest of each picture's file and caption, 16 hex digits, by its name."""
    return {p.path.name: cache.key(content_key(p.path), p.caption)[:16] for p in pictures}


def split(pictures: list[Picture], cfg: Config) -> tuple[list[Picture], list[Picture]]:
    """(training, held out): ``validation.holdout`` pictures drawn by the seed. Raises DataError if none is left."""
    if obstacle := cfg.validation.obstacle(len(pictures), "pictures"):
        raise DataError([f"validation.holdout: {obstacle}"])
    order = torch.randperm(len(pictures), generator=seeds.generator(cfg.seed, 0, "holdout")).tolist()
    held_out = set(order[: cfg.validation.holdout])
    return (
        [picture for index, picture in enumerate(pictures) if index not in held_out],
        [picture for index, picture in enumerate(pictures) if index in held_out],
    )
