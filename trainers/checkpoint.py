"""A checkpoint is adapter + optimiser + step in one safetensors file: all that a bit-exact resume needs.

It is on the disk before it has its name, carries a digest of all it holds, and is looked at before it is believed: a
power cut, a bad disk or a stranger costs one checkpoint, never the run.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.export import replace, write_tensors
from lowrank_diffusion.files import Unreadable, opened
from lowrank_diffusion.paths import sync
from lowrank_diffusion.runs import STATE, Run, step_of

from . import fingerprint
from .step import Step

Tensors = dict[str, torch.Tensor]


class CheckpointError(UserError):
    """A checkpoint belongs to other settings."""


class Damaged(ValueError):
    """Why a checkpoint is not believed."""


@dataclass(frozen=True)
class Contents:
    """The content of a checkpoint that was checked."""

    step: int
    groups: list[dict[str, Any]]
    plain: dict[int, dict[str, Any]]
    """By parameter: what an optimiser keeps apart from tensors."""
    scaler: dict[str, Any]
    gpus: int
    fingerprint: dict[str, Any]
    tensors: Tensors


def save(run: Run, state: Step) -> Path:
    """Write the state as it is, whole or not at all.

    Raises:
        OSError: for example on a full disk.
        Diverged: a value is not a number; nothing is written then.
    """
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
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if not _are_finite(contents):
        raise state.diverged(math.nan, state.done)
    groups = [{k: _plain(v) for k, v in group.items()} for group in optimizer["param_groups"]]
    facts = {"step": state.done, "groups": groups, "plain": plain, "scaler": state.scaler.state_dict()}
    facts |= {"gpus": state.cfg.train.gpus, "fingerprint": fingerprint.of(state)}
    text = json.dumps(facts)
    folder = run.checkpoint(state.done)
    folder.mkdir(parents=True, exist_ok=True)

    def write(path: Path) -> None:
        write_tensors(contents, path, {"state": text, "digest": digest(contents, text)})
        sync(path)

    replace(folder / STATE, write)
    for place in (folder, folder.parent, run.path):  # the names as well
        sync(place)
    return folder


def digest(tensors: Tensors, facts: str) -> str:
    """SHA-256 of everything that is read back, whatever the order in which it is stored."""
    sha = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _are_finite(tensors: Tensors) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


def _flattened(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an optimiser keeps of one parameter; bitsandbytes puts its 8-bit part into a table of its own."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value)
        else:
            yield name, value


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def restore(run: Run, state: Step, tell: Callable[[str], None]) -> int:
    """Put the newest sound checkpoint into ``state``; returns the steps done, 0 where there is none.

    Args:
        run: Its damaged checkpoints are put aside, so that nothing takes them for a state again.
        state: As built: nothing was trained yet.
        tell: Takes notes: which checkpoints are passed over, and what is different from when this one was made.

    Raises:
        CheckpointError: the settings or the base have changed so that its state means nothing.
    """
    for folder in reversed(run.checkpoints):
        path = folder / STATE
        try:
            contents = read(path)
        except Damaged as error:
            path.replace(path.with_name(f"{STATE}.damaged"))
            older = f"step {step_of(run.checkpoints[-1])}" if run.checkpoints else "the beginning"
            tell(f"{path}: {error} It is passed over, and training goes on from {older}.")
            continue
        return _put(path, contents, state, tell)
    return 0


def begin_with(folder: Path, state: Step) -> None:
    """Let a new run begin with the adapter of another's checkpoint, as its files have it; nothing else of it is taken.

    Raises:
        CheckpointError: it is damaged or not there, or the adapter is of another kind, rank or other layers.
    """
    path = folder / STATE
    try:
        contents = read(path)
    except Damaged as error:
        raise CheckpointError(f"adapter.start: {path} {error} Give the folder of another checkpoint.") from None
    tensors, averaged = contents.tensors, "averaged."
    if any(name.startswith(averaged) for name in tensors):
        tensors = {f"adapter.{name.removeprefix(averaged)}": t for name, t in tensors.items() if averaged in name}
    _fill(path, "adapter", {name: p.data for name, p in state.parameters.items()}, tensors)
    for name, average in state.averaged.items():
        average.copy_(state.parameters[name].detach())


def load(folder: Path, state: Step) -> int:
    """Put one checkpoint into ``state``; returns the steps done.

    Raises:
        CheckpointError: it is damaged, or the settings or the base are different.
    """
    path = folder / STATE
    try:
        contents = read(path)
    except Damaged as error:
        raise CheckpointError(f"{path}: {error} Delete {folder} to go on from the one before.") from None
    return _put(path, contents, state, lambda _note: None)


def read(path: Path) -> Contents:
    """All that a checkpoint holds, checked. Raises Damaged."""
    try:
        with opened(path), safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        text = metadata["state"]
        facts = json.loads(text)
        contents = _typed(facts, tensors)
    except Unreadable as error:
        raise Damaged(str(error)) from None
    except KeyError as error:
        raise Damaged(f"is damaged: it lacks {error}.") from None
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Damaged(f"is damaged ({str(error)[:200]}).") from None
    if "digest" in metadata and metadata["digest"] != digest(tensors, text):  # older ones have none
        raise Damaged("is damaged: its content is not what was written.")
    if f"step-{contents.step:06d}" != path.parent.name:
        raise Damaged(f"is the state after step {contents.step}, in the folder {path.parent.name}.")
    if not _are_finite(tensors):
        raise Damaged("holds values that are not numbers.")
    return contents


def _typed(facts: dict[str, Any], tensors: Tensors) -> Contents:
    """Raises KeyError, TypeError or ValueError where something is not of its type."""
    step, groups, plain, scaler = facts["step"], facts["groups"], facts["plain"], facts["scaler"]
    if type(step) is not int or step < 0:
        raise ValueError(f"its step is {step!r}")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError("its groups are not a list of tables")
    numbers = [value for group in groups for value in group.values() if isinstance(value, float)]
    if any(map(math.isnan, numbers)):  # a bound may be infinite
        raise ValueError("a rate is not a number")
    tables = {int(index): dict(values) for index, values in plain.items()}
    marks = facts.get("fingerprint", {})
    if not isinstance(marks, dict) or not all(isinstance(part, dict | str) for part in marks.values()):
        raise ValueError("its fingerprint is not a table")
    return Contents(step, groups, tables, dict(scaler), int(facts.get("gpus", 1)), marks, tensors)


def _put(path: Path, contents: Contents, state: Step, tell: Callable[[str], None]) -> int:
    _same_group(path, contents, state)
    different = fingerprint.compared(contents.fingerprint, fingerprint.of(state))
    if different.refused:
        raise CheckpointError("\n".join([f"{path}: cannot be gone on from.", *different.refused]))
    if different.noted:
        changes = "; ".join(different.noted)
        tell(f"Resumed from step {contents.step}, but not to the bits of an undisturbed run: {changes}.")
    _fill(path, "adapter", {name: p.data for name, p in state.parameters.items()}, contents.tensors)
    _fill(path, "averaged", state.averaged, contents.tensors)
    values = contents.plain
    for name, tensor in contents.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            values.setdefault(int(index), {})[key] = tensor
    try:
        own = state.optimizer.state_dict()["param_groups"]
        groups = [old | new for old, new in zip(own, contents.groups, strict=True)]
        state.optimizer.load_state_dict({"state": values, "param_groups": groups})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its optimiser's state does not fit optimizer.name={state.cfg.optimizer.name} ({error}). Was "
            f"config.yaml edited? Set it back, or start a new run."
        ) from None
    if contents.scaler:
        state.scaler.load_state_dict(contents.scaler)
    state.done = contents.step
    return state.done


def _same_group(path: Path, contents: Contents, state: Step) -> None:
    train = state.cfg.train
    if contents.gpus != train.gpus and not train.regroup:
        raise CheckpointError(
            f"{path}: was trained with train.gpus={contents.gpus}, and config.yaml says {train.gpus}: the rest of the "
            f"run would see other pictures and noise. Set train.gpus={contents.gpus}, or train.regroup=true to go on "
            "all the same."
        )


def _fill(path: Path, kind: str, into: Tensors, tensors: Tensors) -> None:
    values = {name.removeprefix(f"{kind}."): t for name, t in tensors.items() if name.startswith(f"{kind}.")}
    if {n: t.shape for n, t in values.items()} != {n: t.shape for n, t in into.items()}:
        hint = "Was config.yaml edited? adapter.start needs the same kind, rank and layers."
        raise CheckpointError(f"{path}: holds another adapter than config.yaml describes. {hint}")
    for name, tensor in values.items():
        into[name].copy_(tensor)


def prune(run: Run, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for folder in run.checkpoints[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
