"""A folder of pictures with captions: reading one, writing one, and everything that can be wrong with it.

Captions come from the first of these that a folder has: a table (see :mod:`.captions`), a NAME.txt beside a picture,
one prompt for all. Sub-folders and hidden files are not looked at.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import captions
from .pictures import (
    READABLE,
    SUFFIXES,
    DataError,
    check_picture,
    content_key,
    file_suffix,
    open_picture,
    os_problem,
    thumbnail,
)

__all__ = [
    "DataError",
    "Picture",
    "check_picture",
    "content_key",
    "open_picture",
    "scan",
    "thumbnail",
    "write_set",
]

_NOT_READ = {
    **dict.fromkeys((".heic", ".heif"), "is a HEIC/HEIF picture, which cannot be read. Convert it to PNG or JPEG."),
    **dict.fromkeys(
        ".avif .jxl .jp2 .psd .svg .xcf .ico .tga .exr .hdr .dng .cr2 .cr3 .nef .arw .raf .mp4 .mov .webm .avi".split(),
        f"cannot be read. Convert it to one of {READABLE}, or remove it.",
    ),
    ".caption": "is not looked at. Give captions the ending .txt.",
}
"""What people leave among their pictures in the belief that it counts, and what to tell them."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
"""Names that Windows keeps for devices."""


@dataclass(frozen=True)
class Picture:
    """A picture that was decoded to its last row, with its caption."""

    path: Path
    caption: str
    width: int
    """Pixels, after EXIF rotation."""
    height: int
    """Pixels, after EXIF rotation."""


@dataclass
class _Listing:
    """What is in a folder, sorted by name."""

    pictures: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    not_read: list[Path] = field(default_factory=list)
    folders: int = 0


def scan(folder: Path, prompt: str = "") -> list[Picture]:
    """The pictures of a folder, sorted by name, each with its caption.

    ``prompt`` is the caption of a picture without one of its own.

    Raises:
        DataError: with every problem of the folder, its pictures and its captions.
    """
    listing = _list(folder)
    problems = [f"{path}: {_NOT_READ[path.suffix.lower()]}" for path in listing.not_read]
    if not listing.pictures:
        raise DataError([_no_pictures(folder, listing), *problems])
    prompt = captions.one_line(prompt)
    caption_of, caption_problems = _captions(folder, listing, prompt)
    problems += caption_problems
    pictures = []
    for path in listing.pictures:
        try:
            width, height = check_picture(path)
            pictures.append(Picture(path, caption_of.get(path) or prompt, width, height))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return pictures


def write_set(folder: Path, items: Sequence[tuple[Path, str]]) -> Path:
    """Copy pictures into a new or empty folder with safe, unique names, each caption as NAME.txt beside it.

    A blank caption gets no file. The folder appears complete or not at all.

    Returns:
        ``folder``.

    Raises:
        DataError: with the problems of all pictures, or why the folder cannot be written.
    """
    _check_items(folder, items)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        taken: set[str] = set()
        for path, caption in items:
            stem = _unique(path.stem, taken)
            shutil.copyfile(path, partial / f"{stem}{file_suffix(path)}")
            if caption.strip():
                (partial / f"{stem}.txt").write_text(captions.one_line(caption) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # empty, as checked; Windows does not rename over a folder
        partial.rename(folder)
    except OSError as error:
        raise DataError([f"{folder}: cannot be written ({error.strerror or error}). Check space and access."]) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check_items(folder: Path, items: Sequence[tuple[Path, str]]) -> None:
    problems = [] if items else [f"{folder}: there are no pictures to put into it. Add some ({READABLE})."]
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            problems.append(f"{folder}: is not an empty folder. Choose a new one.")
    except OSError as error:
        problems += os_problem(folder, error).problems
    for path, _ in items:
        try:
            check_picture(path)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)


def _unique(stem: str, taken: set[str]) -> str:
    """A name without blanks, separators or case tricks that is not taken; it is then."""
    plain = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", stem)).strip(".-")[:60].rstrip(".-") or "picture"
    plain = f"_{plain}" if _RESERVED.fullmatch(plain.split(".")[0]) else plain
    name, count = plain, 1
    while name.casefold() in taken:
        count += 1
        name = f"{plain}-{count}"
    taken.add(name.casefold())
    return name


def _list(folder: Path) -> _Listing:
    try:
        if folder.exists() and not folder.is_dir():
            raise DataError([f"{folder}: is a file. Give the folder that the pictures are in."])
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise os_problem(folder, error) from None
    listing = _Listing()
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            listing.folders += 1
        elif path.name.lower() in captions.TABLES:
            listing.tables.append(path)
        elif path.suffix.lower() == ".txt":
            listing.texts.append(path)
        elif path.suffix.lower() in SUFFIXES:
            listing.pictures.append(path)
        elif path.suffix.lower() in _NOT_READ:
            listing.not_read.append(path)
    return listing


def _no_pictures(folder: Path, listing: _Listing) -> str:
    if listing.folders:
        count = "a sub-folder" if listing.folders == 1 else f"{listing.folders} sub-folders"
        hint = f"Pictures in sub-folders are not read: give one of them, or put pictures ({READABLE}) here."
        return f"{folder}: has no pictures of its own, only {count}. {hint}"
    return f"{folder}: has no pictures. Put some there: {READABLE}."


def _captions(folder: Path, listing: _Listing, prompt: str) -> tuple[dict[Path, str], list[str]]:
    """Captions by picture from the folder's own files, and all that is wrong with them."""
    if len(listing.tables) > 1:
        names = " and ".join(table.name for table in listing.tables)
        return {}, [f"{folder}: has several caption tables, {names}. Keep one of them."]
    if not listing.tables:
        found, problems = captions.from_texts(listing.texts, listing.pictures)
        problems = _shared_stems(listing.pictures) + problems
        return found, problems + (_uncaptioned(folder, listing, found) if not prompt else [])
    table = listing.tables[0]
    found, problems = captions.from_table(table, listing.pictures)
    if listing.texts:
        texts = f"{listing.texts[0].name}{' and others' if len(listing.texts) > 1 else ''}"
        hint = f"Remove {table.name} to use the .txt files, or the .txt files to use the table."
        problems.append(f"{folder}: has captions both in {table.name} and in .txt files ({texts}). {hint}")
    if not problems and not prompt:  # rows that could not be read would all show up here again
        problems = [
            f"{path}: has no caption in {table.name}. Add a row for it, or give one prompt for all such pictures."
            for path in listing.pictures
            if not found.get(path)
        ]
    return found, problems


def _uncaptioned(folder: Path, listing: _Listing, found: dict[Path, str]) -> list[str]:
    if not listing.texts:
        hint = "Put a .txt of the same name beside each picture, add a metadata.csv, or give one prompt for all."
        return [f"{folder}: none of its pictures has a caption. {hint}"]
    refused = {text.stem for text in listing.texts} - {picture.stem for picture in found}  # problems already
    return [
        f"{path}: has no caption. Write one into {path.stem}.txt, or give one prompt for all such pictures."
        for path in listing.pictures
        if not found.get(path) and path.stem not in refused
    ]


def _shared_stems(pictures: list[Path]) -> list[str]:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in pictures:
        by_stem[path.stem].append(path.name)
    folder = pictures[0].parent
    return [
        f"{folder / names[0]}: would share {stem}.txt with {' and '.join(names[1:])}. Rename all but one."
        for stem, names in by_stem.items()
        if len(names) > 1
    ]
