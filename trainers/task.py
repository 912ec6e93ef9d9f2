"""What the loop needs to know of a kind of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from lowrank_diffusion.adapters import AdaptedLayer

Counted = Callable[[int, int], None]
"""Hears how many of how many are done."""


def uncounted(_done: int, _total: int) -> None:
    """Nobody wants to know."""


class Batch(Protocol):
    """A micro-batch: a dataclass, whose tensors a captured step copies into those that its graphs read."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def count(self) -> float:
        """Examples, or targets, in it: a step's loss is the sum of its losses over the sum of these."""
        ...


class Task(Protocol):
    """A model with adapters, and its data, loss, samples and files. Everything is a function of (seed, step)."""

    model: nn.Module
    layers: list[AdaptedLayer]

    def content(self) -> dict[str, Any]:
        """Digests of what is learnt: {"pictures" or "rows": {name: digest}, "encoded": digest of them all}."""
        ...

    def batch(self, step: int, micro: int) -> Batch:
        """The micro-batch ``micro`` of the accumulation window of ``step``, on the device."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, float]:
        """(contributions (B,), count): the step's loss is the sum of contributions over the sum of counts."""
        ...

    def validate(self, progress: Counted = uncounted) -> float | None:
        """Loss on held-out data at fixed draws; None without such data."""
        ...

    def sample(self, step: int, prompts: tuple[str, ...] = (), progress: Counted = uncounted) -> list[tuple[str, Path]]:
        """Draw samples of ``prompts``, or of the run's own, into its folder: (prompt, path) of each."""
        ...

    def export(self, folder: Path, step: int, loss: float | None) -> list[Path]:
        """Write the adapter's files into ``folder``."""
        ...
