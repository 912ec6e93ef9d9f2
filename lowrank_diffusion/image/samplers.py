"""The ways to draw from a base: by name, as A1111 writes it, the scheduler of diffusers and its settings; no torch.

Here are those that need no further package and keep what a base says of its noise, zero terminal SNR included
(arXiv 2305.08891): a scheduler that does not know that setting would draw from another noise than such a base learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_FREE = {"clip_sample": False}
"""Latents are not pixels: they leave [-1, 1], to which these would cut them where a base does not say otherwise."""
_PLAIN = {"algorithm_type": "dpmsolver++", "use_karras_sigmas": False}

SAMPLERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", _PLAIN),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", _PLAIN | _KARRAS),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", _PLAIN | _SDE),
    "DPM++ 2M SDE Karras": ("DPMSolverMultistepScheduler", _PLAIN | _SDE | _KARRAS),
    "UniPC": ("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
    "DDIM": ("DDIMScheduler", _FREE),
    "DDPM": ("DDPMScheduler", _FREE),
}
OWN = ""
"""Stands for the base's own scheduler."""
_OTHERS = {
    "PNDMScheduler": "PLMS",
    "HeunDiscreteScheduler": "Heun",
    "LMSDiscreteScheduler": "LMS",
    "LCMScheduler": "LCM",
}


def problem(name: str) -> str:
    """What is wrong with the name of a sampler, for a person; empty if nothing."""
    if name == OWN or name in SAMPLERS:
        return ""
    return f"there is no sampler {name[:60]!r}. Take one of: {', '.join(SAMPLERS)}; or none for the base's own."


def title(scheduler: str, settings: Mapping[str, Any]) -> str:
    """What A1111 calls a scheduler class with these settings; the class's own name where it has no other."""
    fitting = [
        name for name, (kind, own) in SAMPLERS.items()
        if kind == scheduler and all(settings.get(key, value) == value for key, value in own.items())
    ]  # fmt: skip
    return fitting[0] if fitting else _OTHERS.get(scheduler, scheduler.removesuffix("Scheduler"))


def made(name: str, own: Any) -> Any:
    """The scheduler of a sampler for a base whose own scheduler is ``own``: its noise stays what the base learnt."""
    if name == OWN:
        return own
    import diffusers  # torch

    kind, settings = SAMPLERS[name]
    return getattr(diffusers, kind).from_config(own.config, **settings)
