"""A folder of pictures with captions: reading one, writing one, and everything that can be wrong with it.

Captions come from the first of these that a folder has: a table (see :mod:`.captions`), a NAME.txt beside a picture,
one prompt for all. What is left out is named: sub-folders that no table names, and files that are not pictures.
"""

from __future__ import annotations

import re
import shutil
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..marks import listed
from . import captions, listing
from .listing import Listing
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
    "SUFFIXES",
    "DataError",
    "Picture",
    "check_picture",
    "content_key",
    "open_picture",
    "scan",
    "survey",
    "thumbnail",
    "write_set",
]

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


@dataclass(frozen=True)
class Survey:
    """A folder of pictures: what is learnt of it, and what is not."""

    pictures: list[Picture]
    notes: list[str]
    """For a person: what is left out, and what stands in for what is missing."""


def scan(folder: Path, prompt: str = "") -> list[Picture]:
    """The pictures of a folder, sorted by name, each with its caption.

    ``prompt`` is the caption of a picture without one of its own.

    Raises:
        DataError: with every problem of the folder, its pictures and its captions.
    """
    return survey(folder, prompt).pictures


def survey(folder: Path, prompt: str = "") -> Survey:
    """The pictures of a folder as :func:`scan` returns them, and notes on what is left out.

    Raises:
        DataError: with every problem of the folder, its pictures and its captions.
    """
    files = listing.read(folder)
    problems = [f"{path}: {reason}" for path, reason in files.not_read]
    prompt = captions.one_line(prompt)
    given = _captions(files, prompt)
    files.pictures = [path for path in _with_named(files, given) if path not in given.excluded]
    if not files.pictures:
        raise DataError([*([] if given.problems else [_no_pictures(files)]), *problems, *given.problems])
    problems += given.problems
    pictures = []
    for path in files.pictures:
        try:
            width, height = check_picture(path)
            pictures.append(Picture(path, given.by_picture.get(path) or prompt, width, height))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return Survey(pictures, [*files.notes(), *given.notes(), *_empty(given)])


def _empty(given: captions.Captions) -> list[str]:
    """Pictures whose own caption is empty get the common prompt, which is to be seen."""
    empty = [path.name for path, caption in given.by_picture.items() if not caption]
    return [f"{len(empty)} captions are empty, and data.prompt stands in for them: {listed(empty)}."] if empty else []


def _with_named(files: Listing, given: captions.Captions) -> list[Path]:
    """The folder's own pictures, and those of its sub-folders that its table names."""
    named = [path for path in (*given.by_picture, *given.excluded) if path.parent != files.folder]
    return sorted({*files.pictures, *named}, key=lambda path: str(path.relative_to(files.folder)))


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


def _no_pictures(files: Listing) -> str:
    if files.folders:
        count = "a sub-folder" if len(files.folders) == 1 else f"{len(files.folders)} sub-folders"
        hint = f"Pictures in sub-folders are not read: give one of them, or put pictures ({READABLE}) here."
        return f"{files.folder}: has no pictures of its own, only {count}. {hint}"
    return f"{files.folder}: has no pictures. Put some there: {READABLE}."


def _captions(files: Listing, prompt: str) -> captions.Captions:
    """Captions by picture from the folder's own files, and all that is wrong with them."""
    if len(files.tables) > 1:
        names = " and ".join(table.name for table in files.tables)
        return captions.Captions(problems=[f"{files.folder}: has several caption tables, {names}. Keep one of them."])
    if not files.tables:
        given = captions.from_texts(files.texts, files.pictures)
        given.problems += _uncaptioned(files, given.by_picture) if files.pictures and not prompt else []
        return given
    table = files.tables[0]
    given = captions.from_table(table, files.pictures)
    if files.texts:
        texts = f"{files.texts[0].name}{' and others' if len(files.texts) > 1 else ''}"
        hint = f"Remove {table.name} to use the .txt files, or the .txt files to use the table."
        given.problems.append(f"{files.folder}: has captions both in {table.name} and in .txt files ({texts}). {hint}")
    if not given.problems and not prompt:  # rows that could not be read would all show up here again
        given.problems = [
            f"{path}: has no caption in {table.name}. Add a row for it, or give one prompt for all such pictures."
            for path in _with_named(files, given)
            if not given.by_picture.get(path) and path not in given.excluded
        ]
    return given


def _uncaptioned(files: Listing, by_picture: dict[Path, str]) -> list[str]:
    if not files.texts:
        hint = "Put a .txt of the same name beside each picture, add a metadata.csv, or give one prompt for all."
        return [f"{files.folder}: none of its pictures has a caption. {hint}"]
    refused = {text.stem for text in files.texts} - {name for path in by_picture for name in (path.stem, path.name)}
    return [
        f"{path}: has no caption. Write one into {path.stem}.txt, or give one prompt for all such pictures."
        for path in files.pictures
        if not by_picture.get(path) and not {path.stem, path.name} & refused  # those are problems already
    ]
