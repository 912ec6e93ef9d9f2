"""Charts of points and lines as data for `static/plot.js`, which draws them as wide as the page is."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .toolkit import gr, static_text


@dataclass(frozen=True)
class Point:
    """One point, with what a person reads on it."""

    x: float
    y: float
    words: str
    spread: float = 0.0
    """Standard deviation in y."""
    best: bool = False
    """It gets a ring."""


@dataclass(frozen=True)
class Series:
    """Points of one colour, in the order in which a line joins them."""

    name: str
    points: Sequence[Point]
    line: bool = True
    named: bool = False
    """Whether each point has its words' first part, before the colon, beside it."""


def component(elem_id: str) -> gr.HTML:
    """Takes HTML in which :func:`chart` stands for charts."""
    return gr.HTML(
        "", html_template="<div></div>", js_on_load=static_text("svg.js") + static_text("plot.js"), elem_id=elem_id,
        apply_default_css=False,
    )  # fmt: skip


def chart(title: str, x: str, y: str, series: Sequence[Series]) -> str:
    """A chart; ``x`` and ``y`` name the axes, with their units. Raises ValueError for what is not finite."""
    shown = [one for one in series if one.points]
    numbers = "; ".join(f"{one.name}: {', '.join(point.words for point in one.points[:40])}" for one in shown)
    data = {"title": title, "x": x, "y": y, "label": f"{title}. {numbers}", "series": [asdict(one) for one in shown]}
    return f'<div class="plot" data-plot="{html.escape(json.dumps(data, allow_nan=False))}"></div>'


def section(name: str, body: str, sentence: str, command: str) -> str:
    """What one measurement shows: charts and tables, what they mean, and the command that repeats it."""
    return (
        f'<section class="measured" data-kind="{name}">{body}<p class="meaning">{html.escape(sentence)}</p>'
        f'<details id="repeat-{name}"><summary>Command</summary><pre>{html.escape(command)}</pre></details></section>'
    )
