"""What a person asks a pipeline to draw, and what comes back; no torch here, so that the app can speak of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from ..config import BaseModelConfig

LIMITS = {
    "count": (1, 64),
    "steps": (1, 200),
    "seed": (0, 2**32 - 1),
    "guidance": (0, 30),
    "width": (64, 4096),
    "height": (64, 4096),
}
"""Smallest and largest value of every number of a request; the sides are multiples of 8, all but guidance whole."""


def violation(name: str, value: Any) -> str:
    """The rule of ``LIMITS`` that a value breaks, for a person to read; empty if none."""
    low, high = LIMITS[name]
    kinds = (int, float) if name == "guidance" else (int,)
    if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
        kind = "a number" if name == "guidance" else "a whole number"
        return f"must be {kind} from {low} to {high}, got {value}."
    if name in ("width", "height") and value % 8:
        return f"must be a multiple of 8, got {value}. Take {value // 8 * 8}."
    return ""


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter's file or folder, of any program, and how strongly it acts."""

    path: str
    strength: float = 1.0


@dataclass(frozen=True)
class DrawRequest:
    """One batch of pictures; picture i uses seed + i."""

    prompt: str
    base: BaseModelConfig = field(default_factory=BaseModelConfig)
    adapters: tuple[AdapterChoice, ...] = ()
    negative: str = ""
    seed: int = 0
    count: int = 1
    steps: int = 20
    guidance: float = 5.0
    width: int | None = None
    """Pixels; None: the base's own size."""
    height: int | None = None
    compare: bool = False
    """Draw each seed with the base alone as well."""
    device: str = "auto"
    precision: str = "auto"


class DrawCancelled(Exception):
    """The person asked to stop drawing."""


def leave_out_quantisation() -> None:
    """For a process that only draws: keep diffusers from importing bitsandbytes, two seconds before the first picture.

    To be called before diffusers is imported. A module that is None counts as not installed.
    """
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
