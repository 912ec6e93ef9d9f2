"""What a run looks like while it goes: state, progress, figures, curve, samples, notes; all as HTML of our own."""

from __future__ import annotations

import html
from itertools import groupby
from pathlib import Path

from lowrank_diffusion.devices import GIB
from lowrank_diffusion.files import Unreadable, read_part
from lowrank_diffusion.runs import Run, Status

from . import curve, safe, watching

STATE_WORDS = {
    "new": "not started",
    "queued": "in the queue",
    "held": "held",
    "starting": "starting",
    "waiting": "waiting",
    "preparing": "preparing",
    "training": "training",
    "paused": "paused",
    "stopped": "stopped",
    "finished": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
    "unreadable": "unreadable",
}
STATE_HINTS = {
    "starting": "Loading PyTorch takes some ten seconds.",
    "new": "It was made and not started. Resume starts it.",
    "queued": "It starts when what is before it in the queue has ended.",
    "held": "It is passed over until it is released.",
    "paused": "Its model stays in memory. Continue goes on with the next step.",
    "stopped": "Everything is saved. Resume goes on from here, exactly.",
    "interrupted": "Resume goes on from the newest checkpoint.",
    "failed": "Nothing that was saved is lost. Put the cause right, then resume or start a new run.",
}
NOTHING_SAVED = "Nothing was saved yet: Resume starts over, with the same settings and pictures."
FINISHED_HINTS = {
    "image": "Try it in the Generate tab; its adapter files are in the Runs tab.",
    "text": "Talk to it under Chat, beside its base; its adapter files are in the Runs tab.",
}
LONGEST_REPLY = 4000
FOREVER = 10**9
"""Seconds; thirty years."""


def pill(state: str) -> str:
    """A run's state as a coloured word."""
    return f'<span class="pill {html.escape(state)}">{STATE_WORDS.get(state, html.escape(state))}</span>'


def duration(seconds: float) -> str:
    """Seconds in words short enough for a table."""
    if not abs(seconds) < FOREVER:
        return "unknown"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def steps_of(status: Status) -> str:
    """How far it has come, for a table."""
    return f"{status.step}/{status.steps}" if status.steps else ""


def progress(status: Status) -> tuple[float, str]:
    """The share that is done, in [0, 1], and the words beside the bar."""
    stage = f"{status.stage} {status.stage_done}/{status.stage_total}" if status.stage_total else status.stage
    if status.state == "preparing":
        return status.stage_done / status.stage_total if status.stage_total else 0.0, stage
    if status.steps:
        words = f"step {status.step} of {status.steps}"
        return status.step / status.steps, f"{words} · {stage}" if status.stage else words
    return 0.0, ""


def _facts(status: Status) -> list[tuple[str, str]]:
    facts = []
    if status.state == "training" and status.eta:
        facts.append(("time left", duration(status.eta)))
    elif status.started and not status.active:
        facts.append(("took", duration(status.took)))
    if status.seconds_per_step:
        facts.append(("speed", f"{status.seconds_per_step:.2f} s/step"))
    if status.losses:
        facts.append(("loss", f"{curve.smoothed(status.losses)[-1][1]:.4f}"))
    if status.rates:
        facts.append(("learning rate", f"{status.rates[-1][1]:.3g}"))
    if status.device:
        facts.append(("device", f"{status.device}, {status.precision}"))
    if status.mode:
        facts.append(("execution", status.mode))
    if status.memory:
        facts.append(("GPU memory", f"{status.memory / GIB:.1f} GiB"))
    if status.parameters:
        facts.append(("parameters", f"{status.parameters / 1e6:.2f} M"))
    facts += [(name, measure(name, points)) for name, points in status.measures.items() if points]
    return facts


def measure(name: str, points: list[tuple[int, float]]) -> str:
    """The newest figure, and where it began if training is what has moved it since."""
    shown = [f"{value:.0%}" if name == "exact match" else f"{value:.3g}" for _, value in (points[0], points[-1])]
    return shown[1] if shown[0] == shown[1] or name == "tokens/s" else f"{shown[0]} → {shown[1]}"


