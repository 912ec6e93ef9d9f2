"""Runs one after another, a queue for every device: whoever looks at it starts what can be started.

That is the app, a command, or a training process at its end; so the queue goes on when the app is closed, and after a
run that failed. It is held on disk (`queued`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from . import lanes, queued, supervisor
from .errors import UserError
from .paths import runs_folder
from .queued import Entry, Queue
from .runs import Run, RunError, all_runs

Change = Callable[[list[Entry], int], object]
"""Does something to the entry at a place of the list."""


def entries(root: Path | None = None) -> list[tuple[Run, Entry]]:
    """The runs that wait, the next one first; those whose folder has gone are left out."""
    root = root or runs_folder()
    return [(Run(root / entry.run), entry) for entry in queued.read(root).entries if _is_there(root, entry)]


def _is_there(root: Path, entry: Entry) -> bool:
    return (root / entry.run / "config.yaml").is_file()


def submit(run: Run, first: bool = False) -> bool:
    """Put a run into the queue and start it if its device is free and nothing waits for that; whether it was started.

    Raises RunError: it is at work, it is finished, or it cannot be started.
    """
    status = run.status()
    if run.process() is not None and status.active:
        raise RunError(f"{run.title} is running already.")
    if status.state == "finished":
        raise RunError(f"{run.title} is finished. Start a new run to train on.")
    with queued.changing(run.path.parent) as held:
        others = [entry for entry in held[0].entries if entry.run != run.name]
        mine = Entry(run.name)
        held[0] = replace(held[0], entries=tuple([mine, *others] if first else [*others, mine]))
    started = advance(run.path.parent)
    if (left := queued.entry(run.path)) and left.reason:
        remove(run)
        raise RunError(left.reason)
    return run.path in [other.path for other in started]


def advance(root: Path | None = None) -> list[Run]:
    """Start every run whose turn it is; what was started. What cannot be started is held, with the reason."""
    root, started = root or runs_folder(), list[Run]()
    if not queued.read(root).entries:
        return started
    with queued.changing(root) as held:
        busy, waiting = _busy(root), list[Entry]()
        for entry in held[0].entries:
            if not _is_there(root, entry) or _is_over(Run(root / entry.run)):
                continue
            turn = _turn(Run(root / entry.run), entry, busy, held[0].paused)
            if isinstance(turn, Entry):
                waiting.append(turn)
            else:
                started.append(turn)
        held[0] = replace(held[0], entries=tuple(waiting))
    return started


def _turn(run: Run, entry: Entry, busy: set[str], paused: bool) -> Run | Entry:
    """Start a run if its devices are free, and take them; else its entry, to be kept."""
    if entry.held:
        return entry
    try:
        wanted = set(lanes.of(run.config()))
        free = not wanted & busy
        busy |= wanted  # also for what waits: nobody overtakes it
        if paused or not free:
            return entry
        supervisor.start(run)
    except (UserError, OSError) as error:
        return replace(entry, held=True, reason=str(error))
    return run


def _is_over(run: Run) -> bool:
    """Whether there is nothing to start: it is at work already, or finished."""
    status = run.status()
    return (run.process() is not None and status.active) or status.state == "finished"


def _busy(root: Path) -> set[str]:
    """The devices of all runs at work, or waiting to work."""
    busy = set[str]()
    for run in all_runs(root):
        if run.process() is not None and run.status().active:
            with suppress(UserError):
                busy |= set(lanes.of(run.config()))
    return busy


def remove(run: Run) -> None:
    """Take it out of the queue; nothing else happens to it. Raises RunError if it is not in it."""
    _change(run, lambda entries, place: entries.pop(place))


def move(run: Run, by: int) -> None:
    """Further to the front (-1), to the back (1), or as far as there are places. Raises RunError."""

    def shift(entries: list[Entry], place: int) -> None:
        entries.insert(max(0, min(len(entries) - 1, place + by)), entries.pop(place))

    _change(run, shift)


def hold(run: Run, held: bool = True) -> None:
    """Pass it over until it is released (``held=False``). Raises RunError."""

    def put(entries: list[Entry], place: int) -> None:
        entries[place] = Entry(run.name, held)

    _change(run, put)
    advance(run.path.parent)


def _change(run: Run, change: Change) -> None:
    with queued.changing(run.path.parent) as held:
        entries = list(held[0].entries)
        place = next((number for number, entry in enumerate(entries) if entry.run == run.name), None)
        if place is None:
            raise RunError(f"{run.title} is not in the queue.")
        change(entries, place)
        held[0] = replace(held[0], entries=tuple(entries))


def delete(run: Run) -> None:
    """Delete a run's folder, and take it out of the queue. Raises RunError while it is at work."""
    if run.process() is not None:
        raise RunError(f"{run.title} is {run.status().state}. Stop it first; then it can be deleted.")
    with suppress(RunError):
        remove(run)
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise RunError(f"{run.path}: cannot be deleted: {error.strerror}.") from None


def pause(root: Path | None = None, paused: bool = True) -> None:
    """Start nothing more, or go on (``paused=False``)."""
    root = root or runs_folder()
    with queued.changing(root) as held:
        held[0] = replace(held[0], paused=paused)
    advance(root)


def state(root: Path | None = None) -> Queue:
    """The queue as it is on the disk."""
    return queued.read(root or runs_folder())
