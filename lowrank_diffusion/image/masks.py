"""Masks: pictures that are white where the loss of another picture counts and black where it does not.

Beside a picture NAME.jpg lies NAME-masklabel.png, as OneTrainer calls it, or NAME.mask.png; a table names any file.
Grey counts in part, and what is transparent in a mask does not count.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path, PurePath

from PIL import Image

from ..errors import DataError
from . import pictures

NAMES = re.compile(r"(?P<owner>.+?)(-masklabel|\.mask)\.png", re.IGNORECASE)
EMPTY = 1 / 16
"""A mask of which no part of a latent's size is white to this share leaves nothing to learn."""


def is_mask(path: Path) -> bool:
    """Whether a file is called as masks are."""
    return NAMES.fullmatch(path.name) is not None


def owners(masks: Iterable[Path], beside: Sequence[Path]) -> tuple[dict[Path, Path], list[str]]:
    """The mask of each of the pictures ``beside`` that has one, and what is wrong with the masks."""
    of: dict[Path, Path] = {}
    problems = []
    for mask in masks:
        match = NAMES.fullmatch(mask.name)
        name = _spelt(match["owner"] if match else mask.stem)
        meant = [path for path in beside if _spelt(path.name) == name] or [
            path for path in beside if _spelt(path.stem) == name
        ]
        if not meant:
            advice = f"Add a picture {name}.png (or .jpg...), or give the file another name if it is no mask."
            problems.append(f"{mask}: is a mask without its picture. {advice}")
        elif len(meant) > 1:
            names = " or ".join(path.name for path in meant)
            problems.append(f"{mask}: could be the mask of {names}. Call it {meant[0].name}.mask.png.")
        elif meant[0] in of:
            problems.append(f"{mask}: is a second mask of {meant[0].name}. Keep one of them.")
        else:
            of[meant[0]] = mask
    return of, problems


def _spelt(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def check(picture: Path, size: tuple[int, int], mask: Path) -> None:
    """Decode a mask of a picture of ``size`` (width, height). Raises DataError: it is broken, or has another shape."""
    if mask == picture:
        return
    (width, height), (across, down) = size, pictures.check_picture(mask)
    # As far off as rounding both sides can make it.
    if abs(across * height - down * width) > (width + height) / 2:
        rule = f"is a mask of {across} x {down} px for a picture of {width} x {height} px"
        raise DataError([f"{mask}: {rule}. Give it the size or the shape of {PurePath(picture).name}."])


def opened(picture: Path, mask: Path, size: tuple[int, int]) -> Image.Image:
    """A mask as 8-bit grey of the picture's ``size`` (width, height), 255 where all of the loss counts.

    Raises:
        DataError: it cannot be read.
    """
    return _opened(picture, mask, size, mask.stat().st_mtime_ns)


def shown(picture: Path, mask: Path, size: tuple[int, int], side: int) -> bytes:
    """A mask as a grey PNG that fits into a square of ``side`` pixels, as :func:`opened` has it. Raises DataError."""
    image = opened(picture, mask, size).copy()
    image.thumbnail((side, side), Image.Resampling.BOX)
    content = BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


@functools.lru_cache(maxsize=1)  # the crops of a picture come one after the other
def _opened(picture: Path, mask: Path, size: tuple[int, int], _time: int) -> Image.Image:
    if mask == picture:
        image = pictures.alpha(picture)
    else:
        image = pictures.open_picture(mask, "#000000").convert("L")
    return image if image.size == size else image.resize(size, Image.Resampling.BOX)
