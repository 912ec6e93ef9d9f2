"""What is known of each optimiser without torch: what it keeps in memory, what it needs, and whether it is captured.

How one is made is in ``trainers/optim.py``; a test compares both with the values of ``optimizer.name``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """A row of :data:`OPTIMIZERS`."""

    name: str
    """The value of ``optimizer.name``."""
    state_bytes: float
    """Bytes that it keeps for each trained number, beside the number and its gradient."""
    captured: bool = False
    """Whether a CUDA graph can hold its update."""
    package: str = ""
    """The package that has to be installed for it; empty: torch is enough."""


OPTIMIZERS = {
    row.name: row
    for row in (
        Optimizer("adamw", 8.0, captured=True),
        Optimizer("adamw8bit", 2.04, package="bitsandbytes"),
        Optimizer("prodigy", 16.0, package="prodigyopt"),
        Optimizer("adafactor", 0.1),
    )
}
