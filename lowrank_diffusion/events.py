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
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Waiting(Event):
    """Another run holds the device; this one starts when that ends."""

    reason: str


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


KINDS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in Event.__subclasses__()}


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
        self.flush()

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
    """Events written after byte ``offset``, and the offset to go on from."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data.rfind(b"\n") + 1
    return list(_parse(data[:whole])), offset + whole


def _parse(data: bytes) -> Iterator[Record]:
    for line in data.splitlines():
        try:
            body: dict[str, Any] = json.loads(line)
            kind = KINDS[body.pop("kind")]
            moment = float(body.pop("time"))
            names = {field.name for field in dataclasses.fields(kind)}
            yield Record(
                moment, kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k in names})
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a torn line, or an event of a newer version
