"""What is at work and what waits, in lines above Start: each with a way out, and the queue in its order."""

from __future__ import annotations

import html
import json
import time

from lowrank_diffusion import run_queue
from lowrank_diffusion.queued import Entry
from lowrank_diffusion.runs import Run

from . import live, watching

ENDED_SECONDS = 60
"""For so long the page is told that a run has ended; it looks every few seconds."""
SHOWN = 6
"""Lines of the queue; the rest is counted."""


def start_words() -> str:
    """What the button says: with a run at work, another waits."""
    return "Add to the queue" if watching.active() else "Start training"


def html_of() -> str:
    """Every run at work, then the queue; and for the page's title and its notifications, what is hidden in it."""
    runs = sorted(watching.active(), key=lambda run: (watching.status(run).state == "waiting", run.name))
    lines = [_line(run, runs[0]) for run in runs]
    waiting = run_queue.entries()
    lines += [_queued(run, entry, place) for place, (run, entry) in enumerate(waiting[:SHOWN])]
    if len(waiting) > SHOWN:
        lines.append(f'<p class="now"><span>and {len(waiting) - SHOWN} more in the queue</span></p>')
    if waiting or run_queue.state().paused:
        lines.append(_pause(run_queue.state().paused))
    return "".join(lines) + _page(runs)


def _line(run: Run, first: Run) -> str:
    status = watching.status(run)
    title = _title(run)
    if run.requested("stop"):
        words, verb = f"{title} saves and stops", ""
    elif status.state == "waiting":
        other = "the other " if first.title == run.title else ""
        words, verb = f"{title} waits behind {other}<b>{html.escape(first.title)}</b>", "Cancel"
    else:
        progress = live.progress(status)[1]
        left = f" · {live.duration(status.eta)} left" if status.state == "training" and status.eta else ""
        state = live.STATE_WORDS.get(status.state, status.state)
        words, verb = f"{state[:1].upper()}{state[1:]} {title} · {html.escape(progress + left) or '…'}", "Stop"
    return f'<p class="now" role="status"><span>{words}</span>{_button("end", run, verb) if verb else ""}</p>'


def _queued(run: Run, entry: Entry, place: int) -> str:
    words = f"{place + 1}. {_title(run)}"
    if entry.held:
        words += f" is held{': ' + html.escape(entry.reason[:200]) if entry.reason else ''}"
    buttons = _button("up", run, "Up") if place else ""
    buttons += _button("release", run, "Release") if entry.held else _button("hold", run, "Hold")
    return f'<p class="now queued"><span>{words}</span>{buttons}{_button("remove", run, "Remove")}</p>'


def _title(run: Run) -> str:
    name = html.escape(run.name)
    return f'<button type="button" class="link" data-act="show" data-name="{name}">{html.escape(run.title)}</button>'


def _button(act: str, run: Run, words: str) -> str:
    label = html.escape(f"{words}: {run.title}")
    name = html.escape(run.name)
    return f'<button type="button" data-act="{act}" data-name="{name}" aria-label="{label}">{words}</button>'


def _pause(paused: bool) -> str:
    act, verb = ("continue-queue", "Go on") if paused else ("pause-queue", "Then pause")
    words = "After the run at work the queue pauses." if paused else "The next begins by itself, also after a failure."
    button = f'<button type="button" data-act="{act}" data-name="">{verb}</button>'
    return f'<p class="now queued"><span>{words}</span>{button}</p>'


def _page(runs: list[Run]) -> str:
    """Read by `static/bar.js`, and by nobody else."""
    title = ""
    if runs:
        share, words = live.progress(watching.status(runs[0]))
        title = f"{share:.0%} {runs[0].title}" if share else f"{words or '…'} {runs[0].title}"
    # By its own clock an event is new for a minute; whoever sets that clock back sees a notification twice at most.
    recent = [run for run in watching.newest() if 0 <= time.time() - watching.status(run).updated < ENDED_SECONDS]
    ended = [(run.name, run.title, live.STATE_WORDS[watching.status(run).state]) for run in recent]
    facts = html.escape(json.dumps({"title": title, "ended": ended}))
    return f'<span hidden class="page-facts" data-facts="{facts}"></span>'
