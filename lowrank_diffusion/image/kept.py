"""Which adapter a person means: of a run, one of its steps, or its lowest validation loss; and whose a file is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..runs import FORMS, Adapter, Run, RunError, find, step_of

PLACES = ("checkpoints", "best")
"""The folders of a run that have a folder for each step."""


def named(name: str) -> tuple[Run, int | Literal["best"] | None]:
    """A run, and what stands behind a colon if there is one: "icons:200", "icons:best". Raises RunError.

    A run's folder may have a colon in its path: what is a run as it stands comes first.
    """
    try:
        return find(name), None
    except RunError:
        title, _, step = name.rpartition(":")
        if not title or re.fullmatch("[0-9]{1,9}|best", step) is None:
            raise
        return find(title), "best" if step == "best" else int(step)


def chosen(name: str) -> tuple[Run, Adapter]:
    """The adapter that "RUN" (its newest), "RUN:STEP" or "RUN:best" speaks of. Raises UserError."""
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
    return step_of(path.parent) if path.parent.parent.name in PLACES else None


def owner(path: Path) -> Run | None:
    """The run that an adapter's file or folder is of; None for any other."""
    place = path.parent.parent.parent if path.parent.parent.name in PLACES else path.parent
    return Run(place) if (place / "config.yaml").is_file() else None
