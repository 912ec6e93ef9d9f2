"""Backgrounds: plain colours, gradients and painted scenery, drawn by arithmetic.

The bank is one array (K, SIDE, SIDE, 3) of bytes. Row 0 is white, the default of every caption that names
no background. `COLOUR_ROWS` and `SCENE_ROWS` tell which rows belong to which words.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .colours import COLOURS
from .settings import SIDE

TINTS = 6  # variants per colour
VARIANTS = 10  # per scenery

Painter = Callable[[np.random.Generator], np.ndarray]

SCENERY: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass", "on a green field", "in a garden", "in a park"),
    "beach": ("on the beach", "on the sand", "by the sea", "at the seaside"),
    "snow": ("in the snow", "in winter", "on a snowy day", "with snow"),
    "night": ("at night", "under the stars", "in the night sky", "in space", "with stars"),
    "rain": ("in the rain", "on a rainy day", "in a storm"),
    "sky": ("in the sky", "in the clouds", "with clouds", "flying in the sky"),
    "water": ("under water", "underwater", "in the sea", "in the ocean"),
    "sunset": ("at sunset", "in the evening", "at dusk", "at sunrise"),
    "desert": ("in the desert", "on a dune"),
    "table": ("on a wooden table", "on a table", "on a wooden floor"),
    "room": ("in a room", "indoors", "at home"),
    "stripes": ("on stripes", "with a striped background", "on a striped background"),
    "checks": ("on a checkered background", "with a checkered background"),
    "rainbow": ("in front of a rainbow", "on a rainbow background", "with a rainbow background"),
    "dots": ("on polka dots", "with a dotted background", "with confetti"),
}

_colours = list(COLOURS)
COLOUR_ROWS = {word: range(1 + i * TINTS, 1 + (i + 1) * TINTS) for i, word in enumerate(_colours)}
_first = 1 + len(_colours) * TINTS
SCENE_ROWS = {k: range(_first + i * VARIANTS, _first + (i + 1) * VARIANTS) for i, k in enumerate(SCENERY)}


def bank(seed: int = 7) -> np.ndarray:
    """All backgrounds, the same for the same seed."""
    rng = np.random.default_rng(seed)
    rows = [np.ones((SIDE, SIDE, 3))]
    for word in COLOURS:
        rows += [_plain(np.array(COLOURS[word]) / 255, i, rng) for i in range(TINTS)]
    for painter in PAINTERS.values():
        rows += [painter(rng) for _ in range(VARIANTS)]
    return (np.stack(rows).clip(0, 1) * 255).round().astype(np.uint8)


def _plain(colour: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Variant 0 is the colour itself; others are lighter or darker; the last two fade."""
    shift = 0.0 if variant == 0 else rng.uniform(-0.12, 0.12)
    tone = (colour + shift * (colour if shift < 0 else 1 - colour)).clip(0, 1)
    if variant < TINTS - 2:
        return np.broadcast_to(tone, (SIDE, SIDE, 3)).copy()
    return _fade(tone, tone * 0.8 + 0.2 * (variant % 2))


def _fade(top: np.ndarray | tuple, bottom: np.ndarray | tuple, horizon: float = 1.0) -> np.ndarray:
    """Vertical gradient that reaches `bottom` at `horizon` (share of the height)."""
    rows = np.clip(np.linspace(0, 1, SIDE) / horizon, 0, 1)[:, None, None]
    return np.broadcast_to(np.array(top) * (1 - rows) + np.array(bottom) * rows, (SIDE, SIDE, 3)).copy()


def _ground(picture: np.ndarray, colour: tuple, level: float, rng: np.random.Generator) -> np.ndarray:
    """Fill everything below a gently waving line."""
    across = np.arange(SIDE) / SIDE
    line = level + 0.03 * np.sin(2 * np.pi * (across * rng.uniform(0.5, 1.5) + rng.random()))
    below = (np.arange(SIDE)[:, None] / SIDE) > line[None]
    depth = np.linspace(1.08, 0.85, SIDE)[:, None, None]
    picture[below] = (np.array(colour) * depth + np.zeros_like(picture))[below]
    return picture


