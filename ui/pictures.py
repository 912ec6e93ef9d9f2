"""The cards of pictures to learn from: what a page says of each is checked here before it is used."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import columns, data, masks
from lowrank_diffusion.image.bounds import SMALLEST_SIDE
from lowrank_diffusion.image.columns import Use
from lowrank_diffusion.image.data import Picture
from lowrank_diffusion.paths import EXAMPLES, PROJECT

from . import safe
from .toolkit import gr, static_text

Item = dict[str, Any]
"""One card: path, name, caption, repeats, weight, frame (four fractions or None), mask (a path, the picture's own for
its alpha channel, or empty), width and height (pixels), thumb (address of the small picture)."""

THUMBNAIL_SIDE = 256
LARGE_SIDE = 1280
"""Pixels of the longer side of what the dialog shows."""
LONGEST_CAPTION = 4000
SCRIPTS = ("picture_paint.js", "pictures.js", "picture_dialog.js", "picture_folder.js")
"""Of the grid, in the order in which they run."""


def grid() -> gr.HTML:
    """The component; its value is a list of items."""
    limits = {"side": SMALLEST_SIDE, "repeats": columns.MOST_REPEATS, "weight": columns.LARGEST_WEIGHT}
    limits = f"const LIMITS = {json.dumps(limits)};"
    return gr.HTML(
        [],
        html_template="<div></div>",
        js_on_load="\n".join([limits, *map(static_text, SCRIPTS)]),
        elem_id="pictures",
        apply_default_css=False,
    )


def teller(name: str) -> gr.HTML:
    """A component that is not seen; the page's scripts hear its value as the event ``name`` of the document."""
    script = f"const NAME = {json.dumps(name)};\n{static_text('tell.js')}"
    return gr.HTML(
        "", html_template="<div></div>", js_on_load=script, elem_id=name, elem_classes=["teller"],
        apply_default_css=False,
    )  # fmt: skip


def card(picture: Picture) -> Item:
    """A picture's card. Raises DataError where no small picture can be made of it."""
    return {
        "path": str(picture.path),
        "name": picture.path.name,
        "caption": picture.caption[:LONGEST_CAPTION],
        "repeats": picture.repeats,
        "weight": picture.weight,
        "frame": list(picture.frame) if picture.frame else None,
        "mask": str(picture.mask or ""),
        "width": picture.width,
        "height": picture.height,
        "thumb": safe.url(thumbnail(picture.path)),
    }


