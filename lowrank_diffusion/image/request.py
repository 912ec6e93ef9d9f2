"""What a person asks a pipeline to draw, and what comes back; no torch here, so that the app can speak of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..config import BaseModelConfig, Problem
from . import samplers

LIMITS = {
    "count": (1, 64),
    "steps": (1, 200),
    "seed": (0, 2**32 - 1),
    "guidance": (0, 30),
    "width": (64, 4096),
    "height": (64, 4096),
    "change": (0.01, 1),
}
"""Smallest and largest value of every number of a request; the sides are multiples of 8, all but two whole."""
REAL = ("guidance", "change")
"""Those two."""


def violation(name: str, value: Any) -> str:
    """The rule of ``LIMITS`` that a value breaks, for a person to read; empty if none."""
    low, high = LIMITS[name]
    kinds = (int, float) if name in REAL else (int,)
    if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
        kind = "a number" if name in REAL else "a whole number"
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
    sampler: str = samplers.OWN
    """A name of ``samplers.SAMPLERS``; empty: the base's own."""
    start: str | None = None
    """A picture's file that is changed, in place of pure noise; its sides are then the default."""
    change: float = 0.75
    """How much of it, the strength of denoising of SDEdit (arXiv 2108.01073): 1 leaves nothing of it."""
    mask: str | None = None
    """A picture of the start's size: where it is white, and only there, the start is changed."""
    compare: bool = False
    """Draw each seed with the base alone as well."""
    device: str = "auto"
    precision: str = "auto"


def drawn_steps(request: DrawRequest) -> int:
    """How many denoising steps a picture takes: a start picture leaves out the first ones."""
    return int(request.steps * request.change) if request.start else request.steps


def problems(request: DrawRequest, dashes: str = "") -> list[Problem]:
    """What of a request does not go together, by the names of its fields; ``dashes`` are written before them."""
    wrong = []
    if rule := samplers.problem(request.sampler):
        wrong.append(Problem(f"{dashes}sampler", rule))
    if request.mask and not request.start:
        wrong.append(Problem(f"{dashes}mask", "needs a start picture, whose size it has."))
    if request.start and not violation("change", request.change) and drawn_steps(request) < 1:
        least = f"Take at least {1 / request.steps:.3g}, or more steps."
        rule = f"{request.change:g} of {request.steps} steps is not one step."
        wrong.append(Problem(f"{dashes}change", rule, least))
    return wrong


def facts(request: DrawRequest, seed: int, adapted: bool) -> dict[str, Any]:
    """What one picture was drawn from: every field of the request, with its own seed and what was in effect."""
    values = asdict(request) | {"seed": seed, "count": 1, "adapted": adapted, "base": request.base.model_dump()}
    values["adapters"] = [asdict(choice) for choice in request.adapters] if adapted else []
    values.pop("compare")
    return values


def from_facts(values: Mapping[str, Any]) -> DrawRequest:
    """The request that :func:`facts`, or ``asdict``, tells of. Raises ValueError for one that none of ours wrote."""
    fitting = {part.name: values[part.name] for part in fields(DrawRequest) if part.name in values}
    numbers = {name: fitting[name] for name in LIMITS if fitting.get(name) is not None}
    sound = not any(violation(name, value) for name, value in numbers.items())
    texts = [fitting.get(name) for name in ("prompt", "negative", "sampler", "start", "mask", "device", "precision")]
    if not sound or not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError("it holds what no request has")
    try:
        adapters = tuple(AdapterChoice(str(item["path"]), float(item["strength"])) for item in fitting["adapters"])
        return DrawRequest(**fitting | {"base": BaseModelConfig.model_validate(fitting["base"]), "adapters": adapters})
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is not whole: {error}") from None


class DrawCancelled(Exception):
    """The person asked to stop drawing."""


def leave_out_quantisation() -> None:
    """For a process without quantised weights: keep diffusers and PEFT from importing bitsandbytes, a second or two.

    To be called before diffusers is imported. A module that is None counts as not installed.
    """
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