def _spots(picture: np.ndarray, colour: tuple, count: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Scatter soft discs."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(count):
        size = radius * rng.uniform(0.6, 1.4)
        gap = np.hypot(y - rng.uniform(0, SIDE), x - rng.uniform(0, SIDE))
        cover = np.clip(size - gap + 0.5, 0, 1)[..., None]
        picture = picture * (1 - cover) + np.array(colour) * cover
    return picture


def _clouds(picture: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(count):
        cy, cx = rng.uniform(8, SIDE - 8), rng.uniform(0, SIDE)
        for offset, size in ((-12, 8), (0, 12), (12, 9)):
            gap = np.hypot((y - cy) * 1.3, x - cx - offset)
            cover = np.clip(size - gap + 0.5, 0, 1)[..., None] * 0.9
            picture = picture * (1 - cover) + cover
    return picture


def _meadow(rng: np.random.Generator) -> np.ndarray:
    sky = _fade((0.55, 0.8, 0.97), (0.85, 0.94, 1.0))
    return _ground(sky, (0.45, 0.74, 0.32), rng.uniform(0.35, 0.7), rng)


def _beach(rng: np.random.Generator) -> np.ndarray:
    sea = _ground(_fade((0.6, 0.85, 0.98), (0.85, 0.95, 1.0)), (0.16, 0.58, 0.78), rng.uniform(0.35, 0.45), rng)
    return _ground(sea, (0.95, 0.86, 0.62), rng.uniform(0.6, 0.7), rng)


def _snow(rng: np.random.Generator) -> np.ndarray:
    cold = _ground(_fade((0.62, 0.74, 0.88), (0.8, 0.88, 0.95)), (0.95, 0.97, 1.0), rng.uniform(0.6, 0.8), rng)
    return _spots(cold, (1, 1, 1), 45, 2.0, rng)


def _night(rng: np.random.Generator) -> np.ndarray:
    dark = _fade((0.04, 0.05, 0.16), (0.12, 0.14, 0.34))
    return _spots(_spots(dark, (1, 1, 0.85), 30, 1.1, rng), (0.97, 0.95, 0.75), rng.integers(0, 2), 9, rng)


def _rain(rng: np.random.Generator) -> np.ndarray:
    wet = _fade((0.42, 0.48, 0.56), (0.62, 0.68, 0.74))
    for _ in range(55):
        y, x, length = rng.integers(0, SIDE - 14), rng.integers(4, SIDE), rng.integers(6, 13)
        for i in range(length):
            wet[y + i, x - i // 4] = (0.8, 0.88, 0.97)
    return wet


def _sky(rng: np.random.Generator) -> np.ndarray:
    return _clouds(_fade((0.36, 0.66, 0.95), (0.72, 0.88, 1.0)), int(rng.integers(2, 5)), rng)


def _water(rng: np.random.Generator) -> np.ndarray:
    deep = _fade((0.2, 0.66, 0.84), (0.02, 0.24, 0.5))
    return _spots(deep, (0.6, 0.88, 0.96), 12, 3.0, rng)


def _sunset(rng: np.random.Generator) -> np.ndarray:
    glow = _fade((0.5, 0.25, 0.5), (1.0, 0.62, 0.25), rng.uniform(0.7, 0.95))
    return _ground(glow, (0.28, 0.16, 0.28), rng.uniform(0.75, 0.88), rng)


def _desert(rng: np.random.Generator) -> np.ndarray:
    hot = _fade((0.5, 0.78, 0.95), (0.95, 0.92, 0.8))
    return _ground(hot, (0.9, 0.7, 0.4), rng.uniform(0.45, 0.7), rng)


def _table(rng: np.random.Generator) -> np.ndarray:
    wall = _fade((0.93, 0.9, 0.84), (0.88, 0.84, 0.78))
    wood = _ground(wall, (0.62, 0.4, 0.22), rng.uniform(0.5, 0.65), rng)
    wood[::16] = np.where(wood[::16].mean(-1, keepdims=True) < 0.6, wood[::16] * 0.85, wood[::16])
    return wood


def _room(rng: np.random.Generator) -> np.ndarray:
    wall = _fade(rng.uniform(0.7, 0.95, 3), rng.uniform(0.75, 0.95, 3))
    room = _ground(wall, (0.72, 0.56, 0.4), 0.75, rng)
    left = int(rng.integers(8, 80))
    room[14:50, left : left + 34] = (0.97, 0.97, 0.97)
    room[17:47, left + 3 : left + 31] = (0.66, 0.86, 0.98)
    return room


def _stripes(rng: np.random.Generator) -> np.ndarray:
    one, other = rng.uniform(0.2, 1, 3), rng.uniform(0.2, 1, 3)
    y, x = np.mgrid[:SIDE, :SIDE]
    slope = rng.choice([0.0, 1.0])
    band = ((x + slope * y) // rng.integers(8, 18)) % 2
    return np.where(band[..., None] > 0, one, other)


def _checks(rng: np.random.Generator) -> np.ndarray:
    one, other, size = rng.uniform(0.2, 1, 3), rng.uniform(0.5, 1, 3), rng.integers(10, 20)
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.where(((x // size + y // size) % 2)[..., None] > 0, one, other)


def _rainbow(rng: np.random.Generator) -> np.ndarray:
    tones = np.array([COLOURS[c] for c in ("red", "orange", "yellow", "green", "blue", "purple")]) / 255
    y, x = np.mgrid[:SIDE, :SIDE]
    along = x if rng.random() < 0.5 else y
    return tones[np.minimum(along * 6 // SIDE, 5)] * 0.85 + 0.15


def _dots(rng: np.random.Generator) -> np.ndarray:
    paper = np.broadcast_to(rng.uniform(0.6, 1, 3), (SIDE, SIDE, 3)).copy()
    for _ in range(4):
        paper = _spots(paper, tuple(rng.uniform(0.1, 1, 3)), 8, 4.5, rng)
    return paper


PAINTERS: dict[str, Painter] = {
    "meadow": _meadow, "beach": _beach, "snow": _snow, "night": _night, "rain": _rain, "sky": _sky,
    "water": _water, "sunset": _sunset, "desert": _desert, "table": _table, "room": _room,
    "stripes": _stripes, "checks": _checks, "rainbow": _rainbow, "dots": _dots,
}  # fmt: skip
