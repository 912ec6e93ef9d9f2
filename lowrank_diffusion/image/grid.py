"""Grids of pictures: the same request with one, two or three things changed along axes; no torch.

The values of an axis are a text: "0.5, 1, 1.5"; "0.2-1 x5" for five from 0.2 to 1; "1-4" for whole numbers one by one;
a value with a comma in quotes: "a cat, red", "a dog".
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ConfigError, Problem
from ..errors import UserError
from ..paths import write_text
from . import kept, samplers
from .items import Item
from .request import AdapterChoice, DrawRequest, problems, violation

MOST_AXES = 3
MOST_CELLS = 400
LONGEST = 20_000
"""Characters of the values of one axis."""
FILE = "grid.json"
SHEET = "grid.png"

NUMBERS = {"strength": float, "seed": int, "guidance": float, "steps": int}
KINDS = ("checkpoint", "adapter", "strength", "prompt", "words", "seed", "guidance", "steps", "sampler")
"""What can change along an axis. ``prompt``: the whole of it; ``words``: the first of the values is looked for in the
prompt, and each in turn takes its place. ``checkpoint``, ``adapter`` and ``strength`` are of the first
adapter."""
STRENGTHS = (-10, 10)
_RANGE = re.compile(r"(-?\d*\.?\d+)\s*-\s*(-?\d*\.?\d+)(?:\s*x\s*(\d{1,4}))?")

Resolve = Callable[[str], str]
"""From the name of an adapter, as a person writes it, to its file. Raises UserError."""


@dataclass(frozen=True)
class Axis:
    """What changes, and its values as a person reads them."""

    kind: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One picture: where it is (a number for each axis) and what it is drawn from."""

    place: tuple[int, ...]
    item: Item


@dataclass(frozen=True)
class Grid:
    """A request and what is changed of it."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    """In the order in which they are read: the last axis changes fastest."""

    @property
    def items(self) -> list[Item]:
        """In the order in which they are drawn: an adapter is loaded, and its strength set, as seldom as can be."""
        return [cell.item for cell in sorted(self.cells, key=self._weight)]

    def _weight(self, cell: Cell) -> tuple[int, ...]:
        at = dict(zip((axis.kind for axis in self.axes), cell.place, strict=True))
        return tuple(at.get(kind, 0) for kind in ("adapter", "checkpoint", "strength", "sampler"))

    def describe(self) -> dict[str, Any]:
        """What ``grid.json`` holds: axes, and each cell with its file and its settings."""
        cells = [
            {"place": list(cell.place), "file": cell.item.files[0].name, "request": asdict_of(cell.item.request)}
            for cell in self.cells
        ]
        return {"version": 1, "axes": [asdict(axis) for axis in self.axes], "cells": cells}

    def write(self, folder: Path) -> None:
        """Keep the description. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(self.describe(), indent=1, ensure_ascii=False))


def asdict_of(request: DrawRequest) -> dict[str, Any]:
    """A request as plain values."""
    return asdict(request) | {"base": request.base.model_dump()}


def make(request: DrawRequest, axes: Sequence[tuple[str, str]], resolve: Resolve) -> Grid:
    """The grid of a request, whose count is then 1, from pairs of a kind and its values.

    Raises:
        ConfigError: With every problem, each by its axis.
    """
    wrong = _of_kinds([kind for kind, _ in axes])
    parsed: list[tuple[Axis, list[_Change]]] = []
    for kind, text in axes:
        try:
            parsed.append(_axis(kind, text, request, resolve) if kind in KINDS else (Axis(kind, ()), []))
        except UserError as error:
            wrong.append(Problem(f"axis {kind}", str(error)))
    if not request.adapters and "adapter" not in (kinds := [kind for kind, _ in axes]) and "strength" in kinds:
        wrong.append(Problem("axis strength", "needs an adapter, whose strength it changes."))
    count = math.prod(len(changes) for _, changes in parsed)
    if count > MOST_CELLS:
        wrong.append(Problem("axes", f"make {count} pictures; at most {MOST_CELLS} are drawn.", "Take fewer values."))
    if wrong:
        raise ConfigError(wrong)
    first = replace(request, count=1, compare=False)
    turns = sorted(range(len(parsed)), key=lambda number: KINDS.index(parsed[number][0].kind))  # adapters come first
    cells = []
    for place in itertools.product(*(range(len(changes)) for _, changes in parsed)):
        changed = first
        for axis in turns:
            changed = parsed[axis][1][place[axis]](changed)
        wrong += [Problem(f"cell {place}", str(problem)) for problem in problems(changed)]
        cells.append(Cell(place, Item("".join(f"{number}-" for number in place), changed)))
    if wrong:
        raise ConfigError(wrong[:20])
    return Grid(tuple(axis for axis, _ in parsed), tuple(cells))


_Change = Callable[[DrawRequest], DrawRequest]


def _of_kinds(kinds: Sequence[str]) -> list[Problem]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    wrong = [Problem(f"axis {kind[:40]}", "there is no such axis.", f"Axes: {', '.join(KINDS)}.") for kind in unknown]
    if not 1 <= len(kinds) <= MOST_AXES:
        wrong.append(Problem("axes", f"one to {MOST_AXES} are needed, got {len(kinds)}."))
    wrong += [Problem(f"axis {kind}", "is given twice.") for kind in sorted({k for k in kinds if kinds.count(k) > 1})]
    if {"prompt", "words"} <= set(kinds):
        wrong.append(Problem("axis words", "cannot go with axis prompt, which replaces the whole prompt."))
    if {"adapter", "checkpoint"} <= set(kinds):
        wrong.append(Problem("axis checkpoint", "cannot go with axis adapter: name checkpoints there, as RUN:STEP."))
    return wrong


