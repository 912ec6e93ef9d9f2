"""SVG -> pictures: one memory-mapped array of RGBA bytes, and a table that says what each one shows."""

from __future__ import annotations

import io
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import colours, sources, splits
from .settings import SIDE

FILL = 0.94  # share of the frame that the longer side of a drawing takes


@dataclass
class Library:
    """The training pictures. Row i of `pixels` shows concept `concept[i]` in style `style[i]`."""

    pixels: np.ndarray  # (N, SIDE, SIDE, 4) uint8, memory-mapped
    concept: np.ndarray  # (N,) index into `concepts`
    style: np.ndarray  # (N,) index into `styles`
    main: np.ndarray  # (N, 4) hue, chroma, luminance, share of the main colour
    held: np.ndarray  # (N,) bool: never to be trained on
    concepts: list[dict[str, Any]]
    styles: list[str]


def render(svg: str) -> np.ndarray:
    """(SIDE, SIDE, 4) bytes, drawn at twice the size and reduced."""
    import resvg_py  # only this stage needs it

    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIDE, height=2 * SIDE, skip_system_fonts=True)
    return framed(Image.open(io.BytesIO(bytes(png))))


def framed(image: Image.Image) -> np.ndarray:
    """Centre a drawing on its own extent: sets differ in padding, which is no part of a style.

    The longer side becomes FILL of the frame, but nothing grows by more than 1.3: small drawings
    ("small blue diamond") are meant to be small.
    """
    image = image.convert("RGBA")
    image = image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS)
    box = image.getchannel("A").point(lambda a: 255 if a > 12 else 0).getbbox()
    if box is None:
        raise ValueError("an empty drawing; leave this concept out of the sources")
    crop = image.crop(box)
    scale = min(FILL * SIDE / max(crop.size), 1.3 * 0.5)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    small = crop.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (SIDE, SIDE))
    canvas.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(canvas)


def build(source: Path, folder: Path, heldout: Path, workers: int = 1) -> Library:
    """Rasterise every drawing of the sources into `folder` and mark what is held out."""
    data = sources.load(source)
    rows = [
        (i, s, data["svg"][style][c["code"]])
        for i, c in enumerate(data["concepts"])
        for s, style in enumerate(data["svg"])
        if c["code"] in data["svg"][style]
    ]
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(rows), SIDE, SIDE, 4)
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
    main = np.zeros((len(rows), 4), np.float32)
    with ProcessPoolExecutor(workers) as pool:
        for k, (picture, colour) in enumerate(pool.map(_one, (r[2] for r in rows), chunksize=32)):
            pixels[k], main[k] = picture, colour
    pixels.flush()
    styles = list(data["svg"])
    codes = [data["concepts"][i]["code"] for i, _, _ in rows]
    held_list = splits.load(heldout) if heldout.exists() else splits.draw(data, _natural(codes, main), heldout)
    held = splits.mask(held_list, [(code, styles[row[1]]) for code, row in zip(codes, rows, strict=True)])
    np.savez(
        folder / "table.npz",
        concept=np.array([r[0] for r in rows], np.int32),
        style=np.array([r[1] for r in rows], np.int32),
        main=main,
        held=held,
    )
    names = {"concepts": data["concepts"], "styles": styles}
    (folder / "names.json").write_text(json.dumps(names))
    return load(folder)


def _natural(codes: list[str], main: np.ndarray) -> dict[str, set[str]]:
    """Colour words of each concept whose main colour takes at least 45 % of the drawing on average."""
    shares: dict[str, list[float]] = {}
    words: dict[str, set[str]] = {}
    for code, (hue, chroma, luma, share) in zip(codes, main.tolist(), strict=True):
        shares.setdefault(code, []).append(share)
        words.setdefault(code, set()).add(colours.word_of(hue, chroma, luma) or "")
    return {code: words[code] for code in words if np.mean(shares[code]) >= 0.45}


def _one(svg: str) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    picture = render(svg)
    return picture, colours.main_colour(picture)


def load(folder: Path) -> Library:
    """Open what `build` wrote."""
    table = np.load(folder / "table.npz")
    names = json.loads((folder / "names.json").read_text())
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    columns = {key: table[key] for key in ("concept", "style", "main", "held")}
    return Library(pixels=pixels, **columns, **names)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """(..., 4) bytes -> (..., 3) bytes over white."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
