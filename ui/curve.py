"""Loss curves as data for `static/chart.js`: every step, a smoothed line, validation points, the lowest of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lowrank_diffusion.runs import Status

from .toolkit import gr, static_text

Points = Sequence[tuple[float, float]]

MOST_POINTS = 400
MOST_RUNS = 8
"""As many colours as can be told apart."""


def chart(elem_id: str) -> gr.HTML:
    """The component; its value is what :func:`of_run` or :func:`of_runs` make."""
    return gr.HTML(
        "", html_template="<div></div>", js_on_load=static_text("svg.js") + static_text("chart.js"), elem_id=elem_id,
        elem_classes=["chart"], apply_default_css=False,
    )  # fmt: skip


def smoothed(points: Points, span: float = 0.06) -> list[tuple[float, float]]:
    """Exponential average with the bias of its start removed; ``span`` is its length relative to the curve's."""
    decay = 1 - 1 / max(2.0, span * len(points))
    average, weight = 0.0, 0.0
    line = []
    for step, value in points:
        average = decay * average + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        line.append((step, average / weight))
    return line


def _thinned(points: Points) -> Points:
    """At most MOST_POINTS points, each the mean of its neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _series(name: str, status: Status) -> dict[str, Any]:
    """One run's curves; values that are no numbers are left out, as JSON has none."""
    losses = [point for point in status.losses if math.isfinite(point[1])]
    held = [point for point in status.validation if math.isfinite(point[1])]
    lowest = status.lowest if status.lowest in held else None
    smooth = smoothed(losses)
    series = {"raw": _thinned(losses), "smooth": _thinned(smooth), "held": held}
    return {key: [[step, round(value, 6)] for step, value in points] for key, points in series.items()} | {
        "name": name, "best": lowest,
    }  # fmt: skip


def of_run(name: str, status: Status) -> str:
    """The chart of one run."""
    series = _series(name, status)
    keys = []
    if series["raw"]:
        keys.append({"kind": "raw", "text": "each step", "value": f"{series['raw'][-1][1]:.4f}"})
        keys.append({"kind": "smooth", "text": "smoothed", "value": f"{series['smooth'][-1][1]:.4f}"})
    if series["held"]:
        keys.append({"kind": "held", "text": "held out", "value": f"{series['held'][-1][1]:.4f}"})
    if series["best"]:
        step, loss = series["best"]
        keys.append({"kind": "best", "text": "lowest", "value": f"{loss:.4f} at step {step}"})
    label = "Loss. " + "; ".join(f"{key['text']}: {key['value']}" for key in keys)
    return json.dumps(
        {"title": "Loss", "name": name, "steps": status.steps, "series": [series], "keys": keys, "label": label}
    )


def of_runs(named: Sequence[tuple[str, Status]]) -> str:
    """The smoothed curves of several runs in one chart."""
    shown = [(name, status) for name, status in named if status.losses or status.validation][:MOST_RUNS]
    series = [_series(name, status) for name, status in shown]
    keys = [{"kind": f"run c{number}", "text": name, "value": ""} for number, (name, _) in enumerate(shown)]
    held = any(one["held"] for one in series)
    keys += [{"kind": "dashed", "text": "held out (dashed)", "value": ""}] if held else []
    label = "Smoothed losses of " + ", ".join(name for name, _ in shown)
    names, steps = " ".join(name for name, _ in named), max((status.steps for _, status in shown), default=0)
    facts = {"title": "Loss, smoothed", "name": names, "steps": steps, "series": series, "keys": keys, "label": label}
    return json.dumps(facts | {"empty": "These runs have no losses yet."})
