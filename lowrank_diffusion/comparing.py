"""Several runs beside each other: the settings in which they differ, and what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import UserError
from .runs import Run

PLACES = ("data.instance", "adapter.start", "prior.pictures")
"""Of runs from the page these are copies inside the run, and differ in the run's name only."""


def settings(chosen: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same in all of them: by dotted key, the value of each. Raises ConfigError."""
    values = [_values(run) for run in chosen]
    keys = dict.fromkeys(key for one in values for key in one)
    table = {key: [one.get(key) for one in values] for key in keys}
    return {key: row for key, row in table.items() if any(value != row[0] for value in row)}


def _values(run: Run) -> dict[str, Any]:
    values = run.config().dotted()
    own = {key: str(values[key]).replace(str(run.path), "(its own)") for key in PLACES if values[key]}
    return values | own


def outcome(run: Run) -> dict[str, str]:
    """What a run came to, in words."""
    status = run.status()
    facts = {"state": status.state, "step": f"{status.step}/{status.steps}" if status.steps else ""}
    if status.losses:
        recent = [loss for _, loss in status.losses[-max(1, len(status.losses) // 10) :]]
        facts["loss (mean of the last tenth)"] = f"{sum(recent) / len(recent):.4f}"
    if status.lowest:
        step, loss = status.lowest
        facts["lowest validation loss"] = f"{loss:.4f} (step {step})"
    if status.seconds_per_step:
        facts["seconds per step"] = f"{status.seconds_per_step:.3g}"
    return facts | {name: f"{points[-1][1]:.4g}" for name, points in status.measures.items() if points}


def rows(chosen: Sequence[Run]) -> list[list[str]]:
    """A table: names, then what is different and what came of it. Raises UserError for fewer than two runs."""
    if len(chosen) < 2:
        raise UserError("Give at least two runs to compare.")
    table = [["", *(run.title for run in chosen)]]
    table += [[key, *map(str, values)] for key, values in settings(chosen).items()]
    outcomes = [outcome(run) for run in chosen]
    names = dict.fromkeys(name for one in outcomes for name in one)
    return table + [[name, *(one.get(name, "") for one in outcomes)] for name in names]
