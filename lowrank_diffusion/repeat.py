"""A run once more: with its settings and data, some settings changed, or from the weights that it reached."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import presets, runs
from .config import PATHS
from .errors import of_disk
from .run_files import STATE
from .runs import Run, RunError


def again(run: Run, changes: Mapping[str, Any] | None = None, name: str = "") -> Run:
    """A new run with the settings and the data of ``run``, not started.

    Args:
        run: Whose; its own copy of the data is taken along, as links where the disk has them.
        changes: Settings by dotted key, in place of its own.
        name: Of the new run; default: the same.

    Raises:
        ConfigError: the settings, as changed, do not make a run.
        RunError: it cannot be written.
    """
    return _repeated(run, dict(changes or {}), name or run.title)


def longer(run: Run, steps: int, changes: Mapping[str, Any] | None = None, name: str = "") -> Run:
    """A new run that begins with the adapter of ``run``'s newest checkpoint and trains ``steps`` more, not started.

    Optimiser and learning-rate schedule begin anew. Raises as :func:`again`; RunError also where nothing was saved.
    """
    if not run.checkpoints:
        raise RunError(f"{run.title} has no checkpoint to go on from yet. Use save, or wait for one.")
    newest = run.checkpoints[-1]
    wanted = {"train.steps": steps, "adapter.start": str(newest), **(changes or {})}
    warmup = run.config().optimizer.warmup
    wanted.setdefault("optimizer.warmup", min(warmup, max(1, steps)) if warmup else 0)
    made = _repeated(run, wanted, name or f"{run.title[:70]}-longer")
    try:
        place = made.path / "start" / newest.name
        _linked(newest / STATE, place / STATE)
        made.write_config(presets.build(overrides=made.config().dotted() | {"adapter.start": str(place)}))
    except OSError as error:
        raise _unwritten(made, error) from None
    return made


def _repeated(run: Run, changes: dict[str, Any], name: str) -> Run:
    values = run.config().dotted()
    made = runs.create(presets.build(overrides=values | changes), name)
    try:
        moved: dict[str, Any] = {}
        for key in (key for key in PATHS if key not in changes):
            source = Path(str(values[key] or ""))
            if source.is_absolute() and source.is_relative_to(run.path) and source.exists():
                moved[key] = str(_copied(source, made.path / source.relative_to(run.path)))
        if moved:
            made.write_config(presets.build(overrides=values | changes | moved))
    except OSError as error:
        raise _unwritten(made, error) from None
    return made


def _copied(source: Path, target: Path) -> Path:
    """A file or a folder with all it holds; data of runs are never written to, so links are as good as copies."""
    if source.is_file():
        _linked(source, target)
    for path in (path for path in source.rglob("*") if path.is_file()):
        _linked(path, target / path.relative_to(source))
    return target


def _linked(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _unwritten(made: Run, error: OSError) -> RunError:
    shutil.rmtree(made.path, ignore_errors=True)
    return RunError(of_disk(error))
