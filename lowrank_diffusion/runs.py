"""A run directory, and the state of a run derived from it.

::

    runs/20260101-120000-cats/
        config.yaml     every setting          events.jsonl   what happened        log.txt   the process's own output
        process.json    who works on it        launch.json    who was started to
        stop, pause, save, sample    requests, by being there
        about.json      what a person says of it: a name, notes, tags
        data/           pictures that came through the app
        checkpoints/step-000100/               state.safetensors and the adapter's files
        best/step-000080/                      the adapter's files of the lowest validation loss
        samples/        <name>-diffusers.safetensors     <name>-comfyui-forge.safetensors     <name>-peft/

Nothing here stores a state: it is folded from the events, and from whether the process is alive.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import psutil

from . import about, events, presets, processes, queued
from .config import Config, ConfigError, Problem
from .errors import UserError
from .files import MB, Unreadable, read_text
from .paths import expanded, runs_folder, too_long, write_text
from .run_files import FORMS as FORMS
from .run_files import STATE as STATE
from .run_files import Adapter as Adapter
from .run_files import adapter_files, stem_of
from .run_files import step_of as step_of
from .status import Status

LARGEST_CONFIG = MB
"""Bytes of a config.yaml, which has some six thousand."""


class RunError(UserError):
    """A run cannot do what was asked; the message says why and what to do."""


@lru_cache(maxsize=10_000)
def _task(config: Path) -> str:
    """Looking for one line is a hundred times faster than reading all settings, and a page asks about every run."""
    try:
        line = re.search(r"^task: (\w+)", read_text(config, LARGEST_CONFIG), re.MULTILINE)
    except Unreadable:
        line = None
    return "text" if line and line[1] == "text" else "image"


class Run:
    """One run directory."""

    def __init__(self, path: Path):
        self.path = Path(path).resolve()

    @property
    def name(self) -> str:
        """Directory name, unique among runs."""
        return self.path.name

    @property
    def stem(self) -> str:
        """What its files are called: the directory's name without its time."""
        return stem_of(self.name)

    @property
    def title(self) -> str:
        """The name that a person gave it, when it was made or since."""
        return self.about.title or self.stem

    @property
    def about(self) -> about.About:
        """What a person says of it."""
        return about.read(self.path)

    @property
    def events_path(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        """What the process printed."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path.parent for path in self.path.glob(f"checkpoints/step-[0-9]*/{STATE}"))

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint after ``step`` steps, whether it is there or not."""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def best_folder(self, step: int) -> Path:
        """Where the adapter is kept if ``step`` has the lowest validation loss."""
        return self.path / "best" / f"step-{step:06d}"

    @property
    def task(self) -> str:
        """What it trains: "text" or "image"; also "image" if its settings do not say, as in early runs."""
        return _task(self.path / "config.yaml")

    def adapters(self) -> list[Adapter]:
        """Every adapter that is there whole: the finished run's, then by step, newest first."""
        best = [path for path in self.path.glob("best/step-[0-9]*") if self._adapter_files(path)]
        places = {step_of(path): path for path in (*best, *self.checkpoints)}
        steps = {step_of(path) for path in best}
        kept = [(self.path, None), *((places[step], step) for step in sorted(places, reverse=True))]
        return [Adapter(paths, step, step in steps) for place, step in kept if (paths := self._adapter_files(place))]

    def _adapter_files(self, place: Path) -> list[Path]:
        return adapter_files(place, self.stem, self.task)

    def adapter(self, step: int | Literal["best"] | None = None) -> Adapter:
        """The adapter after ``step`` steps, of the lowest validation loss ("best"), or the newest there is.

        Raises RunError where it is not there, naming those that are.
        """
        there = self.adapters()
        for one in there:
            if step in (None, one.step) or (step == "best" and one.best):
                return one
        if isinstance(step, int) and (paths := self._adapter_files(self.checkpoint(step))):
            return Adapter(paths, step)
        kept = ", ".join(str(one.step) for one in there if one.step is not None) or "none"
        if step == "best":
            raise RunError(f"{self.name} has no best adapter: it was not validated. Kept steps: {kept}.")
        which = "" if step is None else f" of step {step}"
        raise RunError(f"{self.name} has no adapter files yet{which}. Kept steps: {kept}.")

    def newest_adapter(self) -> Adapter | None:
        """The newest adapter; None where there is none yet."""
        try:
            return self.adapter()
        except RunError:
            return None

    def files(self, step: int | Literal["best"] | None = None) -> list[Path]:
        """The files of :meth:`adapter`."""
        return self.adapter(step).paths

    def config(self) -> Config:
        """The run's settings, with absolute paths. Raises ConfigError."""
        path = self.path / "config.yaml"
        try:
            text = read_text(path, LARGEST_CONFIG)
        except Unreadable as error:
            raise ConfigError([Problem(str(path), str(error))]) from None
        return presets.with_paths(presets.from_yaml(text, str(path)), self._outward)

    def write_config(self, config: Config) -> None:
        """Keep its settings. Paths inside the run are written relative to it, so that its folder can be moved."""
        inside = presets.with_paths(presets.with_absolute_paths(config), self._inward)
        write_text(self.path / "config.yaml", presets.to_yaml(inside))

    def _inward(self, path: str) -> str:
        return str(Path(path).relative_to(self.path)) if Path(path).is_relative_to(self.path) else path

    def _outward(self, path: str) -> str:
        """Also for a run that was made when its own paths were absolute, and has been moved since."""
        if Path(path).is_absolute():
            _, named, own = path.partition(f"/{self.name}/")
            moved = named and not Path(path).exists() and (self.path / own).exists()
            return str(self.path / own) if moved else path
        return str(self.path / path) if (self.path / path).exists() else path

    def request(self, what: str, text: str = "") -> None:
        """Leave a request ('stop', 'pause', 'save' or 'sample', perhaps with prompts) for the training process."""
        write_text(self.path / what, text) if text else (self.path / what).touch()

    def requested_text(self, what: str) -> str:
        """What a request says; empty without one."""
        try:
            return read_text(self.path / what, MB)
        except Unreadable:
            return ""

    def requested(self, what: str) -> bool:
        """Whether a request is waiting."""
        return (self.path / what).exists()

    def clear(self, what: str) -> None:
        """Take a request away."""
        (self.path / what).unlink(missing_ok=True)

    def write_process(self, pid: int, number: int) -> None:
        """Remember who works on it, in which of its starts; only whoever holds the run's lock may say so."""
        processes.write(self.path / "process.json", pid, number)

    def write_launch(self, pid: int, number: int) -> None:
        """Remember who was started to work on it: until that process speaks, and where it starts others."""
        processes.write(self.path / "launch.json", pid, number)

    def process(self) -> psutil.Process | None:
        """The process that works on it, or was started to, if it is alive."""
        return processes.alive(self.path / "process.json") or self.launcher()

    def launcher(self) -> psutil.Process | None:
        """The process that was started, which is another one where several GPUs work."""
        return processes.alive(self.path / "launch.json")

    @property
    def newest_start(self) -> int:
        """The number of the newest start, heard of or not; 0 if there was none."""
        return max(processes.number(self.path / name) for name in ("process.json", "launch.json"))

    def disk_bytes(self) -> int:
        """What its folder takes on the disk, bytes; files that other runs share count in full."""
        return sum(path.lstat().st_size for path in self.path.rglob("*") if path.is_file())

    def status(self) -> Status:
        """The state of the run now, reading its whole log; use :class:`Watch` to follow one."""
        return Watch(self).refresh()


class Watch:
    """Follow a run, reading only what is new."""

    def __init__(self, run: Run):
        self.run, self._offset, self._folded = run, 0, Status()

    def refresh(self) -> Status:
        """Fold new events and look at the process."""
        alive = self.run.process() is not None  # before reading: events of a process that just ended are then seen
        records, self._offset = events.tail(self.run.events_path, self._offset)
        for record in records:
            self._folded.fold(record)
        status, newest = self._folded, self.run.newest_start
        unheard = newest > status.starts  # what the events tell of is an older process
        ended = status.state in ("stopped", "finished", "failed") and not unheard
        if alive and unheard:
            return replace(status, state="starting", message="", resumable=True)
        if alive:
            return replace(status)
        if entry := queued.entry(self.run.path):
            return replace(status, state="held" if entry.held else "queued", message=entry.reason)
        if ended or (status.state == "new" and not newest):
            return replace(status)
        message = f"The process ended without a word; its output is in {self.run.log_path}."
        return replace(status, state="interrupted", message=message, resumable=True)


def create(config: Config, name: str, root: Path | None = None) -> Run:
    """Make a run directory. Raises RunError.

    Args:
        config: Its settings.
        name: Its title; its files carry of it what every file system takes: 60 of [A-Za-z0-9_-].
        root: Where it lies; among the other runs if None.
    """
    slug = re.sub(r"[^\w-]+", "-", name, flags=re.ASCII).strip("-")[:60] or "run"
    if not any(letter.isalnum() for letter in name):
        raise RunError(f"name: must hold a letter or a digit, got {name[:60]!r}.")
    title = " ".join(name.split())
    if len(title) > about.LONGEST_TITLE:
        raise RunError(f"name: must have at most {about.LONGEST_TITLE} characters, got {len(title)}.")
    root = root or runs_folder()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for again in range(1000):
        path = root / (f"{stamp}_{again}-{slug}" if again else f"{stamp}-{slug}")
        try:
            path.mkdir(parents=True)
            Run(path).write_config(config)
            if title != slug:
                about.write(path, about.About(title))
        except FileExistsError:
            continue
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise RunError(f"{path}: cannot be made: {error.strerror}. Free some space or set LOWRANK_HOME.") from None
        return Run(path)
    raise RunError(f"{root}: a thousand runs named {slug} in one second.")


def all_runs(root: Path | None = None) -> list[Run]:
    """Every run, newest first."""
    return [Run(path.parent) for path in sorted((root or runs_folder()).glob("*/config.yaml"), reverse=True)]


def find(name: str, root: Path | None = None) -> Run:
    """A run by path, directory name, or the newest with that title. Raises RunError naming the newest runs."""
    if not too_long(name) and (expanded(name) / "config.yaml").is_file():
        return Run(expanded(name))
    runs = all_runs(root)
    for run in runs:
        if name in (run.name, run.title, run.stem):
            return run
    known = ", ".join(run.name for run in runs[:5]) or "none yet"
    raise RunError(f"There is no run {name[:200]!r}. Newest runs: {known}.")
