"""What a person asks a pipeline to draw, and what comes back; no torch here, so that the app can speak of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import BaseModelConfig


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter file (diffusers or kohya safetensors) and how strongly it acts."""

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
