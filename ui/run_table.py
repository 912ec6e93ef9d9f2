"""The table of all runs: sorted by any column, filtered by a few words, rows ticked to be compared."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowrank_diffusion import files, runs
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run, Status

from . import live, watching
from .curve import smoothed


@dataclass(frozen=True)
class View:
    """How a page looks at the table."""

    sort: str = "Started"
    descending: bool = True
    words: str = ""
    """A run is shown if it has all of them in its name, tags, notes, state or adapter."""
    ticked: tuple[str, ...] = ()

    def sorted_by(self, column: str) -> View:
        """Sorted by another column, or the other way round."""
        if column not in COLUMNS:
            return self
        descending = not self.descending if column == self.sort else column not in ("Name", "State", "Adapter")
        return View(column, descending, self.words, self.ticked)


AT_FIRST = View()


@dataclass(frozen=True)
class Row:
    """A run as the table shows it."""

    run: Run
    status: Status
    adapter: str
    size: int

    @property
    def text(self) -> str:
        """What is searched."""
        about = self.run.about
        state = live.STATE_WORDS.get(self.status.state, self.status.state)
        return " ".join((self.run.title, self.run.name, state, self.adapter, about.notes, *about.tags)).casefold()


def _loss(row: Row) -> float:
    return smoothed(row.status.losses)[-1][1] if row.status.losses else float("inf")


def _lowest(row: Row) -> float:
    return row.status.lowest[1] if row.status.lowest else float("inf")


COLUMNS: dict[str, tuple[Callable[[Row], Any], Callable[[Row], str]]] = {
    "Name": (lambda row: row.run.title.casefold(), lambda row: _name(row)),
    "State": (lambda row: row.status.state, lambda row: live.pill(row.status.state)),
    "Step": (lambda row: row.status.step, lambda row: html.escape(live.steps_of(row.status))),
    "Loss": (_loss, lambda row: f"{_loss(row):.4f}" if row.status.losses else ""),
    "Held out": (_lowest, lambda row: f"{row.status.lowest[1]:.4f}" if row.status.lowest else ""),
    "Started": (lambda row: row.run.name, lambda row: live.created(row.run)),
    "Adapter": (lambda row: row.adapter, lambda row: html.escape(row.adapter)),
    "Took": (lambda row: row.status.took, lambda row: live.duration(row.status.took) if row.status.started else ""),
    "Size": (lambda row: row.size, lambda row: files.megabytes(row.size)),
}
"""Of each column, what it is sorted by and what it shows."""


def _name(row: Row) -> str:
    tags = "".join(f'<i class="tag">{html.escape(tag)}</i>' for tag in row.run.about.tags)
    return f"<b>{html.escape(row.run.title)}</b>{tags}"


def rows(view: View) -> list[Row]:
    """The runs that a page shows, in its order."""
    shown = [_row(run) for run in runs.all_runs()]
    words = view.words.casefold().split()
    shown = [row for row in shown if all(word in row.text for word in words)]
    return sorted(shown, key=lambda row: COLUMNS[view.sort][0](row), reverse=view.descending)


def _row(run: Run) -> Row:
    status = watching.status(run)
    return Row(run, status, adapter_of(run), watching.size(run, status))


def adapter_of(run: Run) -> str:
    """What the run trains, in a word or two."""
    try:
        config = run.config()
    except UserError:
        return "unreadable config.yaml"
    return config.adapter.method.words(config.adapter) + (", flat" if config.flat.sigma else "")


def html_of(chosen: str | None, view: View = AT_FIRST) -> str:
    """All runs that the view lets through."""
    shown = rows(view)
    if not shown:
        words = (
            "No run has all of these words." if view.words.strip() else "No runs yet. Start one in Train or Language."
        )
        return f'<div class="nothing">{words}</div>'
    body = "".join(_line(row, row.run.name == chosen, row.run.name in view.ticked) for row in shown)
    head = "".join(_header(name, view) for name in COLUMNS)
    total = files.megabytes(sum(row.size for row in shown))
    count = "one run" if len(shown) == 1 else f"{len(shown)} runs"
    return (
        '<div class="table" tabindex="0" aria-label="Runs"><table class="runs"><thead><tr><th><span class="unseen">'
        f"Compare</span></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="count">{count}, {total} on the disk. Tick two or more to compare them.</p>'
    )


def _header(name: str, view: View) -> str:
    order = f' aria-sort="{"descending" if view.descending else "ascending"}"' if name == view.sort else ""
    arrow = (" ↓" if view.descending else " ↑") if order else ""
    return f'<th{order}><button type="button" data-sort="{name}">{name}{arrow}</button></th>'


def _line(row: Row, chosen: bool, ticked: bool) -> str:
    name, title = html.escape(row.run.name), html.escape(row.run.title)
    box = f'<input type="checkbox" data-tick="{name}" aria-label="Compare {title}"{" checked" if ticked else ""}>'
    try:
        cells = "".join(f"<td>{show(row)}</td>" for _, show in COLUMNS.values())
    except Exception as error:  # whatever a stranger's folder holds, it costs its own line only
        words = html.escape(f"cannot be shown: {type(error).__name__}")
        cells = f"<td><b>{title}</b></td><td>{live.pill('unreadable')}</td><td colspan={len(COLUMNS) - 2}>{words}</td>"
    mark = ' class="chosen" aria-selected="true"' if chosen else ""
    return f'<tr tabindex="0" data-name="{name}"{mark}><td>{box}</td>{cells}</tr>'
