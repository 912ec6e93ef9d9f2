"""The hashes by which other programs know a checkpoint: A1111's old one of a part of the file, and that of all of it.

A base in one file is 7 GB, which takes seconds to read from a fast disk and a minute from a slow one. So a run begins
to read it in the background when it starts, and what was found is kept in the cache.
"""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path

from . import paths
from .files import Unreadable, read_text

_READING = threading.Lock()


def begin(path: Path | None) -> None:
    """Have :func:`whole` ready by the time it is asked for; without a file, do nothing."""
    if path:
        threading.Thread(target=whole, args=[path], daemon=True).start()


def whole(path: Path) -> str:
    """SHA-256 of a file in 64 hex digits, by which A1111 and CivitAI find a base; empty where it cannot be read.

    A file of the same place, size and time is not read again.
    """
    with _READING:  # whoever asks while it is being read waits for that
        try:
            kept = _kept(path)
            return _known(kept) or _read(path, kept)
        except OSError:
            return ""


def legacy(path: Path) -> str:
    """The short hash that older programs use: of the 64 kB that begin at 1 MB. 8 hex digits; empty as above."""
    try:
        with path.open("rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except OSError:
        return ""


def _kept(path: Path) -> Path:
    about = path.stat()
    facts = f"{path.resolve()}\x1f{about.st_size}\x1f{about.st_mtime_ns}"
    return paths.cache_folder() / "hashes" / hashlib.blake2b(facts.encode(), digest_size=20).hexdigest()


def _known(kept: Path) -> str:
    try:
        digest = read_text(kept, 64)
    except Unreadable:
        return ""
    return digest if re.fullmatch("[0-9a-f]{64}", digest) else ""


def _read(path: Path, kept: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _kept(path) != kept:
        return ""  # it changed while it was read, so this is the hash of neither content
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        paths.write_text(kept, digest)
    except OSError:
        pass  # a full disk only means that it is read again
    return digest
