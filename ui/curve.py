"""The loss curve as an SVG: every step faint, smoothed line, validation points, axes and the last values."""

from __future__ import annotations

import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 14, 38
MOST_POINTS = 400


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


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that lie in [low, high]."""
    span = max(high - low, 1e-12)
    unit = 10 ** math.floor(math.log10(span / count))
    step = next(unit * factor for factor in (1, 2, 5, 10, 20) if span / (unit * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Points) -> Points:
    """At most MOST_POINTS points, each the mean of its neighbours."""
    size = math.ceil(len(points) / MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _limits(losses: Points, validation: Points) -> tuple[float, float]:
    """Value range that shows the curve well: a rare spike may leave the frame."""
    values = sorted(value for _, value in losses)
    cut = values[min(len(values) - 1, int(0.99 * len(values)))]
    seen = [values[0], cut, *(value for _, value in validation)]
    low, high = min(seen), max(seen)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return max(0.0, low - margin), high + margin


class _Frame:
    """Data coordinates to pixels."""

    def __init__(self, steps: float, low: float, high: float):
        self.steps, self.low, self.high = max(steps, 1.0), low, high

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.steps

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def path(self, points: Points, kind: str) -> str:
        corners = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in points)
        return f'<polyline class="{kind}" points="{corners}"/>'


def _axes(frame: _Frame) -> str:
    parts = []
    for value in ticks(frame.low, frame.high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{value:.4g}</text>')
    for step in ticks(0, frame.steps, 6):
        if step == int(step):
            place = f'x="{frame.x(step):.1f}" y="{HEIGHT - BOTTOM + 15}"'
            parts.append(f'<text {place} text-anchor="middle">{int(step)}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="name" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step</text>')
    return "".join(parts)


def svg(losses: Points, validation: Points = (), steps: int = 0) -> str:
    """The curve of a run of ``steps`` steps; a quiet placeholder while there is nothing to show."""
    losses = [point for point in losses if math.isfinite(point[1])]
    validation = [point for point in validation if math.isfinite(point[1])]
    if not losses:
        return '<div class="curve-empty">The loss curve appears with the first steps.</div>'
    line = smoothed(losses)
    frame = _Frame(max(steps, losses[-1][0]), *_limits(losses, validation))
    last_step, last = line[-1]
    dots = "".join(
        f'<circle class="validation" cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="3"/>'
        for step, value in validation
    )
    legend = [f'<span class="key raw">each step <b>{losses[-1][1]:.4f}</b></span>']
    legend.append(f'<span class="key smooth">smoothed <b>{last:.4f}</b></span>')
    if validation:
        legend.append(f'<span class="key held">held out <b>{validation[-1][1]:.4f}</b></span>')
    return (
        f'<figure class="curve"><figcaption><strong>Loss</strong>{"".join(legend)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss: {last:.4f} at step {last_step}, smoothed">'
        f"{_axes(frame)}{frame.path(_thinned(losses), 'raw')}{frame.path(_thinned(line), 'smooth')}"
        f"{frame.path(validation, 'held') if len(validation) > 1 else ''}{dots}"
        f'<circle class="last" cx="{frame.x(last_step):.1f}" cy="{frame.y(last):.1f}" r="3.5"/></svg></figure>'
    )
