"""Drawing that no page owns: a thread of the app follows each job, and its folder says what it is.

::

    pictures/20260101-120000-ab12cd/
        job.json        what was asked for, and what became of it
        7-base.png ...  the pictures, each with its own settings inside
        grid.json, grid.png   of a grid

Whoever opens the tab sees what is at work; what is done stays, however a job ends.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank_diffusion.errors import UserError, of_disk
from lowrank_diffusion.image import grid, sheet
from lowrank_diffusion.image.grid import Axis
from lowrank_diffusion.image.items import Item

from . import records, safe
from .at_work import AtWork
from .engine import CancelledError, Engine
from .image_worker import Done, Job, Preview, Progress
from .process import Waiting
from .records import Record


@dataclass
class Live(AtWork):
    """A drawing at work."""

    preview: str = ""
    """Address of a small picture of what is being drawn."""


class Jobs:
    """The jobs of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live: dict[str, Live] = {}
        self._lock = threading.Lock()

    def start(self, items: Sequence[Item], axes: Sequence[Axis] = ()) -> str:
        """Draw, from now on whatever becomes of the page; the job's name. Raises UserError for a full disk."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        return self._follow(Record(name, time.time(), "waiting", tuple(items), tuple(axes)))

    def go_on(self, name: str) -> str:
        """Draw what a job has not drawn. Raises UserError."""
        record = records.read(name)
        if record is None:
            raise UserError(
                "What this job was asked for is not known any more. Use the settings of one of its pictures."
            )
        return self._follow(record)

    def _follow(self, record: Record) -> str:
        with self._lock:
            if record.name in self._live:
                return record.name
            self._live[record.name] = Live(waiting=True)
        try:
            records.write(record.but(state="waiting", message=""))
            if plan := record.grid:
                plan.write(record.folder)
        except OSError as error:
            self._live.pop(record.name, None)
            raise UserError(f"{record.folder}: cannot be written. {of_disk(error)}") from None
        threading.Thread(target=self._work, args=[record], daemon=True, name=f"draw {record.name}").start()
        return record.name

    def cancel(self, name: str) -> bool:
        """Stop a job after its current step, keeping what is done; whether there was one."""
        live = self._live.get(name)
        if live is None:
            return False
        live.cancelled = True
        self._engine.cancel(name)
        return True

    def live(self, name: str) -> Live | None:
        """How far a job is; None if it is not at work or waiting."""
        return self._live.get(name)

    def foremost(self) -> str:
        """What a page shows when it is opened: the job at work, of several the oldest, else the newest there is."""
        at_work = sorted(self._live)
        return at_work[0] if at_work else next(iter(records.names()), "")

    def _work(self, record: Record) -> None:
        """A thread's: hand the job to the engine, and write down what became of it."""
        live = self._live[record.name]
        ended = record.but(state="failed", message="The app ended while it was drawn.")
        try:
            for update in self._engine.run(record.name, Job(tuple(self._order(record)), record.folder)):
                if isinstance(update, Done):
                    seconds = record.seconds + update.seconds
                    ended = record.but(state="done", message="", seconds=seconds, note=update.note)
                self._hear(record.name, live, update)
        except CancelledError:
            ended = record.but(state="cancelled", message="Cancelled. What was done is kept.")
        except UserError as error:
            ended = record.but(state="failed", message=str(error))
        except Exception as error:  # a thread has nobody to tell but the page
            ended = record.but(state="failed", message=f"Drawing failed ({type(error).__name__}: {error}).")
        finally:
            with contextlib.suppress(OSError):
                if plan := record.grid:
                    sheet.draw(plan, record.folder).save(record.folder / grid.SHEET)
                records.write(ended)
            self._live.pop(record.name, None)

    def _hear(self, name: str, live: Live, update: Any) -> None:
        match update:
            case Waiting():
                live.waiting = True
                if live.cancelled:
                    self._engine.cancel(name)
            case Progress(done=done, total=total):
                live.waiting, live.done, live.total = False, done, total
                live.began = live.began if done else time.monotonic()
            case Preview(address=address):
                live.preview = address

    @staticmethod
    def _order(record: Record) -> Sequence[Item]:
        return record.grid.items if record.grid else record.items


BIN = ".bin"
"""Folder of what was deleted, for as long as it can be undone."""
BIN_SECONDS = 600


def delete(name: str, file: str = "") -> str:
    """Put a job, or one picture of it, into the bin; what :func:`undo` brings it back by. Raises UserError."""
    folder = records.folder_of(name)
    source = safe.inside(folder / Path(file).name, folder) if file else folder
    token = f"{time.time_ns():020d}"
    target = safe.pictures_folder() / BIN / token / name / (source.name if file else "")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise UserError(f"{source.name}: cannot be deleted. {of_disk(error)}") from None
    _empty()
    return token


def undo(token: str) -> str:
    """Bring back what was deleted; the job's name. Raises UserError where it is gone."""
    place = safe.pictures_folder() / BIN / (token if re.fullmatch(r"\d{20}", token) else "none")
    (job,) = list(place.iterdir()) if place.is_dir() else [None]
    if job is None:
        raise UserError("It is gone: what was deleted is kept for ten minutes.")
    target = safe.pictures_folder() / job.name
    try:
        if target.exists():
            for file in job.iterdir():
                file.rename(target / file.name)
        else:
            job.rename(target)
        _remove(place)
    except OSError as error:
        raise UserError(f"{job.name}: cannot be brought back. {of_disk(error)}") from None
    return job.name


def _empty() -> None:
    """Delete for good what has been in the bin for long."""
    for place in (safe.pictures_folder() / BIN).glob("[0-9]*"):
        if place.name.isdecimal() and time.time_ns() - int(place.name) > BIN_SECONDS * 1e9:
            _remove(place)


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
