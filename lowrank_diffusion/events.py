"""What a run says about itself: typed events, one JSON line each, written by one process and read by any number.

The writer appends whole lines. Readers keep a byte offset and leave a line that is not finished for the next look.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from .files import Unreadable, opened
from .paths import sync


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Began(Event):
    """A process has taken the run, for the ``number``-th time; what follows comes from it."""

    number: int


@dataclass(frozen=True)
class Waiting(Event):
    """Another run holds the device; this one starts when that ends."""

    reason: str
    since: float = 0.0
    """``time.monotonic()``: the order of those who wait, even if the clock is set."""


@dataclass(frozen=True)
class Started(Event):
    """The loop is about to run from ``step`` (0, or where a checkpoint left off) to ``steps``."""

    step: int
    steps: int
    device: str
    precision: str
    parameters: int
    mode: str = "eager"
    """How a step runs: captured, compiled or eager."""
    reason: str = ""
    """Why not faster, where it could be."""


@dataclass(frozen=True)
class Stage(Event):
    """Work before the first step: loading, caching, drawing class pictures."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Stepped(Event):
    """One optimiser step is done; ``step`` counts from 1."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class Validated(Event):
    """Loss on held-out examples after ``step`` steps."""

    step: int
    loss: float


@dataclass(frozen=True)
class Measured(Event):
    """A figure of the state after the steps done by then, such as the share of exact answers."""

    name: str
    value: float


@dataclass(frozen=True)
class Sampled(Event):
    """A picture or an answer made after ``step`` steps; ``path`` is relative to the run directory."""

    step: int
    prompt: str
    path: str


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint that training can resume from; ``path`` is relative to the run directory."""

    step: int
    path: str


@dataclass(frozen=True)
class Exported(Event):
    """Adapter files for other programs; paths are relative to the run directory."""

    step: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Best(Event):
    """The adapter after ``step`` steps has the lowest validation loss so far; its files, relative to the run."""

    step: int
    loss: float
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Note(Event):
    """Something a person should know; training goes on."""

    message: str


@dataclass(frozen=True)
class Memory(Event):
    """Most GPU memory of a stage ("preparing", "steps" or "samples") so far, in bytes."""

    stage: str
    allocated: int
    """In tensors."""
    reserved: int
    """Taken from the GPU: the tensors, and room between them."""


@dataclass(frozen=True)
class Stopped(Event):
    """Ended on request after ``step`` steps, saved; can be resumed."""

    step: int


@dataclass(frozen=True)
class Finished(Event):
    """All steps done and files written."""

    step: int


@dataclass(frozen=True)
class Failed(Event):
    """Ended by an error; ``message`` says what and what to do."""

    message: str
    resumable: bool = True
    """Whether going on could end differently: what is repeated to the bit fails again."""


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
