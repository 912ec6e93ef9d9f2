"""A run directory, and the state of a run derived from it.

::

    runs/20260101-120000-cats/
        config.yaml     every setting          events.jsonl   what happened        log.txt   the process's own output
        process.json    pid and start time     stop, sample   requests, by being there
        data/           pictures that came through the app
        checkpoints/step-000100/               state.safetensors and the adapter's files
        samples/        <name>.safetensors     <name>-kohya.safetensors            <name>-peft/

Nothing here stores a state: it is folded from the events, and from whether the process is alive.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from . import events, presets
from .config import Config, ConfigError, Problem
from .errors import UserError
from .paths import runs_folder, write_text

ACTIVE = ("starting", "waiting", "preparing", "training")


class RunError(UserError):
    """A run cannot do what was asked; the message says why and what to do."""


class Run:
    """One run directory."""

    def __init__(self, path: Path):
        self.path = Path(path).resolve()

    @property
    def name(self) -> str:
        """Directory name, unique among runs."""
        return self.path.name

    @property
    def title(self) -> str:
        """The name a person gave: the directory's without its time."""
        return re.sub(r"^\d{8}-\d{6}(_\d+)?-", "", self.name)

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
        return sorted(path.parent for path in self.path.glob("checkpoints/step-*/state.safetensors"))

    def files(self, step: int | None = None) -> list[Path]:
        """The adapter's files, of one checkpoint or the newest there are.

        Of a picture model: diffusers, kohya, PEFT folder. Of a language model: PEFT folder, PEFT folder as plain LoRA.

        Raises:
            RunError: where there are none yet.
        """
        places = [self.path / "checkpoints" / f"step-{step:06d}"] if step is not None else [self.path]
        places += reversed(self.checkpoints) if step is None else []
        forms = ((".safetensors", "-kohya.safetensors", "-peft"), ("-peft", "-lora-peft"))
        for place, form in itertools.product(places, forms):
            paths = [place / f"{self.title}{end}" for end in form]
            if all(path.exists() for path in paths):
                return paths
        steps = ", ".join(str(int(path.name.removeprefix("step-"))) for path in self.checkpoints) or "none"
        which = "" if step is None else f" of step {step}"
        raise RunError(f"{self.name} has no adapter files yet{which}. Checkpoints: {steps}.")

    def config(self) -> Config:
        """The run's settings. Raises ConfigError."""
        path = self.path / "config.yaml"
        try:
            return presets.from_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Problem(str(path), f"cannot be read: {error}.")]) from None

    def request(self, what: str) -> None:
        """Leave a request ('stop' or 'sample') for the training process."""
        (self.path / what).touch()

    def requested(self, what: str) -> bool:
        """Whether a request is waiting."""
        return (self.path / what).exists()

    def clear(self, what: str) -> None:
        """Take a request away."""
        (self.path / what).unlink(missing_ok=True)

    def write_process(self, pid: int, since: float | None = None) -> None:
        """Remember the process by pid and start time: pids are used again, pairs are not.

        ``since``: just before it was started, by the clock of the events; the system's may be a second off.
        """
        created = psutil.Process(pid).create_time()
        facts = {"pid": pid, "created": created, "since": since or created}
        write_text(self.path / "process.json", json.dumps(facts))

    def process(self) -> psutil.Process | None:
        """The run's own process if it is alive."""
        try:
            facts = self._process_facts()
            process = psutil.Process(facts["pid"])
            same = abs(process.create_time() - facts["created"]) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (KeyError, TypeError, ValueError, psutil.Error):
            return None

    @property
    def process_since(self) -> float:
        """When the newest process was started, alive or not; 0 if there never was one."""
        return float(self._process_facts().get("since", 0))

    def _process_facts(self) -> dict[str, Any]:
        try:
            facts = json.loads((self.path / "process.json").read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def status(self) -> Status:
        """The state of the run now, reading its whole log; use :class:`Watch` to follow one."""
        return Watch(self).refresh()


@dataclass
class Status:
    """What a run's events add up to."""

    state: str = "new"
    """new, starting, waiting, preparing, training, stopped, finished, failed, or interrupted (its process died)."""
    step: int = 0
    steps: int = 0
    stage: str = ""
    stage_done: int = 0
    stage_total: int = 0
    message: str = ""
    device: str = ""
    precision: str = ""
    parameters: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    rates: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    measures: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Other figures by name: (step, value) of each."""
    samples: list[tuple[int, str, str]] = field(default_factory=list)
    """(step, prompt, path relative to the run)."""
    notes: list[str] = field(default_factory=list)
    mode: str = ""
    """How its steps run, and why not faster (``reason``)."""
    reason: str = ""
    memory: int = 0
    """Most GPU memory taken so far, bytes; 0 on other devices."""
    seconds_per_step: float = 0.0
    started: float = 0.0
    updated: float = 0.0

    @property
    def active(self) -> bool:
        """Whether a process is working, or waiting to work, on it."""
        return self.state in ACTIVE

    @property
    def eta(self) -> float:
        """Seconds to the last step, from the recent speed; 0 if unknown."""
        return max(self.steps - self.step, 0) * self.seconds_per_step

    def fold(self, record: events.Record) -> None:
        """Take one event in."""
        self.updated = record.time
        match record.event:
            case events.Waiting(reason=reason):
                self.state, self.message = "waiting", reason
            case events.Stage(name=name, done=done, total=total):
                self.state, self.stage, self.stage_done, self.stage_total = "preparing", name, done, total
                self.message = ""
            case events.Started() as event:
                self._start(event, record.time)
            case events.Stepped() as event:
                self._step(event)
            case events.Validated(step=step, loss=loss):
                self.validation.append((step, loss))
            case events.Measured(name=name, value=value):
                self.measures.setdefault(name, []).append((self.step, value))
            case events.Sampled(step=step, prompt=prompt, path=path):
                self.samples.append((step, prompt, path))
            case events.Note() | events.Memory() as event:
                self._tell(event)
            case events.Stopped() | events.Finished() | events.Failed() as event:
                self.state, self.message = type(event).__name__.lower(), getattr(event, "message", "")

    def _start(self, event: events.Started, moment: float) -> None:
        """A resumed run repeats what came after its checkpoint, from step 0 everything: what that said is void."""
        last = event.step or -1
        self.state, self.message, self.stage = "training", "", ""
        self.step, self.steps = event.step, event.steps
        self.device, self.precision, self.parameters = event.device, event.precision, event.parameters
        self.mode, self.reason = event.mode, event.reason
        for name in ("losses", "rates", "validation", "samples"):
            setattr(self, name, [item for item in getattr(self, name) if item[0] <= last])
        kept = {name: [item for item in items if item[0] <= last] for name, items in self.measures.items()}
        self.measures = {name: items for name, items in kept.items() if items}
        self.started = self.started or moment

    def _tell(self, event: events.Note | events.Memory) -> None:
        if isinstance(event, events.Note):
            if event.message not in self.notes:  # a resumed run says again what it said before
                self.notes.append(event.message)
        else:
            self.memory = max(self.memory, event.reserved)

    def _step(self, event: events.Stepped) -> None:
        self.step = event.step
        self.losses.append((event.step, event.loss))
        self.rates.append((event.step, event.lr))
        first = not self.seconds_per_step
        self.seconds_per_step = event.seconds if first else 0.9 * self.seconds_per_step + 0.1 * event.seconds


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
        told, since = self._folded, self.run.process_since
        unheard = since > told.updated  # what the events tell of is an older process
        ended = told.state in ("stopped", "finished", "failed") and not unheard
        if alive and unheard:
            return replace(told, state="starting", message="")
        if alive or ended or (told.state == "new" and not since):
            return replace(told)
        message = f"The process ended without a word. Its output: {self.run.log_path}"
        return replace(told, state="interrupted", message=message)


def create(config: Config, name: str, root: Path | None = None) -> Run:
    """Make a run directory. ``name`` is reduced to letters, digits, '-' and '_'. Raises RunError."""
    slug = re.sub(r"[^\w-]+", "-", name, flags=re.ASCII).strip("-")[:60]
    if not slug:
        raise RunError(f"name: must hold a letter or a digit, got {name!r}.")
    root = root or runs_folder()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for again in range(1000):
        path = root / (f"{stamp}_{again}-{slug}" if again else f"{stamp}-{slug}")
        try:
            path.mkdir(parents=True)
            write_text(path / "config.yaml", presets.to_yaml(presets.with_absolute_paths(config)))
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
    if (Path(name) / "config.yaml").is_file():
        return Run(Path(name))
    runs = all_runs(root)
    for run in runs:
        if name in (run.name, run.title):
            return run
    known = ", ".join(run.name for run in runs[:5]) or "none yet"
    raise RunError(f"There is no run {name!r}. Newest runs: {known}.")
