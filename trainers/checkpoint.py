"""A checkpoint is adapter + optimiser + step in one safetensors file: all that a bit-exact resume needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.export import replace, write_tensors
from lowrank_diffusion.runs import Run

from .step import Step


class CheckpointError(UserError):
    """A checkpoint cannot be read or belongs to other settings."""


def folder_of(run: Run, step: int) -> Path:
    """Where the checkpoint after ``step`` steps goes."""
    return run.path / "checkpoints" / f"step-{step:06d}"


def save(run: Run, state: Step) -> Path:
    """Write the state as it is, whole or not at all. Raises OSError, for example on a full disk."""
    tensors = {f"adapter.{name}": p.detach() for name, p in state.parameters.items()}
    tensors |= {f"averaged.{name}": value for name, value in state.averaged.items()}
    optimizer = state.optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in optimizer["state"].items():
        for name, value in _flattened(values):
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    groups = [{k: _plain(v) for k, v in group.items()} for group in optimizer["param_groups"]]
    facts = {"step": state.done, "groups": groups, "plain": plain, "scaler": state.scaler.state_dict()}
    facts["gpus"] = state.cfg.train.gpus
    folder = folder_of(run, state.done)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace(
        folder / "state.safetensors",
        lambda path: write_tensors(contents, path, {"state": json.dumps(facts)}),
    )
    return folder


def _flattened(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an optimiser keeps of one parameter; bitsandbytes puts its 8-bit part into a table of its own."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value)
        else:
            yield name, value


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def load(folder: Path, state: Step) -> int:
    """Put a checkpoint into ``state``; returns the steps done.

    Raises:
        CheckpointError: a damaged file, or one whose adapter has other layers or sizes.
    """
    path = folder / "state.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}). Delete {folder} to go on from the one before.") from None
    _same_group(path, facts, state)
    _fill(path, "adapter", {name: p.data for name, p in state.parameters.items()}, tensors)
    _fill(path, "averaged", state.averaged, tensors)
    values: dict[int, dict[str, Any]] = {int(index): dict(plain) for index, plain in facts["plain"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            values.setdefault(int(index), {})[key] = tensor
    groups = [old | new for old, new in zip(state.optimizer.state_dict()["param_groups"], facts["groups"], strict=True)]
    state.optimizer.load_state_dict({"state": values, "param_groups": groups})
    if facts["scaler"]:
        state.scaler.load_state_dict(facts["scaler"])
    state.done = int(facts["step"])
    return state.done


def _same_group(path: Path, facts: dict[str, Any], state: Step) -> None:
    gpus, train = facts.get("gpus", 1), state.cfg.train
    if gpus != train.gpus and not train.regroup:
        raise CheckpointError(
            f"{path}: was trained with train.gpus={gpus}, and config.yaml says {train.gpus}: the rest of the run would "
            f"see other pictures and noise. Set train.gpus={gpus}, or train.regroup=true to go on all the same."
        )


def _fill(path: Path, kind: str, into: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    found = {name.removeprefix(f"{kind}."): t for name, t in tensors.items() if name.startswith(f"{kind}.")}
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in into.items()}:
        raise CheckpointError(f"{path}: holds another adapter than config.yaml describes. Was config.yaml edited?")
    for name, tensor in found.items():
        into[name].copy_(tensor)


def prune(run: Run, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for folder in run.checkpoints[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
