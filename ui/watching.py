"""One follower per run for all pages, so that a page's ticks cost what is new and nothing more."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

from lowrank_diffusion.runs import Run, Status, Watch, all_runs

FRESH_SECONDS = 0.4


class _Follower:
    def __init__(self, run: Run):
        self.lock = threading.Lock()
        self.watch = Watch(run)
        self.read_at = 0.0
        self.status = Status()

    def look(self) -> Status:
        with self.lock:
            if time.monotonic() - self.read_at > FRESH_SECONDS:
                self.status = self._read()
                self.read_at = time.monotonic()
            return self.status

    def _read(self) -> Status:
        """The state; a folder that none of our runs wrote is only reported as unreadable."""
        try:
            status = self.watch.refresh()
            if not is_sound(status):
                raise ValueError("a figure is not a number")
            lists = {name: list(value) for name, value in vars(status).items() if isinstance(value, list)}
            measures = {name: list(points) for name, points in status.measures.items()}
            return dataclasses.replace(status, **lists, measures=measures)  # read while others go on
        except Exception as error:  # whatever the files hold, the other runs are shown
            words = f"Its events or its process.json cannot be read ({type(error).__name__}: {str(error)[:200]})."
            return Status(state="unreadable", message=words)


def is_sound(status: Status) -> bool:
    """Whether every figure is a number: files that a stranger made may hold anything."""
    whole = (status.step, status.steps, status.stage_done, status.stage_total, status.parameters, status.memory)
    real = (status.seconds_per_step, status.started, status.updated)
    texts = (status.state, status.stage, status.message, status.device, status.precision, status.mode, *status.notes)
    points = [*status.losses, *status.rates, *status.validation]
    points += [point for group in status.measures.values() for point in group]
    return (
        all(type(value) is int and 0 <= value < 2**63 for value in whole)
        and all(_is_real(value) for value in real)
        and all(isinstance(text, str) for text in texts)
        and all(type(step) is int and 0 <= step < 2**63 and _is_real(value) for step, value in points)
        and all(
            type(at) is int and 0 <= at < 2**63 and isinstance(said, str) and isinstance(path, str)
            for at, said, path in status.samples
        )
    )


def _is_real(value: object) -> bool:
    """A number, also one that is not finite: a loss may be."""
    return (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300) or value != value


_followers: dict[Path, _Follower] = {}
_lock = threading.Lock()


def status(run: Run) -> Status:
    """The state of a run now; treat it as read-only."""
    with _lock:
        follower = _followers.setdefault(run.path, _Follower(run))
    return follower.look()


def forget(run: Run) -> None:
    """Drop a run that was just made or deleted, or whose state was just changed from here."""
    _active.read_at = 0.0
    with _lock:
        _followers.pop(run.path, None)
    _sizes.pop(run.path, None)


SIZE_SECONDS = 20
_sizes: dict[Path, tuple[float, float, int]] = {}


def size(run: Run, state: Status) -> int:
    """Bytes on the disk, looked at again when something has happened, and not more often than every 20 seconds."""
    read_at, happened, known = _sizes.get(run.path, (float("-inf"), -1.0, 0))
    if happened != state.updated and time.monotonic() - read_at > SIZE_SECONDS:
        try:
            known = run.disk_bytes()
        except OSError:  # a file that is just being replaced
            return known
        _sizes[run.path] = (time.monotonic(), state.updated, known)
    return known


class _Active:
    def __init__(self) -> None:
        self.lock, self.read_at, self.runs = threading.Lock(), 0.0, list[Run]()

    def look(self) -> list[Run]:
        with self.lock:
            if time.monotonic() - self.read_at > FRESH_SECONDS:
                self.runs = [run for run in all_runs() if status(run).active]
                self.read_at = time.monotonic()
            return self.runs


_active = _Active()


def active() -> list[Run]:
    """Runs with a process at work or waiting, newest first; every page asks this at every tick."""
    return _active.look()


def newest(count: int = 20) -> list[Run]:
    """The newest of the runs that have ended, one way or another."""
    return [run for run in all_runs()[:count] if status(run).state in ("finished", "stopped", "failed", "interrupted")]


def runs_of(name: str) -> list[Run]:
    """The runs of a task, newest first."""
    return [run for run in all_runs() if run.task == name]


def foremost(name: str) -> Run | None:
    """The run of a task that a page shows when it is opened: the one at work, else one that waits, else the newest."""
    runs = runs_of(name)
    order = {"training": 0, "paused": 1, "preparing": 2, "starting": 3, "waiting": 4}
    return min(runs, key=lambda run: order.get(status(run).state, 9), default=None)
