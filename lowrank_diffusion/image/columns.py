"""What a table says of a picture besides its caption: how often, how strongly, and which part of it is learnt."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("repeats", "weight", "frame", "mask")
MOST_REPEATS = 1000
LARGEST_WEIGHT = 100.0

Frame = tuple[float, float, float, float]
"""(left, top, right, bottom) of a part of a picture, each a fraction of its width or height, 0 to 1."""


@dataclass(frozen=True)
class Use:
    """How a picture is learnt."""

    repeats: int = 1
    """Times an epoch sees it."""
    weight: float = 1.0
    """Factor of its loss."""
    frame: Frame | None = None
    """The part that is looked at; None: all of it."""
    mask: Path | None = None
    """A picture of the same shape, white where the loss counts and black where it does not; the picture itself: its
    alpha channel; None: the loss counts everywhere."""


PLAIN = Use()
"""As a picture is learnt of which nothing is said."""


def read(row: Mapping[Any, Any], locate: Callable[[str], Path | None], marks: set[str]) -> tuple[Use, list[str]]:
    """How a row of a table wants its picture to be learnt, and what is wrong with that, as ends of sentences.

    Args:
        row: Values by column; a column that is empty is not there.
        locate: The file that a name in the row means.
        marks: Columns that say yes or no to the whole picture (see :mod:`lowrank_diffusion.marks`), such as
            ``weight=0`` or ``mask=true``: they are not read again.
    """
    given = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "") and name not in marks}
    values: dict[str, Any] = {}
    problems = []
    for name, value in given.items():
        try:
            values[name] = _mask(value, locate) if name == "mask" else _READ[name](value)
        except ValueError as error:
            problems.append(f"{name} {error}, got {value!r:.80}. Rename the column if it means something else.")
    return Use(**values), problems


def frame_of(values: Any) -> Frame:
    """Four numbers as a frame. Raises ValueError with the rule, as the end of a sentence."""
    rule = "must be four fractions: left, top, right, bottom, such as [0.1, 0, 0.9, 1]"
    if not isinstance(values, list | tuple) or len(values) != 4:
        raise ValueError(rule)
    numbers = [_number(value) for value in values if not isinstance(value, str)]
    sides = [number for number in numbers if number is not None]
    if len(sides) != 4:
        raise ValueError(rule)
    left, top, right, bottom = sides
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("must have 0 <= left < right <= 1 and 0 <= top < bottom <= 1")
    return left, top, right, bottom


def repeats_of(value: Any) -> int:
    """A number of repeats. Raises ValueError with the rule, as the end of a sentence."""
    number = _number(value)
    if number is None or number != int(number) or not 1 <= number <= MOST_REPEATS:
        raise ValueError(f"must be a whole number from 1 to {MOST_REPEATS}")
    return int(number)


def weight_of(value: Any) -> float:
    """A weight. Raises ValueError with the rule, as the end of a sentence."""
    number = _number(value)
    if number is None or not 0 < number <= LARGEST_WEIGHT:
        raise ValueError(f"must be a number above 0 and at most {LARGEST_WEIGHT:g}")
    return number


def _number(value: Any) -> float | None:
    """A finite number, or one that a table of texts holds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _frame(value: Any) -> Frame:
    """Also as a text with four numbers, in brackets or not: tables as .csv hold nothing else."""
    if isinstance(value, str):
        parts = [part for part in re.split(r"[\s,;]+", value.strip().strip("[]()")) if part]
        numbers = [_number(part) for part in parts[:5]]
        return frame_of(numbers)
    return frame_of(value)


def _mask(value: Any, locate: Callable[[str], Path | None]) -> Path:
    path = locate(value) if isinstance(value, str) else None
    if path is None:
        raise ValueError("must be the name of a file in this folder")
    return path


_READ: Mapping[str, Callable[[Any], Any]] = {"repeats": repeats_of, "weight": weight_of, "frame": _frame}


def written(use: Use, mask: str = "") -> dict[str, Any]:
    """The columns of a table that say this, without those that say what is so anyway; ``mask``: its file's name."""
    values: dict[str, Any] = {}
    if use.repeats != 1:
        values["repeats"] = use.repeats
    if use.weight != 1:
        values["weight"] = use.weight
    if use.frame:
        values["frame"] = list(use.frame)
    if mask:
        values["mask"] = mask
    return values
