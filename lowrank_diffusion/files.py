"""Reading small files that somebody else may have written: a regular file, of bounded size, in UTF-8."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MB = 1_000_000
LARGEST_JSON = 64 * MB
"""A configuration takes a few kilobytes; a tokenizer.json may have thirty megabytes."""


class Unreadable(ValueError):
    """Why a file is not read, as the end of a sentence that starts with its name."""


def read_text(path: Path, limit: int, within: Path | None = None) -> str:
    """The text of a regular file of at most ``limit`` bytes, without a byte order mark.

    Args:
        path: The file; links are followed.
        limit: Bytes.
        within: A data set's folder. A file that links lead out of it to is not read: whoever made the set would
            otherwise choose which of a person's files is copied into captions and headers.

    Raises:
        Unreadable: it is missing, no regular file (a pipe would wait forever, a device never ends), outside, too large
            or not UTF-8.
    """
    try:
        text = _bytes(path, limit, within).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without its mark passes as UTF-8 full of zeros
        raise Unreadable("is not UTF-8 text. Save it with the encoding UTF-8.")
    return text


def read_json(path: Path, limit: int = LARGEST_JSON) -> Any:
    """What a JSON file holds. Raises Unreadable."""
    try:
        return json.loads(read_text(path, limit))
    except Unreadable:
        raise
    except (ValueError, RecursionError):  # the second: a thousand brackets, which nobody writes by hand
        raise Unreadable("is not valid JSON.") from None


def read_object(path: Path, limit: int = LARGEST_JSON) -> dict[str, Any]:
    """The JSON object that a file holds. Raises Unreadable."""
    content = read_json(path, limit)
    if not isinstance(content, dict):
        raise Unreadable("does not hold a JSON object.")
    return content


def read_part(path: Path, most: int, *, end: bool = False) -> str:
    """The beginning of a text file of any size as far as it is shown, or its end. Raises Unreadable."""
    with opened(path) as file:
        if end:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most).decode("utf-8", "replace")


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers from 1, without a list of all of them.

    Only a line feed ends a line: ``splitlines`` would also split inside of JSON strings.
    """
    number, seen = 1, 0
    for match in re.finditer(r"[^\n]+", text):
        number, seen = number + text.count("\n", seen, match.start()), match.start()
        if not match[0].isspace():
            yield number, match[0]


@contextmanager
def opened(path: Path, within: Path | None = None) -> Iterator[BinaryIO]:
    """A regular file, open for reading; what goes wrong inside says that it cannot be read.

    Raises:
        Unreadable: as :func:`read_text`.
    """
    try:
        with open(_handle(path, within), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable("is a folder, not a file." if path.is_dir() else "is not a regular file.")
            yield file
    except PermissionError:
        raise Unreadable("permission denied. Change its permissions, or copy it elsewhere.") from None
    except FileNotFoundError:
        raise Unreadable("does not exist. Check the path; a link may point to something that has gone.") from None
    except IsADirectoryError:
        raise Unreadable("is a folder, not a file.") from None
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error}). Check the disk and the path.") from None


def _handle(path: Path, within: Path | None) -> int:
    try:
        if within is None or _inside(path, within):
            # Not to wait for a pipe's other end: whether it is a file can be told for sure only of what is open.
            return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (ValueError, RuntimeError) as error:  # a zero byte in its name, links in a circle
        raise Unreadable(f"cannot be read ({error}). Check the path.") from None
    raise Unreadable("is a link to a file outside its folder. Copy that file here instead.")


def _bytes(path: Path, limit: int, within: Path | None) -> bytes:
    with opened(path, within) as file:
        content = file.read(limit + 1)
        size = os.fstat(file.fileno()).st_size
    if len(content) > limit:
        length = f"{size / MB:.1f} MB" if size > limit else "longer"
        raise Unreadable(f"is {length}; at most {limit / MB:g} MB are read. Is it the right file?")
    return content


def _inside(path: Path, folder: Path) -> bool:
    """Whether a file is really in a folder; in the hub's cache, in the folder of the whole repository."""
    root = folder.resolve()
    if root.parent.name == "snapshots":  # whose files are links to ../../blobs
        root = root.parent.parent
    return path.resolve().is_relative_to(root)


def megabytes(size: int) -> str:
    """A size on the disk in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
