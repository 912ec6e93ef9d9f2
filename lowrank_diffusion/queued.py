"""The file of the queue: which runs wait for their device, in which order. What happens to them is in `run_queue`.

Beside the runs, so that it outlives the app, a page and a machine; written whole, one writer at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from .files import MB, Unreadable, read_object
from .paths import write_text

FILE = "queue.json"


@dataclass(frozen=True)
class Entry:
    """A run that waits."""

    run: str
    """Its directory's name."""
    held: bool = False
    """It is passed over until it is released."""
    reason: str = ""
    """Why it is held, if nobody asked for it: it could not be started."""


@dataclass(frozen=True)
class Queue:
    """All that wait, the next one first."""

    entries: tuple[Entry, ...] = ()
    paused: bool = False
    """Whoever is at work goes on to its end, and nothing is started after it."""


def read(root: Path) -> Queue:
    """The queue of the runs in ``root``; an empty one where there is no file, or none that makes sense."""
    path = root / FILE
    try:
        changed = path.stat()
    except OSError:
        return Queue()
    return _read(path, changed.st_mtime_ns, changed.st_ino)


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _inode: int) -> Queue:
    try:
        stored = read_object(path, MB)
    except Unreadable:
        return Queue()
    rows, entries = stored.get("entries"), dict[str, Entry]()
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(name := row.get("run"), str) and Path(name).name == name:
            reason = row.get("reason")
            entries[name] = Entry(name, row.get("held") is True, reason if isinstance(reason, str) else "")
    return Queue(tuple(entries.values()), stored.get("paused") is True)


def entry(run: Path) -> Entry | None:
    """The entry of a run's directory."""
    return next((entry for entry in read(run.parent).entries if entry.run == run.name), None)


@contextmanager
def changing(root: Path) -> Iterator[list[Queue]]:
    """The queue in a list of one, to be replaced there; nobody else changes it meanwhile. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".queue.lock"):
        before = read(root)
        held = [before]
        yield held
        if held[0] != before:
            write_text(root / FILE, json.dumps(asdict(held[0]), indent=1))
