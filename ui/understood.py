"""What was measured of a run, drawn: each a chart or a table, what it means in a sentence, and the command for it."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby

from lowrank_diffusion import evaluations
from lowrank_diffusion.cli_understand import mean_and_spread
from lowrank_diffusion.evaluations import Curve, Flatness, LayerSpectrum, PictureRow, Pictures, Spectra, Texts
from lowrank_diffusion.runs import Run

from .plot import Point, Series, chart

MOST_VALUES = 64
"""Singular values of a layer that a chart shows."""


def html_of(run: Run) -> str:
    """Everything that was measured of a run."""
    parts: list[tuple[type, Callable[..., str]]] = [
        (Pictures, _pictures), (Texts, _texts), (Flatness, flatness), (Spectra, _spectra),
    ]  # fmt: skip
    kept = ((evaluations.read(run, kind), show) for kind, show in parts)
    return "".join(show(record) for record, show in kept if record is not None)


def _section(name: str, body: str, sentence: str, command: str) -> str:
    return (
        f'<section class="measured" data-kind="{name}">{body}<p class="meaning">{html.escape(sentence)}</p>'
        f'<details id="repeat-{name}"><summary>Command</summary><pre>{html.escape(command)}</pre></details></section>'
    )


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
    return _section("pictures", body, f"{_picture_words(rows)} {facts}", record.command)


def _cosines(name: str, row: PictureRow) -> list[str]:
    mark = " (lowest validation loss)" if row.best else ""
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
            _step(row.step) + (" (lowest validation loss)" if row.best else ""),
            "" if row.perplexity is None else f"{row.perplexity:.4g}",
            "" if row.exact_match is None else f"{row.exact_match:.1%} of {row.answered}",
        ]
        for row in rows
    ]
    body += _table("By step", ["", "perplexity", "exact match"], cells, [row.best for row in rows])
    words = f"On {record.examples} rows that were held out; lower perplexity means the rows surprise the model less."
    return _section("texts", body, words, record.command)


# flatness


def flatness(record: Flatness) -> str:
    """The loss of each model against the strength of the noise."""
    series = [Series(curve.title, _curve(record, curve)) for curve in record.curves]
    whose = "held-out" if record.held_out else "training"
    body = chart(f"Loss under weight noise ({whose})", "sigma, relative to each row's norm", "loss", series)
    rises = [(curve.title, rise) for curve in record.curves if (rise := _rise(record, curve)) is not None]
    shown_rises = ", ".join(f"{title} {rise:+.1%}" for title, rise in rises)
    strongest = f"Rise at sigma {record.sigmas[-1]:g}: {shown_rises}. " if rises and len(record.sigmas) > 1 else ""
    words = (
        f"{strongest}The less a loss rises, the flatter the minimum that the weights stand in. Bars: standard "
        f"deviation over {record.draws} draws, the same for all, on {record.examples} {whose} examples and "
        f"{record.layers} layers."
    )
    return _section("flatness", body, words, record.command)


def _curve(record: Flatness, curve: Curve) -> list[Point]:
    points = []
    for sigma, row in zip(record.sigmas, curve.losses, strict=False):
        mean, spread = mean_and_spread(row) if row else (math.nan, math.nan)
        if math.isfinite(mean):
            points.append(Point(sigma, mean, f"sigma {sigma:g}: {mean:.4f} ± {spread:.4f}", spread))
    return points


def _rise(record: Flatness, curve: Curve) -> float | None:
    """By how much of itself the loss rises from no noise to the strongest."""
    points = _curve(record, curve)
    if len(points) < len(record.sigmas) or not points or record.sigmas[0] != 0 or not points[0].y:
        return None
    return points[-1].y / points[0].y - 1


# spectra


def _spectra(record: Spectra) -> str:
    layers = [layer for layer in record.layers if layer.values]
    if not layers:
        return _section("spectra", "", "No layer is changed.", record.command)
    ranks = [
        Series(
            name, [Point(n, value, f"{layer.path}: {value:.2f} of {layer.rank}") for n, layer, value in shown], False
        )
        for name, shown in (
            ("effective rank", [(n, layer, layer.effective or 0.0) for n, layer in enumerate(layers, 1)]),
            ("stable rank", [(n, layer, layer.stable or 0.0) for n, layer in enumerate(layers, 1)]),
        )
    ]
    body = chart("Ranks of the update by layer", "layer, from input to output", "rank", ranks)
    body += chart("Singular values of the update", "number", "relative to the largest, median", [_values(layers)])
    middle = statistics.median(layer.effective or 0.0 for layer in layers)
    words = (
        f"Half of the {len(layers)} layers have an effective rank above {middle:.1f} of {layers[0].rank}; "
        "where it is far below the rank, a smaller adapter would do. "
    )
    return _section("spectra", body + _heat(layers), words + _where(layers), record.command)


def _values(layers: Sequence[LayerSpectrum]) -> Series:
    """The median over the layers of s_i / s_1, with half of what lies between its quartiles."""
    points = []
    for number in range(min(MOST_VALUES, max(len(layer.values) for layer in layers))):
        shares = [
            layer.values[number] / layer.values[0]
            for layer in layers
            if number < len(layer.values) and layer.values[0] > 0
        ]
        if not shares:
            continue
        low, middle, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else shares * 3
        words = f"value {number + 1}: {middle:.3f}, half of the layers within {low:.3f} to {high:.3f}"
        points.append(Point(number + 1, middle, words, (high - low) / 2))
    return Series("all layers", points)


def _relative(layers: Sequence[LayerSpectrum]) -> float | None:
    """|dW| / |W| of layers together, by Frobenius norms; None where the base was not at hand."""
    base = math.fsum((layer.base or 0.0) ** 2 for layer in layers)
    return math.sqrt(math.fsum(layer.norm**2 for layer in layers) / base) if base else None


def _size(layers: Sequence[LayerSpectrum]) -> float:
    relative = _relative(layers)
    return math.sqrt(math.fsum(layer.norm**2 for layer in layers)) if relative is None else relative


def _by(layers: Sequence[LayerSpectrum], key: Callable[[LayerSpectrum], str]) -> dict[str, list[LayerSpectrum]]:
    groups: dict[str, list[LayerSpectrum]] = {}
    for name, some in groupby(layers, key):
        groups.setdefault(name, []).extend(some)
    return groups


def _heat(layers: Sequence[LayerSpectrum]) -> str:
    """Where the update sits: by block and by kind of layer."""
    blocks, kinds = _by(layers, lambda layer: layer.block), list(_by(layers, lambda layer: layer.kind))
    cells = {(block, kind): [one for one in own if one.kind == kind] for block, own in blocks.items() for kind in kinds}
    relative = _relative(layers) is not None
    largest = max((_size(own) for own in cells.values() if own), default=0.0) or 1.0
    lines = []
    for block, own in blocks.items():
        shown = "".join(_cell(cells[block, kind], largest, relative, f"{block}, {kind}") for kind in kinds)
        lines.append(f'<tr><th scope="row">{html.escape(block)}</th>{shown}{_cell(own, largest, relative, block)}</tr>')
    head = "".join(f"<th>{html.escape(kind)}</th>" for kind in kinds)
    unit = "|ΔW| / |W|, %" if relative else "|ΔW|"
    body = "".join(lines)
    return (
        f'<h5>Where the update sits ({unit})</h5><div class="table" tabindex="0" aria-label="Where the update sits">'
        f'<table class="heat"><thead><tr><th></th>{head}<th>all</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(own: Sequence[LayerSpectrum], largest: float, relative: bool, name: str) -> str:
    if not own:
        return "<td></td>"
    size = _size(own)
    words = f"{100 * size:.2f}" if relative else f"{size:.3g}"
    layers = "1 layer" if len(own) == 1 else f"{len(own)} layers"
    title = html.escape(f"{name}: {words}{' %' if relative else ''}, {layers}")
    return f'<td title="{title}" style="--share:{min(size / largest, 1):.3f}">{words}</td>'


def _where(layers: Sequence[LayerSpectrum]) -> str:
    """The sentence on the table."""
    blocks, kinds = _by(layers, lambda layer: layer.block), _by(layers, lambda layer: layer.kind)
    block, kind = (max(groups, key=lambda name: _size(groups[name])) for groups in (blocks, kinds))
    against = "relative to the weights " if _relative(layers) is not None else ""
    return f"The update is largest {against}in the block {block}, and of the kinds of layers in {kind}."
