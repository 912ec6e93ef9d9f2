"""What is in a folder of pictures, judged by content and not by names alone, so that nothing is skipped silently."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from .. import datasets
from ..errors import DataError
from ..marks import listed
from . import masks
from .captions import TABLES
from .pictures import READABLE, SUFFIXES, os_problem

NOT_READ = {
    **dict.fromkeys((".heic", ".heif"), "is a HEIC/HEIF picture, which cannot be read. Convert it to PNG or JPEG."),
    **dict.fromkeys(
        ".avif .jxl .jp2 .psd .svg .xcf .ico .tga .exr .hdr .dng .cr2 .cr3 .nef .arw .raf .mp4 .mov .webm .avi".split(),
        f"cannot be read. Convert it to one of {READABLE}, or remove it.",
    ),
    ".caption": "is not looked at. Give captions the ending .txt.",
}
"""Files that people leave among their pictures and expect to count, and what to tell them."""

_JUNK = re.compile(r"\..*|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|__macosx|@eadir", re.IGNORECASE)
"""What systems leave in folders by themselves."""

_STARTS = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), ".avif"),
    (re.compile(rb"....ftyp(hei|hev|mif|msf)", re.DOTALL), ".heic"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), ".bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), ".tiff"),
)
"""How files of each kind begin, and the ending that such a file should have."""


@dataclass
class Listing:
    """What is in a folder, sorted by name."""

    folder: Path
    pictures: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    """Pictures that say where others are learnt."""
    tables: list[Path] = field(default_factory=list)
    not_read: list[tuple[Path, str]] = field(default_factory=list)
    """What would count if it could be read, and why it cannot."""
    others: list[Path] = field(default_factory=list)
    """Files that are neither pictures nor captions."""
    folders: list[Path] = field(default_factory=list)

    def notes(self, left_out: Collection[Path] | None = None) -> list[str]:
        """For a person: what of the folder is left out; ``left_out``: the sub-folders to speak of (None: all)."""
        notes = []
        if self.others:
            notes.append(f"Left out, as they are not pictures: {listed(path.name for path in self.others)}.")
        folders = [path for path in self.folders if left_out is None or path in left_out]
        inside = {path: sum(map(is_picture, _files(path))) for path in folders}
        used = {*self.pictures, *self.masks}
        taken = {parent for path in used for parent in path.parents}
        filled = [f"{path.name} ({count})" for path, count in inside.items() if count and path not in taken]
        if filled:
            notes.append(f"Pictures in sub-folders are left out: {listed(filled)}.")
        for path in (path for path, count in inside.items() if count and path in taken):
            rest = [file.name for file in _files(path) if is_picture(file) and file not in used]
            if rest:
                notes.append(f"Left out of {path.name}, as the table does not name them: {listed(rest)}.")
        return notes


def read(folder: Path) -> Listing:
    """List a folder. Raises DataError."""
    if datasets.is_reference(str(folder)):
        folder = datasets.located(str(folder))
    try:
        if folder.exists() and not folder.is_dir():
            raise DataError([f"{folder}: is a file. Give the folder that the pictures are in."])
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise os_problem(folder, error) from None
    except ValueError as error:
        raise DataError([f"{folder}: cannot be a path ({error})."]) from None
    listing = Listing(folder)
    for path in entries:
        if not is_junk(path.name):
            _sort(path, listing)
    return listing


def _sort(path: Path, listing: Listing) -> None:
    """Put one entry where it belongs."""
    ending = path.suffix.lower()
    if path.is_dir():
        listing.folders.append(path)
    elif path.name.lower() in TABLES:
        listing.tables.append(path)
    elif ending == ".txt":
        listing.texts.append(path)
    elif masks.is_mask(path):
        listing.masks.append(path)
    elif ending in SUFFIXES:
        listing.pictures.append(path)
    else:
        kind = content_suffix(path)
        # Raw pictures begin as TIFF does, and hold a small preview where its pixels would be.
        reason = NOT_READ.get(ending) if kind in ("", ".tiff") else ("" if kind in SUFFIXES else NOT_READ.get(kind))
        if reason:
            listing.not_read.append((path, reason))
        elif kind:
            listing.pictures.append(path)
        else:
            listing.others.append(path)


def content_suffix(path: Path) -> str:
    """The ending that fits how a file begins; empty if it is not a known kind of picture."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return ""
    return next((suffix for pattern, suffix in _STARTS if pattern.match(start)), "")


def is_junk(name: str) -> bool:
    """Whether a file or folder is one that systems leave behind by themselves."""
    return _JUNK.fullmatch(name) is not None


def is_picture(path: Path) -> bool:
    """Whether a file looks like a picture that can be read."""
    return not is_junk(path.name) and (path.suffix.lower() in SUFFIXES or content_suffix(path) in SUFFIXES)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []
