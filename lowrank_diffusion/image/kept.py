"""The adapters that a run has kept, each of which can be drawn with: that of its end, and those of its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..runs import FORMS, Adapter, Run, RunError, find, step_of


def adapters(run: Run) -> list[Adapter]:
    """Whole ones, newest first; each also says of which step it is."""
    return list(_adapters(run))


def _adapters(run: Run) -> Iterator[Adapter]:
    newest = run.newest_adapter()
    if newest is not None and newest.step is None:
        yield newest
    for checkpoint in reversed(run.checkpoints):
        try:
            yield run.adapter(step_of(checkpoint))
        except RunError:  # its files are not there yet, or not any more
            continue


def named(name: str) -> tuple[Run, int | None]:
    """A run, and the step behind a colon if there is one: "icons:200". Raises RunError.

    A run's folder may have a colon in its path: what is a run as it stands comes first.
    """
    try:
        return find(name), None
    except RunError:
        title, _, step = name.rpartition(":")
        if not title or re.fullmatch("[0-9]{1,9}", step) is None:
            raise
        return find(title), int(step)


def chosen(name: str) -> tuple[Run, Adapter]:
    """The adapter that "RUN" (its newest) or "RUN:STEP" speaks of. Raises UserError."""
    run, step = named(name)
    if run.config().task == "text":
        raise UserError(f"{run.name} is a run of a language model. Use the command ask.")
    return run, run.adapter(step)


def for_others(path: Path) -> Path:
    """The file by which ComfyUI, Forge and A1111 know an adapter of ours; of any other, the same."""
    ours, others = FORMS["image"][:2]
    file = path.with_name(path.name.removesuffix(ours) + others)
    return file if path.name.endswith(ours) and file.is_file() else path


def step_in(path: Path) -> int | None:
    """Of which checkpoint a run's adapter is; None: of its end."""
    return step_of(path.parent) if path.parent.parent.name == "checkpoints" else None


def owner(path: Path) -> Run | None:
    """The run that an adapter's file or folder is of; None for any other."""
    place = path.parent.parent.parent if path.parent.parent.name == "checkpoints" else path.parent
    return Run(place) if (place / "config.yaml").is_file() else None
