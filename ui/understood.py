"""What was measured of a run, drawn: each a chart or a table, what it means in a sentence, and the command for it."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from lowrank_diffusion import evaluations
from lowrank_diffusion.evaluations import Curve, Flatness, PictureRow, Pictures, Spectra, Texts
from lowrank_diffusion.runs import Run
from lowrank_diffusion.understanding import mean_and_spread

from . import spectra_html
from .plot import Point, Series, chart, section


def html_of(run: Run) -> str:
    """Everything that was measured of a run."""
    parts: list[tuple[type, Callable[..., str]]] = [
        (Pictures, _pictures), (Texts, _texts), (Flatness, flatness), (Spectra, spectra_html.spectra),
    ]  # fmt: skip
    kept = ((evaluations.read(run, kind), show) for kind, show in parts)
    return "".join(drawn(record, show) for record, show in kept if record is not None)


def drawn(record: evaluations.Evaluation, show: Callable[..., str]) -> str:
    """What a record shows; numbers that no chart can hold, which some other hand wrote, cost this record only."""
    try:
        return show(record)
    except (ValueError, ArithmeticError, LookupError) as error:
        return f'<p class="message bad">{record.file} cannot be shown: {html.escape(str(error)[:200])}.</p>'


def _table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[bool] = ()) -> str:
    """Cells are HTML; the first of a row is its head."""
    marks = [*best, *[False] * (len(rows) - len(best))]
    lines = []
    for (first, *cells), mark in zip(rows, marks, strict=True):
        kind = ' class="best"' if mark else ""
        lines.append(f'<tr{kind}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    names = "".join(f"<th>{name}</th>" for name in head)
    return (
        f'<div class="table" tabindex="0" aria-label="{html.escape(label)}"><table class="figures-table"><thead><tr>'
        f"{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _step(step: int | None) -> str:
    return "base" if step is None else f"step {step}"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


# pictures


def _pictures(record: Pictures) -> str:
    rows = [row for row in record.rows if not row.prompt]
    encoder = "CLIP-I" if any(row.words is not None for row in rows) else "DINO"
    title = "Likeness to the pictures and to the prompts"
    body = _identity(title, rows) if encoder == "CLIP-I" else _likeness(rows)
    head = ["all prompts", f"pictures ({encoder})", "prompt (CLIP-T)"]
    body += _table("Cosines by step", head, [_cosines(_step(row.step), row) for row in rows], [r.best for r in rows])
    single = [
        (prompt, [row for row in record.rows if row.prompt == prompt])
        for prompt in dict.fromkeys(row.prompt for row in record.rows if row.prompt)
    ]
    inner = "".join(
        _table(prompt, [html.escape(prompt), *head[1:]], [_cosines(_step(row.step), row) for row in own])
        for prompt, own in single
    )
    body += f'<details id="by-prompt"><summary>Prompt by prompt</summary>{inner}</details>' if len(single) > 1 else ""
    facts = (
        f"Means over {record.count} pictures of each prompt; {record.references} references; encoder {record.encoder}."
    )
    return section("pictures", body, f"{_picture_words(rows)} {facts}", record.command)


def _cosines(name: str, row: PictureRow) -> list[str]:
    mark = ", lowest validation loss" if row.best else ""
    return [name + mark, _number(row.references), _number(row.words)]


def _identity(title: str, rows: Sequence[PictureRow]) -> str:
    """The curve over checkpoints: identity against prompt-following."""
    points = [
        Point(row.references, row.words, f"{_step(row.step)}: pictures {row.references:.3f}, prompt {row.words:.3f}",
              best=row.best)
        for row in rows
        if row.references is not None and row.words is not None
    ]  # fmt: skip
    return chart(title, "to the pictures (cosine)", "to the prompt (cosine)", [Series("adapters", points, named=True)])


def _likeness(rows: Sequence[PictureRow]) -> str:
    points = [
        Point(row.step or 0, row.references, f"{_step(row.step)}: {row.references:.3f}", best=row.best)
        for row in rows
        if row.references is not None
    ]
    return chart("Likeness to the pictures", "step", "to the pictures (cosine)", [Series("adapters", points)])


def _picture_words(rows: Sequence[PictureRow]) -> str:
    words = "Further right is more like the pictures learnt from, higher up more like what the prompts ask"
    chosen = next((row for row in rows if row.best), rows[-1] if rows else None)
    base = next((row for row in rows if row.step is None), None)
    if chosen is None or base is None or None in (chosen.references, base.references, chosen.words, base.words):
        return f"{words}."
    mark = ", of the lowest validation loss," if chosen.best else ""
    return (
        f"{words}: {_step(chosen.step)}{mark} has {chosen.references:.3f} and {chosen.words:.3f}, "
        f"the base {base.references:.3f} and {base.words:.3f}."
    )


# texts


def _texts(record: Texts) -> str:
    rows = record.rows
    points = [
        Point(row.step or 0, row.perplexity, f"{_step(row.step)}: {row.perplexity:.4g}", best=row.best)
        for row in rows
        if row.perplexity is not None
    ]
    matches = [
        Point(row.step or 0, 100 * row.exact_match, f"{_step(row.step)}: {row.exact_match:.1%}", best=row.best)
        for row in rows
        if row.exact_match is not None
    ]
    body = chart("Perplexity of held-out rows", "step", "perplexity", [Series("adapters", points, named=True)])
    body += chart("Answers that match exactly", "step", "exact match (%)", [Series("adapters", matches)])
    cells = [
        [
            _step(row.step) + (", lowest validation loss" if row.best else ""),
            "" if row.perplexity is None else f"{row.perplexity:.4g}",
            "" if row.exact_match is None else f"{row.exact_match:.1%} of {row.answered}",
        ]
        for row in rows
    ]
    body += _table("By step", ["", "perplexity", "exact match"], cells, [row.best for row in rows])
    words = f"On {record.examples} rows that were held out; lower perplexity means the rows surprise the model less."
    return section("texts", body, words, record.command)


# flatness


def flatness(record: Flatness) -> str:
    """The loss of each model against the strength of the noise."""
    series = [Series(curve.title, _curve(record, curve)) for curve in record.curves]
    whose = "held-out" if record.held_out else "training"
    body = chart(f"Loss under weight noise ({whose})", "sigma, relative to each row's norm", "loss", series)
    rising = [Series(curve.title, _rising(record, curve)) for curve in record.curves]
    if any(one.points for one in rising):
        body += chart("By how much it rises", "sigma, relative to each row's norm", "rise of the loss (%)", rising)
    rises = [(curve.title, rise) for curve in record.curves if (rise := _rise(record, curve)) is not None]
    shown_rises = ", ".join(f"{title} {rise:+.1f} %" for title, rise in rises)
    strongest = f"Rise at sigma {record.sigmas[-1]:g}: {shown_rises}. " if rises and len(record.sigmas) > 1 else ""
    words = (
        f"{strongest}The less a loss rises, the flatter the minimum that the weights stand in. Bars: standard "
        f"deviation over {record.draws} draws, the same for all, on {record.examples} {whose} examples and "
        f"{record.layers} layers."
    )
    return section("flatness", body, words, record.command)


def _curve(record: Flatness, curve: Curve) -> list[Point]:
    points = []
    for sigma, row in zip(record.sigmas, curve.losses, strict=False):
        mean, spread = mean_and_spread(row) if row else (math.nan, math.nan)
        if math.isfinite(mean):
            points.append(Point(sigma, mean, f"sigma {sigma:g}: {mean:.4f} ± {spread:.4f}", spread))
    return points


def _rising(record: Flatness, curve: Curve) -> list[Point]:
    """The curve in percent of what it is without noise, so that curves of unlike height can be compared."""
    points = _curve(record, curve)
    if not points or points[0].x != 0 or not points[0].y:
        return []
    still = points[0].y
    rises = ((point, 100 * (point.y / still - 1), abs(100 * point.spread / still)) for point in points)
    return [
        Point(point.x, rise, f"sigma {point.x:g}: {rise:+.2f} % ± {spread:.2f}", spread)
        for point, rise, spread in rises
    ]


def _rise(record: Flatness, curve: Curve) -> float | None:
    """By how many percent the loss rises from no noise to the strongest."""
    points = _rising(record, curve)
    return points[-1].y if points and points[-1].x == record.sigmas[-1] else None