def _axis(kind: str, text: str, request: DrawRequest, resolve: Resolve) -> tuple[Axis, list[_Change]]:
    """An axis, and what each of its values does to a request. Raises UserError."""
    if len(text) > LONGEST:
        raise UserError(f"has {len(text):,} characters; at most {LONGEST:,} are read.")
    if kind in NUMBERS:
        values = numbers(kind, text)
        return Axis(kind, tuple(f"{value:g}" if kind not in ("seed", "steps") else str(value) for value in values)), [
            _numbered(kind, value) for value in values
        ]
    words = texts(text)
    if kind == "checkpoint":
        words, files = _checkpoints(words, request)
        return Axis(kind, tuple(words)), [_with_file(file) for file in files]
    if kind == "adapter":
        return Axis(kind, tuple(words)), [_with_file(None if word == "none" else resolve(word)) for word in words]
    if kind == "sampler":
        if rule := next(filter(None, map(samplers.problem, words)), ""):
            raise UserError(rule)
        return Axis(kind, tuple(words)), [_replacing(sampler=word) for word in words]
    if kind == "words" and words[0] not in request.prompt:
        raise UserError(f"the first value, {words[0]!r}, is looked for in the prompt, and is not there.")
    prompts = words if kind == "prompt" else [request.prompt.replace(words[0], word) for word in words]
    return Axis(kind, tuple(words)), [_replacing(prompt=prompt) for prompt in prompts]


def texts(text: str) -> list[str]:
    """Values with commas or line feeds between them, each in quotes if it holds one. Raises UserError."""
    try:
        rows = csv.reader(text.splitlines(), skipinitialspace=True, strict=True)
        words = [word.strip() for row in rows for word in row]
    except csv.Error as error:
        raise UserError(f'the quotes are not in pairs ({error}). Write "a cat, red", "a dog".') from None
    words = [word for word in words if word]
    if not words:
        raise UserError("has no values.")
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise UserError(f"has {twice!r} twice.")
    return words


def joined(values: Sequence[object]) -> str:
    """The text that :func:`texts` reads as these values."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([str(value) for value in values])
    return line.getvalue()


def numbers(kind: str, text: str) -> list[Any]:
    """The numbers of an axis. Raises UserError for what is not one, or out of bounds."""
    values: list[Any] = []
    for word in texts(text):
        values += _numbers(kind, word)
    for value in values:
        low, high = STRENGTHS
        outside = kind == "strength" and not low <= value <= high
        if rule := f"must be from {low} to {high}, got {value:g}." if outside else _rule(kind, value):
            raise UserError(rule)
    if len(values) > MOST_CELLS:
        raise UserError(f"has {len(values)} values; at most {MOST_CELLS} pictures are drawn.")
    return list(dict.fromkeys(values))


def _rule(kind: str, value: float) -> str:
    return "" if kind == "strength" else violation(kind, value)


def _numbers(kind: str, word: str) -> list[Any]:
    """One number, or those of a range. Raises UserError."""
    whole = NUMBERS[kind] is int
    if match := _RANGE.fullmatch(word):
        begin, end, count = float(match[1]), float(match[2]), int(match[3]) if match[3] else 0
        if not count and not (whole and begin.is_integer() and end.is_integer()):
            raise UserError(f'{word!r}: say how many from the one to the other: "{word} x5".')
        count = count or int(abs(end - begin)) + 1
        if not 2 <= count <= MOST_CELLS:
            raise UserError(f"{word!r}: is {count} values; 2 to {MOST_CELLS} can be.")
        spaced = [begin + (end - begin) * number / (count - 1) for number in range(count)]
        return [round(value) for value in spaced] if whole else [round(value, 4) for value in spaced]
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (whole and not value.is_integer()):
        kind_of = "a whole number" if whole else "a number"
        raise UserError(f'{word[:60]!r} is not {kind_of}. Write 1, 2 or a range such as "1-5 x3".')
    return [int(value) if whole else value]


def _numbered(kind: str, value: Any) -> _Change:
    if kind != "strength":
        return _replacing(**{kind: value})
    return lambda drawn: _first(drawn, lambda choice: replace(choice, strength=value))


def _replacing(**values: Any) -> _Change:
    return lambda drawn: replace(drawn, **values)


def _with_file(file: str | None) -> _Change:
    """With another file as the first adapter, at the strength of the one before it; None: without that adapter."""

    def change(drawn: DrawRequest) -> DrawRequest:
        if file is None:
            return replace(drawn, adapters=drawn.adapters[1:])
        if not drawn.adapters:
            return replace(drawn, adapters=(AdapterChoice(file),))
        return _first(drawn, lambda choice: replace(choice, path=file))

    return change


def _first(drawn: DrawRequest, change: Callable[[AdapterChoice], AdapterChoice]) -> DrawRequest:
    return replace(drawn, adapters=(*map(change, drawn.adapters[:1]), *drawn.adapters[1:]))


def _checkpoints(words: list[str], request: DrawRequest) -> tuple[list[str], list[str]]:
    """The steps, oldest first where all are meant, and the adapters' files. Raises UserError."""
    run = kept.owner(Path(request.adapters[0].path)) if request.adapters else None
    if run is None:
        raise UserError("needs a run as the first adapter, whose checkpoints it shows.")
    there: Mapping[str, str] = {
        "finished" if adapter.step is None else str(adapter.step): str(adapter.loaded)
        for adapter in reversed(run.adapters())
    }
    words = list(there) if words == ["all"] else words
    if missing := [word for word in words if word not in there]:
        raise UserError(f"{run.title} has none of {', '.join(missing)}. It has: all, {', '.join(there)}.")
    return words, [there[word] for word in words]
