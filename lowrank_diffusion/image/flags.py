"""What a person should look at in a set of pictures: too small, blurred, there twice, or with a border around.

Each picture is decoded once, at reduced size where its format can, and kept in mind by path, time and length; comparing
a set is then cheap. All of this is advice: nothing is left out for it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .buckets import Size
from .columns import Frame
from .data import Picture
from .pictures import preview

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

KINDS = ("small", "blurred", "duplicate", "border")
SIDE = 256
"""Pixels of the shorter side at which a picture is looked at."""
BLURRED = 30.0
"""A sharpness below this is called blurred. Of the 127 pictures that ship with the project none is below 230, or below
100 after a Gaussian blur of sigma 0.5 at :data:`SIDE`; after one of sigma 1.5, which an eye sees at once, all are."""
NEAR = 4
"""Bits of 64 in which difference hashes of pictures that look the same may differ."""
ALIKE = 0.18
"""And so far apart may such pictures be at 32 x 32, in standard deviations. Resized to 60 % or saved as a bad JPEG they
are at most 0.15 apart; the same drawing with another expression on its face is 0.2 or more."""
_BLOCK = 16
_FLAT = 25.0
"""Variance of grey values below which a block shows nothing that could be sharp."""
_TOLERANCE = 10
"""Grey levels that a JPEG adds to an even border."""
_THINNEST = 0.02
"""Share of a side that a border has to have."""


@dataclass(frozen=True)
class Look:
    """What is known of how a picture looks."""

    sharpness: float | None
    """Variance of the Laplacian per variance, times 1000, in the tenth of the blocks with the most contrast; None for a
    picture of even colours."""
    hash: int
    """Of 64 bits: whether each of 8 x 8 areas is brighter than the one right of it."""
    grey: bytes
    """32 x 32 grey values."""
    inside: Frame | None
    """The part within an even border; None where there is none."""


@dataclass(frozen=True)
class Flag:
    """Something to look at."""

    kind: str
    """One of :data:`KINDS`."""
    picture: Path
    what: str
    """The end of a sentence whose subject is the picture."""
    advice: str
    others: tuple[Path, ...] = ()
    """Of a duplicate: the pictures that look the same."""
    frame: Frame | None = None
    """Of a border: the frame that leaves it out."""


def flags(pictures: Sequence[Picture], sizes: Sequence[Size] | None = None) -> list[Flag]:
    """What is to be looked at in these pictures, one after the other. Raises DataError.

    ``sizes``: (width, height) at which each is trained, pixels; None where that is not known.
    """
    raised = [*small(pictures, sizes)] if sizes else []
    for picture in pictures:
        seen = look(picture.path)
        if seen.sharpness is not None and seen.sharpness < BLURRED:
            raised.append(Flag("blurred", picture.path, "is blurred.", "Take a sharper one, or leave it out."))
        if seen.inside and picture.frame is None:
            advice = "Give it a frame that leaves the border out, or it is learnt as well."
            raised.append(Flag("border", picture.path, "has an even border.", advice, frame=seen.inside))
    raised += duplicates(pictures)
    order = {picture.path: number for number, picture in enumerate(pictures)}
    return sorted(raised, key=lambda flag: (order[flag.picture], KINDS.index(flag.kind)))


def small(pictures: Sequence[Picture], sizes: Sequence[Size]) -> Iterator[Flag]:
    """Pictures that are enlarged to the size they are trained at."""
    for picture, (width, height) in zip(pictures, sizes, strict=True):
        factor = enlarged(picture, (width, height))
        if factor > 1:
            what = f"is enlarged {factor:.1f} times, to {width} x {height} px."
            yield Flag("small", picture.path, what, "Take a larger one, or a smaller data.resolution.")


def enlarged(picture: Picture, size: Size) -> float:
    """How many times a picture's sides become longer when it fills ``size``; less than 1: shorter."""
    width, height = picture.seen
    return max(size[0] / width, size[1] / height)


def duplicates(pictures: Sequence[Picture]) -> Iterator[Flag]:
    """Pictures that look the same as others, one flag for the first of each group. Raises DataError."""
    for group in groups([look(picture.path) for picture in pictures]):
        first, *others = (pictures[number].path for number in group)
        names = " and ".join(path.name for path in others)
        what = f"looks the same as {names}."
        yield Flag("duplicate", first, what, "Keep one of them, unless it is to be learnt so much more.", tuple(others))


