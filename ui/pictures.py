"""The grid of pictures to learn from: what was dropped, checked, with an editable caption under each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.files import Unreadable, read_text
from lowrank_diffusion.image import captions, data
from lowrank_diffusion.paths import EXAMPLES, PROJECT

from . import safe
from .toolkit import gr, static_text

Item = dict[str, str]
"""One card: path, name, caption, thumb (address of the small picture) and note (its size)."""

THUMBNAIL_SIDE = 160
LONGEST_CAPTION = 4000
NO_CAPTION = "\u2205"
"""Stands for a caption while a folder is read in which not every picture has one."""


def grid() -> gr.HTML:
    """The component; its value is a list of items."""
    return gr.HTML(
        [],
        html_template="<div></div>",
        js_on_load=static_text("pictures.js"),
        elem_id="pictures",
        apply_default_css=False,
    )


def add(files: Iterable[str], items: list[Item]) -> tuple[list[Item], list[str]]:
    """Take uploaded files in: pictures become cards, .txt files the captions of pictures with their name.

    Returns the new items, and one line for every file that was not taken, saying why.
    """
    items, refused = [dict(item) for item in items], []
    texts: list[Path] = []
    for name in files:
        try:
            path = safe.uploaded(name)
            if path.suffix.lower() == ".txt":
                texts.append(path)
            elif any(item["path"] == str(path) for item in items):
                refused.append(f"{path.name}: is in the set already.")
            else:
                items.append(card(path))
        except UserError as error:
            refused.append(safe.by_name(error, name))
    return items, refused + [line for text in texts if (line := _caption_from(text, items))]


def card(path: Path, caption: str = "") -> Item:
    """A picture's card. Raises DataError for a picture that cannot be learnt from."""
    width, height = data.check_picture(path)
    return {
        "path": str(path),
        "name": path.name,
        "caption": caption,
        "thumb": safe.url(thumbnail(path)),
        "note": f"{width} x {height} px",
    }


def _caption_from(text: Path, items: list[Item]) -> str:
    """Give the text to the picture of its name, as a folder would; says what is wrong, or nothing."""
    owner = captions.Owners([item["name"] for item in items]).of(text.name)
    if isinstance(owner, str):
        return f"{text.name}: {owner}"
    try:
        caption = " ".join(read_text(text, captions.LARGEST_CAPTION).split())
    except Unreadable as error:
        return f"{text.name}: {error}"
    if len(caption) > LONGEST_CAPTION:
        return f"{text.name}: is longer than {LONGEST_CAPTION} characters, too long for a caption."
    items[owner]["caption"] = caption
    return ""


def thumbnail(path: Path) -> Path:
    """A small version of a picture, made once. Raises UserError for a picture that cannot be read, OSError."""
    stat = path.stat()
    name = hashlib.sha256(f"{path}/{stat.st_mtime_ns}/{stat.st_size}/{THUMBNAIL_SIDE}".encode()).hexdigest()[:24]
    folder = safe.thumbnails_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for known in folder.glob(f"{name}.*"):
        return known
    content = data.thumbnail(path, THUMBNAIL_SIDE)
    target = folder / f"{name}{_suffix(content)}"
    target.write_bytes(content)
    return target


def _suffix(content: bytes) -> str:
    """File ending by content, from which the browser is told the type."""
    if content.startswith(b"\x89PNG"):
        return ".png"
    return ".webp" if content[8:12] == b"WEBP" else ".jpg"


def example_sets() -> list[Path]:
    """The picture sets that ship with the project."""
    folders = sorted(path for path in EXAMPLES.glob("*") if path.is_dir()) if EXAMPLES.is_dir() else []
    return [folder for folder in folders if any(file.suffix in data.SUFFIXES for file in folder.iterdir())]


def example(name: str) -> list[Item]:
    """The cards of an example set. Raises DataError."""
    return of_folder(safe.inside(EXAMPLES / Path(name).name, EXAMPLES))


def of_folder(folder: Path) -> list[Item]:
    """The cards of a folder of ours; pictures without a caption of their own have none. Raises DataError."""
    cards = [card(Path(picture.path), picture.caption) for picture in data.scan(folder, NO_CAPTION)]
    return [item | {"caption": "" if item["caption"] == NO_CAPTION else item["caption"]} for item in cards]


@lru_cache(maxsize=10_000)
def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture in the grid; an upload never changes. Raises DataError."""
    return data.check_picture(path)


def all_of(value: Any, folder: str) -> bool:
    """Whether a grid has pictures, and all of them are of this folder of the project."""
    items = items_of(value)
    place = (PROJECT / folder).resolve()
    return bool(items and folder) and all(Path(item["path"]).is_relative_to(place) for item in items)


def chosen(value: Any) -> list[tuple[Path, str]]:
    """The (picture, caption) pairs of a grid's value, as it came from the page. Raises RefusedError."""
    pairs = []
    for item in items_of(value):
        pairs.append((safe.uploaded(item["path"]), item["caption"][:LONGEST_CAPTION].strip()))
    return pairs


def restored(value: Any) -> list[Item]:
    """The items a page remembers from before a reload, without those whose files are gone or not the page's."""
    kept = []
    for item in items_of(value):
        try:
            kept.append(card(safe.uploaded(item["path"]), item["caption"]))
        except UserError:
            continue
    return kept


def items_of(value: Any) -> list[Item]:
    """The items of a grid's value; anything of another shape is dropped, since a page may send what it likes."""
    names = ("path", "name", "caption", "thumb", "note")
    cards = value if isinstance(value, list) else []
    return [
        {name: item[name] for name in names}
        for item in cards
        if isinstance(item, dict) and all(isinstance(item.get(name), str) for name in names)
    ]
