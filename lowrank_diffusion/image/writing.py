"""Writing a folder of pictures whole or not at all, under safe and unique names."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import captions, masks
from .columns import Use, written
from .pictures import READABLE, check_picture, file_suffix, os_problem

if TYPE_CHECKING:
    from .data import Picture

TABLE = "metadata.jsonl"
MASKS = "masks"
"""The folder of masks; beside the pictures other programs would take them for pictures."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def write_set(
    folder: Path, items: Sequence[tuple[Path, str]], copy: Callable[[Path, Path], Any] = shutil.copyfile
) -> Path:
    """Copy pictures into a new or empty folder with safe, unique names, each caption as NAME.txt beside it.

    A blank caption gets no file. The folder appears complete or not at all. ``copy`` makes a file of another one.

    Returns:
        ``folder``.

    Raises:
        DataError: with the problems of all pictures, or why the folder cannot be written.
    """
    _check_items(folder, items)
    with _appearing(folder) as partial:
        taken: set[str] = set()
        for path, caption in items:
            stem = _unique(path.stem, taken)
            copy(path, partial / f"{stem}{file_suffix(path)}")
            if caption.strip():
                (partial / f"{stem}.txt").write_text(captions.one_line(caption) + "\n", encoding="utf-8")
    return folder


def write_table(folder: Path, pictures: Sequence[Picture], copy: Callable[[Path, Path], Any] = shutil.copyfile) -> Path:
    """Write pictures with all that is said of them into a new or empty folder, which any trainer can read.

    Beside the pictures lies a ``metadata.jsonl`` with their captions (``text``) and the columns of :mod:`.columns`;
    their masks are in the folder ``masks``. The folder appears complete or not at all.

    Args:
        folder: Where to.
        pictures: As :func:`.data.survey` or :func:`.data.checked` gives them.
        copy: Makes a file of another one.

    Returns:
        ``folder``.

    Raises:
        DataError: there are no pictures, or the folder cannot be written.
    """
    _check_folder(folder, bool(pictures))
    with _appearing(folder) as partial:
        taken: set[str] = set()
        rows = [_row(picture, partial, _unique(picture.path.stem, taken), copy) for picture in pictures]
        table = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # Half a character, which JSON can hold and UTF-8 cannot, stays the escape that it was.
        (partial / TABLE).write_bytes(table.encode("utf-8", "backslashreplace"))
    return folder


def _row(picture: Picture, folder: Path, stem: str, copy: Callable[[Path, Path], Any]) -> dict[str, Any]:
    """Copy a picture and its mask; its row of the table."""
    name, mask = f"{stem}{file_suffix(picture.path)}", ""
    copy(picture.path, folder / name)
    if picture.mask == picture.path:
        mask = name
    elif picture.mask:
        mask = f"{MASKS}/{stem}{file_suffix(picture.mask)}"
        (folder / MASKS).mkdir(exist_ok=True)
        copy(picture.mask, folder / mask)
    use = Use(picture.repeats, picture.weight, picture.frame)
    return {"file_name": name, "text": captions.one_line(picture.caption)} | written(use, mask)


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``folder`` at the end. Raises DataError for what the disk says."""
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if folder.exists():
            folder.rmdir()  # empty, as checked; Windows does not rename over a folder
        partial.rename(folder)
    except OSError as error:
        raise DataError([f"{folder}: cannot be written ({error.strerror or error}). Check space and access."]) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_items(folder: Path, items: Sequence[tuple[Path, str]]) -> None:
    problems = _folder_problems(folder, bool(items))
    for path, _ in items:
        try:
            check_picture(path)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)


def _check_folder(folder: Path, filled: bool) -> None:
    if problems := _folder_problems(folder, filled):
        raise DataError(problems)


def _folder_problems(folder: Path, filled: bool) -> list[str]:
    problems = [] if filled else [f"{folder}: there are no pictures to put into it. Add some ({READABLE})."]
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            problems.append(f"{folder}: is not an empty folder. Choose a new one.")
    except OSError as error:
        problems += os_problem(folder, error).problems
    return problems


def _unique(stem: str, taken: set[str]) -> str:
    """A name without blanks, separators or case tricks that is no mask's and not taken; it is then."""
    plain = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", stem)).strip(".-")[:60].rstrip(".-") or "picture"
    plain = f"_{plain}" if _RESERVED.fullmatch(plain.split(".")[0]) else plain
    plain = f"{plain}-1" if masks.NAMES.fullmatch(f"{plain}.png") else plain
    name, count = plain, 1
    while name.casefold() in taken:
        count += 1
        name = f"{plain}-{count}"
    taken.add(name.casefold())
    return name
