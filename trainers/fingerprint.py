"""What a run's bits depend on, kept in its checkpoints: whoever goes on with other pictures or settings is told so.

Everything random is drawn from (seed, step), so a resumed run repeats an undisturbed one to the bit, as long as nothing
else has changed. What has is named; what makes the state meaningless is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_diffusion import devices
from lowrank_diffusion.adapters.kinds import KINDS, foreign
from lowrank_diffusion.config import PATHS
from lowrank_diffusion.marks import listed
from lowrank_diffusion.presets import RENAMED

from .step import Step

MEANINGLESS = (
    "task", "adapter.kind", "adapter.rank", "adapter.alpha", "adapter.targets", "adapter.text_encoders",
    *(f"adapter.{field}" for kind in KINDS.values() for field in kind.fields), "optimizer.name", "base.quantize",
)  # fmt: skip
"""Settings without which an adapter or an optimiser's state says something else."""
_APART = (
    "sample.", "save.", "export.", "text.answers", "text.scored", "train.memory", "train.regroup",
    "validation.every",
)  # fmt: skip
"""Settings that no bit of the training depends on."""
_SAMPLED = 64
"""Values looked at of each frozen tensor: two models that agree in all of them are one."""


@dataclass
class Difference:
    """What is not as it was when a checkpoint was written."""

    refused: list[str] = field(default_factory=list)
    """What makes its state meaningless, each with what to do."""
    noted: list[str] = field(default_factory=list)
    """What only changes how it goes on."""


def of(state: Step) -> dict[str, Any]:
    """A run's, as JSON holds it; made once."""
    if state.fingerprint is None:
        settings = {k: v for k, v in state.cfg.dotted().items() if not k.startswith(_APART) and k not in PATHS}
        facts = {"settings": settings, "machine": _machine(state), "base": _base(state.task.model)}
        state.fingerprint = facts | state.task.content()
    return state.fingerprint


def digest(tensors: Iterable[Tensor]) -> str:
    """Of their values, types and shapes: 16 hex digits."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    """What is different in ``new`` from what a checkpoint kept as ``old``; nothing where it kept nothing."""
    difference = Difference()
    # Earlier releases kept settings of adapter kinds that were not chosen: they had no effect.
    without_effect = {f"adapter.{name}" for name in foreign(str(new["settings"].get("adapter.kind")))}
    for key, was, now in _changed(old, new, "settings"):
        if key in without_effect:
            continue
        if key in MEANINGLESS:
            difference.refused.append(
                f"{key}: is {now} now, and the checkpoint was made with {was}: its state means nothing then. "
                f"Set {key}={was}, or start a new run."
            )
        else:
            difference.noted.append(f"{key} was {was} and is {now}")
    machine = [f"{key} was {was} and is {now}" for key, was, now in _changed(old, new, "machine")]
    if not machine and not difference.refused and old.get("base", new["base"]) != new["base"]:
        difference.refused.append(
            "base.path: the model is another one than the checkpoint was made on. Give the one that was there "
            "before, or start a new run."
        )
    for name in ("pictures", "class pictures", "rows"):
        difference.noted += _data(name, old.get(name) or {}, new.get(name) or {}) if name in old else []
    if not difference.noted and old.get("encoded", "") != new.get("encoded", "") and "encoded" in old:
        difference.noted.append("pictures or captions were encoded anew, with another result")
    difference.noted += machine
    return difference


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], part: str) -> list[tuple[str, Any, Any]]:
    """(key, was, is) of what both have; a setting that one version lacks is at its default in the other."""
    settings: Mapping[str, Any] = old.get(part) or {}
    was, now = {RENAMED.get(key, key): value for key, value in settings.items()}, new[part]
    return [(key, was[key], now[key]) for key in now if key in was and was[key] != now[key]]


def _data(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    one = name.removesuffix("s")
    lines = []
    for keys, what in (
        ([key for key in old if key not in new], "gone"),
        ([key for key in new if key not in old], "new"),
        ([key for key in new if key in old and old[key] != new[key]], "changed"),
    ):
        if keys:
            lines.append(f"{one if len(keys) == 1 else name} {listed(keys)} {'is' if len(keys) == 1 else 'are'} {what}")
    return lines


def _machine(state: Step) -> dict[str, Any]:
    """What sums depend on, besides their terms."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "the device": devices.describe(state.device),
        "the precision": str(state.dtype).removeprefix("torch."),
        "the kind of step": state.plan.mode,
    }
    return facts | ({"the number of threads": torch.get_num_threads()} if state.device.type == "cpu" else {})


def _base(model: nn.Module) -> str:
    """Of the frozen values: some of each tensor."""
    frozen = [(n, p) for n, p in model.named_parameters() if not p.requires_grad]
    looked_at = []
    for name, tensor in frozen:
        flat = tensor.detach().reshape(-1)
        count = min(flat.numel(), _SAMPLED)
        places = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(count - 1, 1)  # in whole numbers
        looked_at.append((name, flat[places]))
    names = hashlib.sha256("\n".join(name.replace(".base_layer.", ".") for name, _ in looked_at).encode()).hexdigest()
    return names[:8] + digest(values for _, values in looked_at)
