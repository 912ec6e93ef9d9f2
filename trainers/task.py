"""What the loop needs to know of a kind of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lowrank_diffusion.adapters import AdaptedLayer


class Task(Protocol):
    """A model with adapters, and its data, loss, samples and files. Everything is a function of (seed, step)."""

    model: nn.Module
    layers: list[AdaptedLayer]

    def content(self) -> dict[str, Any]:
        """Digests of what is learnt: {"pictures" or "rows": {name: digest}, "encoded": digest of them all}."""
        ...

    def batch(self, step: int, micro: int) -> Any:
        """The micro-batch ``micro`` of the accumulation window of ``step``, on the device."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, float]:
        """(contributions (B,), count): the step's loss is the sum of contributions over the sum of counts."""
        ...

    def validate(self) -> float | None:
        """Loss on held-out data at fixed draws; None without such data."""
        ...

    def sample(self, step: int) -> list[tuple[str, Path]]:
        """Draw samples into the run's folder: (prompt, path) of each."""
        ...

    def export(self, folder: Path, step: int, loss: float | None) -> list[Path]:
        """Write the adapter's files into ``folder``."""
        ...
