"""What the update of an adapter is made of and where it sits, drawn: ranks, singular values, blocks and kinds."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from lowrank_diffusion.evaluations import LayerSpectrum, Spectra

from .plot import Point, Series, chart, section

ORDER = ("to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "o_proj", "feed-forward")
"""Kinds of layers in the order of the table; others follow as they come."""
MOST_VALUES = 64
"""Singular values of a layer that a chart shows."""


def spectra(record: Spectra) -> str:
    """The charts, the table and the sentence."""
    layers = [layer for layer in record.layers if layer.values]
    if not layers:
        return section("spectra", "", "No layer is changed.", record.command)
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
    return section("spectra", body + _heat(layers), words + _where(layers), record.command)


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
    blocks, kinds = _by(layers, lambda layer: layer.block), _ordered(_by(layers, lambda layer: layer.kind))
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


def _ordered(kinds: Iterable[str]) -> list[str]:
    return sorted(kinds, key=lambda kind: ORDER.index(kind) if kind in ORDER else len(ORDER))


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