def of_path(path: Path, caption: str = "") -> Item:
    """The card of a picture that came without more than a caption. Raises DataError."""
    return card(Picture(path, caption, *size(path)))


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, which is decoded once for as long as it is as it was. Raises DataError."""
    return _size(path, _stamp(path))


@lru_cache(maxsize=20_000)
def _size(path: Path, _time: tuple[int, int]) -> tuple[int, int]:
    return data.check_picture(path)


def _stamp(path: Path) -> tuple[int, int]:
    """What is another one when a file was: of a set that was deleted, the next of its name has the same paths."""
    try:
        stat = path.stat()
    except OSError:  # whoever opens it says so
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def thumbnail(path: Path) -> Path:
    """A small version of a picture, made once. Raises UserError for a picture that cannot be read, OSError."""
    return _made(path, f"{THUMBNAIL_SIDE}.jpg", lambda: data.thumbnail(path, THUMBNAIL_SIDE))


def large(path: Path) -> Path:
    """A picture as the dialog shows it. Raises DataError."""
    return _made(path, f"{LARGE_SIDE}.jpg", lambda: data.thumbnail(path, LARGE_SIDE))


def large_mask(path: Path, mask: Path) -> Path:
    """A mask as the dialog shows it, of the shape of the picture. Raises DataError."""
    key = hashlib.sha256(str(mask).encode()).hexdigest()[:12]
    return _made(path, f"{key}-{_stamp(mask)[0]}-mask.png", lambda: masks.shown(path, mask, size(path), LARGE_SIDE))


def enlarged(name: str, mask: str) -> dict[str, Any]:
    """What the dialog asks for: the addresses of a picture, large, and of its mask. Raises RefusedError, DataError."""
    path = safe.uploaded(name)
    shown = large(path)
    with Image.open(shown) as image:
        width, height = image.size
    facts = {"path": name, "url": safe.url(shown), "width": width, "height": height, "mask": ""}
    if mask:
        source = safe.uploaded(mask)
        masks.check(path, size(path), source)
        facts["mask"] = safe.url(large_mask(path, source))
    return facts | {"mark": time.monotonic_ns()}


def _made(path: Path, what: str, make: Any) -> Path:
    """A small file made of a picture, once for as long as the picture is as it was."""
    name = hashlib.sha256(f"{path}/{_stamp(path)}".encode()).hexdigest()[:24]
    target = safe.thumbnails_folder() / f"{name}-{what}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(make())
    return target


def example_sets() -> list[Path]:
    """The picture sets that ship with the project."""
    folders = sorted(path for path in EXAMPLES.glob("*") if path.is_dir()) if EXAMPLES.is_dir() else []
    return [folder for folder in folders if any(file.suffix in data.SUFFIXES for file in folder.iterdir())]


def example(name: str) -> list[Item]:
    """The cards of an example set. Raises DataError."""
    return of_folder(safe.inside(EXAMPLES / Path(name).name, EXAMPLES))


def of_folder(folder: Path) -> list[Item]:
    """The cards of a folder of ours; pictures without a caption of their own have none. Raises DataError."""
    return [card(picture) for picture in data.uncaptioned(folder).pictures]


def all_of(value: Any, folder: str) -> bool:
    """Whether a grid has pictures, and all of them are of this folder of the project."""
    items = items_of(value)
    place = (PROJECT / folder).resolve()
    return bool(items and folder) and all(Path(item["path"]).is_relative_to(place) for item in items)


def chosen(value: Any) -> list[Picture]:
    """The pictures of a grid's value, as it came from the page, each checked. Raises RefusedError, DataError."""
    problems: list[str] = []
    pictures = []
    for item in items_of(value):
        path = safe.uploaded(item["path"])
        try:
            use = _use(item)
            caption = item["caption"][:LONGEST_CAPTION].strip()
            pictures.append(replace(_checked(path, use, size(path), _stamp(use.mask or path)), caption=caption))
        except data.DataError as error:
            problems += [safe.by_name(data.DataError([problem]), path) for problem in error.problems]
    if problems:
        raise data.DataError(problems)
    return pictures


def _use(item: Item) -> Use:
    mask = safe.uploaded(item["mask"]) if item["mask"] else None
    return Use(item["repeats"], item["weight"], tuple(item["frame"]) if item["frame"] else None, mask)


@lru_cache(maxsize=20_000)
def _checked(path: Path, use: Use, size: tuple[int, int], _time: tuple[int, int]) -> Picture:
    return data.checked(path, "", use, size)


def restored(value: Any) -> list[Item]:
    """The items a page remembers from before a reload, without those whose files are gone or not the page's.

    A frame or a mask that does not suit its picture any more is left off.
    """
    with ThreadPoolExecutor(4) as pool:  # after a restart of the app each is decoded once more
        return [item for item in pool.map(_restored, items_of(value)) if item]


def _restored(item: Item) -> Item | None:
    for shown in (item, item | {"frame": None, "mask": ""}):
        try:
            (picture,) = chosen([shown])
            return card(picture)
        except UserError:
            continue
    return None


def items_of(value: Any) -> list[Item]:
    """The items of a grid's value; anything of another shape is dropped, since a page may send what it likes."""
    items = (_item(card) for card in value) if isinstance(value, list) else ()
    return list({item["path"]: item for item in items if item}.values())


def _item(given: Any) -> Item | None:
    """One of them; what a page of an earlier version did not say yet is as it is for a picture of which nothing is."""
    if not isinstance(given, dict) or any(not isinstance(given.get(name), str) for name in ("path", "caption")):
        return None
    item = {"name": "", "mask": "", "thumb": "", "repeats": 1, "weight": 1.0, "frame": None, "width": 0, "height": 0}
    item |= {name: given[name] for name in ("path", "caption", *item) if name in given}
    try:
        item["repeats"], item["weight"] = columns.repeats_of(item["repeats"]), columns.weight_of(item["weight"])
        item["frame"] = None if item["frame"] is None else list(columns.frame_of(item["frame"]))
    except ValueError:
        return None
    shaped = all(isinstance(item[name], str) for name in ("name", "mask", "thumb"))
    return item if shaped and all(type(item[name]) is int for name in ("width", "height")) else None


def sent(text: Any) -> Any:
    """What a script sent as text, as Gradio refuses a {path} that it did not upload; None for what cannot be read."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
