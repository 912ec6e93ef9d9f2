"""What a run says about itself: typed events, one JSON line each, written by one process and read by any number.

The writer appends whole lines. Readers keep a byte offset and leave a line that is not finished for the next look.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from .event_kinds import Began as Began
from .event_kinds import Best as Best
from .event_kinds import Continued as Continued
from .event_kinds import Event as Event
from .event_kinds import Exported as Exported
from .event_kinds import Failed as Failed
from .event_kinds import Finished as Finished
from .event_kinds import Measured as Measured
from .event_kinds import Memory as Memory
from .event_kinds import Note as Note
from .event_kinds import Paused as Paused
from .event_kinds import Sampled as Sampled
from .event_kinds import Saved as Saved
from .event_kinds import Stage as Stage
from .event_kinds import Started as Started
from .event_kinds import Stepped as Stepped
from .event_kinds import Stopped as Stopped
from .event_kinds import Validated as Validated
from .event_kinds import Waiting as Waiting
from .files import Unreadable, opened
from .paths import sync

KINDS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in Event.__subclasses__()}
DURABLE = (Saved, Stopped, Finished, Failed)
"""On the disk, and not only on its way there, before the writer goes on: a power cut must not take them back."""
LONGEST_LINE = 1_000_000
"""Bytes of an event; a longer line is not ours."""
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Record:
    """An event and when it was written (seconds since 1970)."""

    time: float
    event: Event


class Stages:
    """Stage events, at most a few a second; ``check`` is called each time and may raise what ends the work."""

    def __init__(self, log: EventLog, check: Callable[[], None] = lambda: None):
        self.log, self.check, self.last = log, check, 0.0

    def __call__(self, name: str, done: int, total: int) -> None:
        """``done`` of ``total`` are."""
        self.check()
        if done == total or time.monotonic() - self.last > 0.3:
            self.log.append(Stage(name, done, total))
            self.last = time.monotonic()


class EventLog:
    """Append events to a file. One writer per file.

    A full disk does not lose events: what could not be written is kept in memory and goes out, in order, before the
    next event.
    """

    def __init__(self, path: Path):
        self.path = path
        self._pending: list[bytes] = [b"\n"] if _is_torn(path) else []
        self.flush()

    def append(self, event: Event) -> None:
        """Write one event as one line."""
        body = {"kind": type(event).__name__.lower(), "time": round(time.time(), 3), **dataclasses.asdict(event)}
        self._pending.append(_line(body))
        if self.flush() and isinstance(event, DURABLE):
            sync(self.path)

    def flush(self) -> bool:
        """Write what is pending; False if the disk is full."""
        while self._pending:
            if not self._write(self._pending[0]):
                return False
            self._pending.pop(0)
        return True

    def _write(self, line: bytes) -> bool:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, line) == len(line):
                    return True
            except OSError:
                pass
            os.ftruncate(descriptor, size)  # no half line stays behind
            return False
        finally:
            os.close(descriptor)


def _line(body: dict[str, Any]) -> bytes:
    """One JSON line. Bytes of a file name that are not UTF-8 stay as escapes, which JSON reads back."""
    return json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _is_torn(path: Path) -> bool:
    """Whether a writer was killed inside a write: its half line must be ended, so that the next one is whole."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def tail(path: Path, offset: int = 0) -> tuple[list[Record], int]:
    """Events written after byte ``offset``, and the offset to go on from. A file that is not ours holds none."""
    records: list[Record] = []
    try:
        with opened(path) as file:
            while whole := _whole_lines(file, offset):
                records += _parse(whole)
                offset += len(whole)
    except (Unreadable, OSError):
        pass  # no file yet, or none that can be read
    return records, offset


def _whole_lines(file: BinaryIO, offset: int) -> bytes:
    """Some lines from ``offset`` on, none where the next is not finished; one too long for an event, in pieces."""
    file.seek(offset)
    chunk = file.read(_CHUNK)
    return chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) > LONGEST_LINE else b"")


def _parse(data: bytes) -> Iterator[Record]:
    for line in data.split(b"\n"):
        try:
            body: dict[str, Any] = json.loads(line) if len(line) <= LONGEST_LINE else {}
            kind, moment = KINDS[body.pop("kind")], body.pop("time")
            known = {f.name: _typed(str(f.type), body[f.name]) for f in dataclasses.fields(kind) if f.name in body}
            if _is_moment(moment) and all(map(_is_inside, [known.get("path", ""), *known.get("paths", ())])):
                yield Record(float(moment), kind(**known))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a torn line, an event of a newer version, or a line that somebody made up


def _typed(kind: str, value: Any) -> Any:
    """A field's value. Raises TypeError or ValueError if it has another type, or is a count out of range."""
    match kind, value:
        case ("str", str()) | ("bool", bool()):
            return value
        case "int", int() if not isinstance(value, bool) and 0 <= value < 2**53:
            return value
        case "float", int() | float() if not isinstance(value, bool):
            return float(value)
        case "tuple[str, ...]", list() if all(isinstance(item, str) for item in value):
            return tuple(value)
    raise TypeError(f"{value!r:.80} is not a {kind}")


def _is_moment(value: object) -> bool:
    """Seconds since 1970 that a calendar has."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


def _is_inside(path: str) -> bool:
    """Whether a path stays in the run's folder, on any system."""
    parts = PurePath(path.replace("\\", "/")).parts
    return not path.startswith("/") and ".." not in parts and path[1:2] != ":" and "\0" not in path