def groups(looks: Sequence[Look]) -> list[list[int]]:
    """The numbers of pictures that look the same, in groups of two and more, in their order."""
    import numpy as np

    hashes = np.array([seen.hash for seen in looks], dtype=np.uint64)
    member = list(range(len(looks)))

    def root(number: int) -> int:
        while member[number] != number:
            number = member[number]
        return number

    for number in range(len(looks)):
        near = np.bitwise_count(hashes[number + 1 :] ^ hashes[number]) <= NEAR
        for other in (number + 1 + np.flatnonzero(near)).tolist():
            if root(other) != root(number) and _apart(looks[number], looks[other]) <= ALIKE:
                member[root(other)] = root(number)
    together: dict[int, list[int]] = {}
    for number in range(len(looks)):
        together.setdefault(root(number), []).append(number)
    return [group for group in together.values() if len(group) > 1]


def _apart(one: Look, other: Look) -> float:
    """Root mean square difference of two pictures in standard deviations, whatever their brightness and contrast."""
    import numpy as np

    a, b = (np.frombuffer(seen.grey, dtype=np.uint8).astype(np.float64) for seen in (one, other))
    if a.std() < 1 or b.std() < 1:
        return float("inf")  # of one colour all over: nothing that could be the same
    return float(np.sqrt((((a - a.mean()) / a.std() - (b - b.mean()) / b.std()) ** 2).mean()))


def look(path: Path) -> Look:
    """How a picture looks. Raises DataError."""
    stat = path.stat()
    return _look(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=20_000)
def _look(path: Path, _time: int, _size: int) -> Look:
    import numpy as np

    picture = preview(path, SIDE)
    grey = picture.convert("L")
    steps = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (steps[:, :-1] > steps[:, 1:]).ravel()
    small_grey = grey.resize((32, 32), Image.Resampling.BOX).tobytes()
    values = np.asarray(grey, dtype=np.float32)
    hashed = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return Look(_sharpness(values), hashed, small_grey, _inside(np.asarray(picture, dtype=np.int16)))


def _sharpness(grey: Array) -> float | None:
    """See :attr:`Look.sharpness`; ``grey``: (h, w) float32."""
    import numpy as np

    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    contrast, edges = _blocks(inner).var(axis=1), _blocks(laplacian).var(axis=1)
    most = np.argsort(contrast)[-max(1, len(contrast) // 10) :]
    if contrast.size == 0 or contrast[most].mean() < _FLAT:
        return None
    return float(edges[most].mean() / contrast[most].mean() * 1000)


def _blocks(values: Array) -> Array:
    """(h, w) -> (N, 256): squares of 16 x 16, as many as fit; of smaller pictures one block with all of it."""
    height, width = (side // _BLOCK for side in values.shape)
    if not height or not width:
        return values.reshape(1, -1)
    squares = values[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK)
    return squares.transpose(0, 2, 1, 3).reshape(height * width, -1)


def _inside(pixels: Array) -> Frame | None:
    """The part within an even border of (h, w, 3) pixels; None without one.

    An even background is no border: bars are on two opposite sides or on all four, thick enough to be meant, and where
    they end most of the next line has other colours at once.
    """
    import numpy as np

    height, width = pixels.shape[:2]
    corner = pixels[0, 0]
    even = np.abs(pixels - corner).max(axis=2) <= _TOLERANCE  # (h, w): of the corner's colour
    rows, columns = even.mean(axis=1), even.mean(axis=0)
    top, bottom = _bars(rows)
    left, right = _bars(columns)
    if top + bottom >= height or left + right >= width:
        return None  # one colour all over
    frame = (left / width, top / height, 1 - right / width, 1 - bottom / height)
    thick = (
        top >= _THINNEST * height and bottom >= _THINNEST * height,
        left >= _THINNEST * width and right >= _THINNEST * width,
    )
    if not any(thick) or (top > 0) != (bottom > 0) or (left > 0) != (right > 0):
        return None
    within = even[top : height - bottom, left : width - right]
    ends = [(0, 1, top), (-2, -1, bottom)]
    rows_end = [within[[one, two]].mean() for one, two, bar in ends if bar]
    columns_end = [within[:, [one, two]].mean() for one, two, bar in ((0, 1, left), (-2, -1, right)) if bar]
    return frame if max(rows_end + columns_end) < 0.5 else None


def _bars(lines: Array) -> tuple[int, int]:
    """How many lines from the start, and from the end, are even all along."""
    import numpy as np

    other = np.flatnonzero(lines < 1)
    return (int(other[0]), int(len(lines) - 1 - other[-1])) if len(other) else (len(lines), 0)
