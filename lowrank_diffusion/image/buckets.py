"""Aspect-ratio buckets: each picture at a size near its own shape, batches of one size (arXiv 2307.01952, appendix I).

A size is (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from .. import seeds
from ..config import ConfigError, DataConfig, Problem

Size = tuple[int, int]


def table(cfg: DataConfig, resolution: int) -> list[Size]:
    """The sizes that pictures are trained at, from narrow to wide.

    Sides are multiples of ``data.bucket_step``; of each length on one side the longest other side that keeps the area
    within ``resolution`` squared; no longer than ``data.max_aspect`` times wide, or the other way round. The square is
    always there. At 1024 with steps of 64 all of them are in the paper's table.

    Raises:
        ConfigError: only the square is left.
    """
    step, area = cfg.bucket_step, resolution**2
    square = resolution // step * step
    sizes: set[Size] = {(square, square)} if square else set()
    for side in range(step, area // step + 1, step):
        other = area // side // step * step
        if max(side, other) <= cfg.max_aspect * min(side, other):
            sizes |= {(side, other), (other, side)}
    if len(sizes) < 2:
        rule = f"must leave more than the square at {resolution} px and data.max_aspect={cfg.max_aspect:g}, got {step}."
        hint = f"Take {max(8, resolution // 64 * 8)} or less, a larger data.max_aspect, or data.buckets=false."
        raise ConfigError([Problem("data.bucket_step", rule, hint)])
    return sorted(sizes, key=lambda size: (size[0] / size[1], size[0]))


def nearest(width: int, height: int, sizes: list[Size]) -> Size:
    """The size whose aspect ratio is nearest, as a factor; of equals the one with the most pixels."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), -size[0] * size[1]))


def sizes(shapes: list[Size], cfg: DataConfig, native: int) -> list[Size]:
    """At which size each picture of these shapes is seen by a base of ``native`` pixels a side. Raises ConfigError."""
    side = cfg.resolution or native
    if not cfg.buckets:
        return [(side, side)] * len(shapes)
    known = table(cfg, side)
    return [nearest(width, height, known) for width, height in shapes]


def describe(sizes: list[Size]) -> str:
    """How many pictures have which size: '832x1216: 3, 1024x1024: 5'."""
    counts = sorted(Counter(sizes).items(), key=lambda item: item[0][0] / item[0][1])
    return ", ".join(f"{width}x{height}: {count}" for (width, height), count in counts)


@dataclass(frozen=True)
class Batches:
    """An endless sequence of batches, each of pictures of one size; a function of the seed and the number only.

    An epoch shuffles the pictures of every bucket, cuts them into batches and shuffles the batches. All batches have
    the same number of pictures, because a captured CUDA graph has one shape: the last one of a bucket is filled up
    with pictures that its bucket began the epoch with. So an epoch shows every picture at least once, and a few twice;
    only a bucket of fewer pictures than a batch repeats them within one.
    """

    sizes: tuple[Size, ...]
    """Of every picture."""
    batch: int
    """Pictures per batch."""
    seed: int

    def at(self, number: int) -> list[int]:
        """Which pictures are in batch ``number``, counted from 0 over all epochs."""
        epoch, index = divmod(number, self.per_epoch)
        return self._epoch(epoch)[index]

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return sum(math.ceil(len(members) / self.batch) for members in self._buckets.values())

    @cached_property
    def _buckets(self) -> dict[Size, list[int]]:
        return {size: [i for i, other in enumerate(self.sizes) if other == size] for size in sorted(set(self.sizes))}

    def _epoch(self, epoch: int) -> list[list[int]]:
        batches = []
        for (width, height), members in self._buckets.items():
            order = self._shuffled(members, epoch, f"order of {width}x{height}")
            for start in range(0, len(order), self.batch):
                batches.append([order[place % len(order)] for place in range(start, start + self.batch)])
        return self._shuffled(batches, epoch, "order of batches")

    def _shuffled(self, items: list, epoch: int, name: str) -> list:
        import torch

        order = torch.randperm(len(items), generator=seeds.generator(self.seed, epoch, name))
        return [items[index] for index in order.tolist()]
