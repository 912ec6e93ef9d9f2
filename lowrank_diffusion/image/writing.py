"""Writing a folder of pictures whole or not at all, under safe and unique names."""

from __future__ import annotations

import re
import shutil
import unicodedata
import uuid
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from . import captions
from .pictures import READABLE, check_picture, file_suffix, os_problem

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
"""Names that Windows keeps for devices."""


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
