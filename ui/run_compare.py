"""Two or more runs beside each other: one chart, what is different, and their samples by step."""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import suppress

from lowrank_diffusion import comparing
from lowrank_diffusion.config import fields
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run

from . import live, safe, watching
from .curve import MOST_RUNS, of_runs
from .form import label, message_html

MOST_STEPS = 12


def chosen(names: Sequence[str]) -> list[Run]:
    """The ticked runs that are still there, at most as many as the chart has colours."""
    there = []
    for name in names[:MOST_RUNS]:
        with suppress(UserError):
            there.append(safe.run(name))
    return there


def chart_of(runs: Sequence[Run]) -> str:
    """Their curves, for the chart."""
    return of_runs([(run.title, watching.status(run)) for run in runs])


def html_of(runs: Sequence[Run], left_out: int = 0) -> str:
    """What is different, what came of it, and samples side by side."""
    note = f"{left_out} more are ticked: at most {MOST_RUNS} are compared." if left_out else ""
    try:
        rows = comparing.rows(runs)
    except UserError as error:
        return message_html(str(error), "bad")
    return message_html(note) + _table(rows) + _samples(runs)


def _table(rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0][1:])
    lines = []
    for key, *values in rows[1:]:
        shown = f"{html.escape(label(key))} <code>{key}</code>" if key in fields() else html.escape(key)
        cells = "".join(f"<td>{html.escape(value[:300])}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{shown}</th>{cells}</tr>')
    return (
        '<div class="table" tabindex="0" aria-label="What is different"><table class="compared"><thead><tr><th></th>'
        f"{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _samples(runs: Sequence[Run]) -> str:
    """For every prompt and step a row with a picture of each run."""
    drawn: dict[tuple[int, str], dict[str, str]] = {}
    for run in runs:
        for step, prompt, path in watching.status(run).samples:
            if path.endswith(".png"):
                drawn.setdefault((step, prompt), {})[run.name] = path
    shared = sorted((key for key, row in drawn.items() if len(row) > 1), key=lambda key: (-key[0], key[1]))
    parts = []
    for step, prompt in shared[:MOST_STEPS]:
        row = drawn[step, prompt]
        pictures = "".join(
            live.picture(run.path / row[run.name], f"{run.title}, step {step}: {prompt}", run.title)
            if run.name in row else '<span class="nothing">none</span>'
            for run in runs
        )  # fmt: skip
        title = html.escape(f"step {step}: {prompt}" if step else f"before training: {prompt}")
        parts.append(f'<section class="sample-row"><h5>{title}</h5><div>{pictures}</div></section>')
    if len(shared) > MOST_STEPS:
        parts.append(f'<p class="count">and {len(shared) - MOST_STEPS} more prompts and steps</p>')
    return f'<div class="samples" tabindex="0" aria-label="Samples">{"".join(parts)}</div>' if parts else ""
