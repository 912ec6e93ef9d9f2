"""One picture of a grid, with the values of its axes written beside the cells; no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .grid import Grid

GAP = 8
LARGEST = 64_000_000
"""Pixels: a larger sheet is made of smaller cells."""
INK, PAPER, EMPTY = "#1e293b", "#ffffff", "#eef1f4"


def draw(grid: Grid, folder: Path) -> Image.Image:
    """The sheet of what is in ``folder`` so far; a cell that is missing is grey. Long labels are wrapped, never cut.

    With one axis the cells stand in a row, with two as a table, with three as tables below each other.
    """
    names = {cell.place: folder / cell.item.files[0].name for cell in grid.cells}
    sizes = [_size(path) for path in names.values() if path.is_file()] or [(128, 128)]
    cell = max(width for width, _ in sizes), max(height for _, height in sizes)
    share = min(1.0, math.sqrt(LARGEST / (len(names) * (cell[0] + GAP) * (cell[1] + GAP))))
    cell = max(32, int(cell[0] * share)), max(32, int(cell[1] * share))
    tables = [_table(grid, names, above, cell) for above in _above(grid)]
    sheet = Image.new("RGB", (max(t.width for t in tables), sum(t.height for t in tables)), PAPER)
    top = 0
    for table in tables:
        sheet.paste(table, (0, top))
        top += table.height
    return sheet


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _above(grid: Grid) -> list[tuple[int, ...]]:
    """The places of the axis that the tables stand below each other for: one empty place if there is none."""
    return [(number,) for number in range(len(grid.axes[0].values))] if len(grid.axes) == 3 else [()]


def _table(
    grid: Grid, names: dict[tuple[int, ...], Path], above: tuple[int, ...], cell: tuple[int, int]
) -> Image.Image:
    axes = grid.axes[len(above) :]
    columns = axes[-1]
    rows = axes[0].values if len(axes) == 2 else ("",)
    size = max(12, min(28, cell[0] // 10))
    little = max(12, size * 3 // 4)
    font, small = ImageFont.load_default(size), ImageFont.load_default(little)
    margin = _margin(axes, cell, font)
    title = f"{grid.axes[0].kind}: {grid.axes[0].values[above[0]]}" if above else ""
    width = margin + len(columns.values) * (cell[0] + GAP) + GAP
    head = wrapped(title, width - 2 * GAP, font.getlength)
    heads = [wrapped(value, cell[0], font.getlength) for value in columns.values]
    line = size * 5 // 4
    top = GAP + len(head) * line + GAP * bool(head)
    below = top + little * 3 // 2 + max(map(len, heads)) * line + GAP
    sides = [wrapped(value, margin - 2 * GAP, font.getlength) for value in rows]
    heights = [max(cell[1], len(side) * line) + GAP for side in sides]
    table = Image.new("RGB", (int(width), int(below + sum(heights))), PAPER)
    pen = ImageDraw.Draw(table)
    _write(pen, (GAP, GAP), head, font, line)
    _write(pen, (margin + GAP, int(top)), [columns.kind], small, line)
    for number, words in enumerate(heads):
        _write(pen, (margin + GAP + number * (cell[0] + GAP), int(top + little * 3 // 2)), words, font, line)
    if len(axes) == 2:
        _write(pen, (GAP, int(top)), [axes[0].kind], small, line)
    for row, side in enumerate(sides):
        at = int(below + sum(heights[:row]))
        _write(pen, (GAP, at), side, font, line)
        for column in range(len(columns.values)):
            place = (*above, *((row,) if len(axes) == 2 else ()), column)
            _paste(table, names[place], (margin + GAP + column * (cell[0] + GAP), at), cell)
    return table


def _margin(axes: Sequence[Any], cell: tuple[int, int], font: Any) -> int:
    """Width of the column with the rows' labels, pixels."""
    if len(axes) < 2:
        return 0
    longest = max(font.getlength(value) for value in (axes[0].kind, *axes[0].values))
    return int(min(longest, max(cell[0], 160))) + 2 * GAP


def _paste(table: Image.Image, path: Path, at: tuple[int, int], cell: tuple[int, int]) -> None:
    if not path.is_file():
        table.paste(EMPTY, (*at, at[0] + cell[0], at[1] + cell[1]))
        return
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail(cell, Image.Resampling.LANCZOS)
    table.paste(picture, at)


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], lines: list[str], font: Any, line: int) -> None:
    for number, words in enumerate(lines):
        pen.text((at[0], at[1] + number * line), words, fill=INK, font=font)


def wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """``text`` in lines of at most ``width``, broken between words, and inside a word that is longer than a line."""
    lines, current = [], ""
    for word in text.split():
        joined = f"{current} {word}".strip()
        if length(joined) <= width:
            current = joined
            continue
        lines += [current] if current else []
        current = word
        while length(current) > width and len(current) > 1:
            cut = next((n for n in range(len(current) - 1, 1, -1) if length(current[:n]) <= width), 1)
            lines.append(current[:cut])
            current = current[cut:]
    return [*lines, current] if current else lines
