"""What a run learns from: pictures and class pictures as examples, made once before the first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .. import datasets, seeds
from ..config import Config
from ..errors import DataError
from ..metadata import Pictures
from . import buckets, cache, crops, masks, model, prior
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
    weight: float = 1.0
    """Factor of its loss."""
    mask: Tensor | None = None
    """(1, h, w) float32, 0 to 1, on the CPU: where the loss counts; None in sets without any mask."""

    @property
    def size(self) -> Size:
        """(width, height) of the crop, pixels."""
        return self.framing[5], self.framing[4]


T = TypeVar("T")
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
        # Where nothing is masked, batches have no masks and steps no more to do.
        self.masked = cfg.loss.mask_outside < 1 and any(picture.mask for picture in instance)
        self.side = cfg.data.resolution or base.native_size()
        sizes, held_out_sizes = self._sizes(pictures), self._sizes(held_out)
        if cfg.data.buckets:
            progress(f"Buckets: {buckets.describe(sizes)}", 1, 1)
        class_pictures = prior.pictures(base, cfg, self.side, progress)
        place, other = Path(cfg.data.instance), Path(cfg.prior.pictures)
        self.marks = {"pictures": marks(pictures, place), "class pictures": marks(class_pictures, other)}
        captions, repeats = [p.caption for p in pictures], [p.repeats for p in pictures]
        self.trained_on = Pictures(
            captions, len(class_pictures), datasets.title(place), datasets.title(other), sizes, repeats
        )
        # A class picture is seen beside instances of any size, in one forward pass with them.
        class_sizes = sorted(set(sizes)) if class_pictures else []
        groups = [crops.fit(pictures, sizes, cfg.data, cfg.seed)]
        groups += [crops.fit(class_pictures, [size] * len(class_pictures), cfg.data, cfg.seed) for size in class_sizes]
        groups += [crops.fit(held_out, held_out_sizes, cfg.data, cfg.seed)]
        # Every prompt and every crop that will ever be seen: the VAE can go, and frozen text encoders too.
        self.prompts = self.embeddings(self._texts(groups), progress)
        each, *classes, self.held_out = self.examples(groups, progress)
        self.classes = dict(zip(class_sizes, classes, strict=True))
        # An epoch is a drawn order of this list: a picture stands in it as often as an epoch sees it.
        self.instances = repeated(each, repeats)
        self.sizes = tuple(repeated(sizes, repeats))

    def _sizes(self, pictures: list[Picture]) -> list[Size]:
        """At which size each picture is seen. Raises ConfigError."""
        return buckets.sizes([picture.seen for picture in pictures], self.cfg.data, self.side)

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
        of_crops = iter(self._masks(flat))
        latents = iter(model.encode(self.base, flat, self.cfg.data, progress))

        def example(crop: Crop) -> Example:
            latent, caption = next(latents), self.prompts[crop.caption]
            return Example(latent["mean"], latent["std"], caption, crop.framing, crop.weight, next(of_crops))

        return [[[example(crop) for crop in picture] for picture in group] for group in groups]

    def _masks(self, flat: list[Crop]) -> list[Tensor | None]:
        """(1, h, w) for each crop: ones for a picture without a mask; None if no picture has one.

        Raises:
            DataError: masks that leave nothing to learn, so that the loss would be a division by zero.
        """
        if not self.masked:
            return [None] * len(flat)
        factor = self.base.pixels_of_latent()
        of_crops = [_mask(crop, (crop.target[0] // factor, crop.target[1] // factor)) for crop in flat]
        empty = [crop.path for crop, mask in zip(flat, of_crops, strict=True) if float(mask.max()) < masks.EMPTY]
        if empty and not self.cfg.loss.mask_outside:
            raise DataError([crops.refusal(path) for path in dict.fromkeys(empty)])
        return list(of_crops)

    def tensors(self) -> Iterator[Tensor]:
        """What VAE and text encoders made of everything that is trained on."""
        seen: set[int] = set()
        for group in (self.instances, *self.classes.values()):
            for example in (example for variants in group for example in variants if id(example) not in seen):
                seen.add(id(example))
                yield from (example.mean, example.std, *example.embedding.tensors)


def _mask(crop: Crop, size: Size) -> Tensor:
    """(1, h, w) float32, 0 to 1, for latents of ``size`` (width, height)."""
    mask = crop.masked(size)
    if mask is None:
        return torch.ones(1, size[1], size[0])
    return torch.from_numpy(np.array(mask, dtype=np.float32) / 255)[None]


def repeated(items: Sequence[T], repeats: Sequence[int]) -> list[T]:
    """Each of the items as often as its number says, one after the other."""
    return [item for item, count in zip(items, repeats, strict=True) for _ in range(count)]


def marks(pictures: list[Picture], folder: Path) -> dict[str, str]:
    """What a run would repeat of each picture, by its name, from ``folder`` on where several have one name.

    A digest of file and caption, 16 hex digits; apart from it, and only where the picture has such a thing, its mask's
    digest, its frame, repeats and weight, so that what has changed can be named.
    """
    known: dict[str, str] = {}
    names = Counter(p.path.name for p in pictures)
    for p in pictures:
        twice = names[p.path.name] > 1 and p.path.is_relative_to(folder)
        name = p.path.relative_to(folder).as_posix() if twice else p.path.name
        known[name] = cache.key(content_key(p.path), p.caption)[:16]
        columns = {"repeats": p.repeats, "weight": p.weight, "frame": p.frame}
        usual = {"repeats": 1, "weight": 1.0, "frame": None}
        known |= {f"{name} ({key})": str(value) for key, value in columns.items() if value != usual[key]}
        if p.mask:
            known[f"{name} (mask)"] = "alpha" if p.mask == p.path else content_key(p.mask)[:16]
    return known


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