def status_html(run: Run | None, status: Status) -> str:
    """The head of the panel: name, state, bar, figures and messages."""
    if run is None:
        return '<div class="nothing">No run yet. Add data, choose a preset, and start.</div>'
    share, words = progress(status)
    asked = run.requested("stop") and status.active
    state = pill(status.state) + ('<span class="pill waiting">saving, then stopping</span>' if asked else "")
    facts = "".join(
        f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(value)}</dd></div>" for name, value in _facts(status)
    )
    hint = FINISHED_HINTS[run.task] if status.state == "finished" else STATE_HINTS.get(status.state, "")
    if status.state == "interrupted" and not run.checkpoints:
        hint = NOTHING_SAVED
    text = status.message or hint
    kind = "bad" if status.state in ("failed", "interrupted", "unreadable") else "info"
    if kind == "bad" and status.message:
        text = f"{status.message}\n{hint}"
    message = f'<p class="message {kind}">{html.escape(text)}</p>' if text else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in status.notes[-5:])
    busy = " busy" if status.active and not share else ""
    return (
        f'<section class="run-head"><header><h3>{html.escape(run.title)}</h3>{state}'
        f'<span class="words">{html.escape(words)}</span></header>'
        f'<div class="bar{busy}" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div>'
        f"<dl>{facts}</dl>{message}{f'<ul class=notes>{notes}</ul>' if notes else ''}</section>"
    )


def samples_html(run: Run | None, status: Status) -> str:
    """Samples, newest step first, one row a step."""
    if run is None or not status.samples:
        return '<div class="curve-empty">Samples appear here while it trains.</div>'
    rows = []
    latest = {(step, path): prompt for step, prompt, path in status.samples}  # a resumed run draws some again
    ordered = sorted(latest, key=lambda item: (-item[0], item[1]))
    for step, group in groupby(ordered, key=lambda item: item[0]):
        shown = "".join(_sample(run, path, latest[step, path], step) for _, path in group)
        title = html.escape(f"step {step}") if step else "before training"
        rows.append(f'<section class="sample-row"><h5>{title}</h5><div>{shown}</div></section>')
    kind = " said" if run.task == "text" else ""
    return f'<div class="samples{kind}">{"".join(rows)}</div>'


def _sample(run: Run, path: str, prompt: str, step: int) -> str:
    if path.endswith(".txt"):
        said = html.escape(_reply(run, path))
        return f'<figure class="reply"><figcaption>{html.escape(prompt)}</figcaption><p>{said}</p></figure>'
    return picture(run.path / path, f"step {step}: {prompt}", prompt)


def picture(path: Path, caption: str, below: str) -> str:
    """A picture with a line below it; it opens large with its caption."""
    address, caption, below = safe.url(path), html.escape(caption), html.escape(below)
    return (
        f'<a class="sample" href="{address}" target="_blank" title="{caption}" data-caption="{caption}">'
        f'<img src="{address}" alt="" loading="lazy"><span>{below}</span></a>'
    )


def _reply(run: Run, path: str) -> str:
    try:
        text = read_part(safe.inside(run.path / path, run.path), 4 * LONGEST_REPLY + 4)
    except (Unreadable, safe.RefusedError):
        return "(its file is gone)"
    return text if len(text) <= LONGEST_REPLY else text[:LONGEST_REPLY] + "…"


def created(run: Run) -> str:
    """Month, day and time a run was made, from its directory's name."""
    stamp = run.name[:13]
    if not stamp.replace("-", "").isdigit():
        return ""
    return f"{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]}"


def choices(task: str, limit: int = 50) -> list[tuple[str, str]]:
    """Runs of a task for a selector: (shown, directory name)."""
    return [
        (f"{run.title} · {STATE_WORDS.get(state := watching.status(run).state, state)} ({created(run)})", run.name)
        for run in watching.runs_of(task)[:limit]
    ]
