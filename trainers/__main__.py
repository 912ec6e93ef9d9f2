"""One training process: ``python -m trainers RUN``. It ends with 0 (finished or stopped) or 1 (failed)."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lowrank_diffusion import devices, events, lanes, requests, run_queue
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.errors import Hopeless, UserError, of_disk
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.image import memory
from lowrank_diffusion.image.request import leave_out_quantisation
from lowrank_diffusion.processes import importing_libraries
from lowrank_diffusion.runs import Run, all_runs

if TYPE_CHECKING:
    from .task import Task


class StopRequested(Exception):
    """Asked to stop before training began; there is nothing to save."""


class Stopping:
    """Whether to stop: a ``stop`` file in the run's folder, or SIGTERM or SIGINT."""

    def __init__(self, run: Run):
        self.run, self.signalled = run, False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.signalled = True

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self.signalled or self.run.requested("stop")

    def check(self) -> None:
        """Raise StopRequested if so."""
        if self():
            raise StopRequested


def main(path: str) -> int:
    """Train one run. Of several processes the first writes its events, and the others only train."""
    run = Run(Path(path))
    if devices.rank():
        return follow(run)
    code = lead(run)
    _hand_on(run)
    return code


def follow(run: Run) -> int:
    """What the other processes of a run do. They stop with the first: its launcher ends them when it fails."""
    try:
        _train(run, run.config(), Silent(run.events_path), Stopping(run))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


class Silent(EventLog):
    """A log that nobody reads: one process writes for all."""

    def append(self, event: events.Event) -> None:
        """Nothing."""


def lead(run: Run) -> int:
    """Train a run, writing its events."""
    lock = FileLock(run.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{run.name} is being trained by another process.", flush=True)
        return 1
    with lock:
        number = run.status().starts + 1
        run.write_process(os.getpid(), number)
        log = EventLog(run.events_path)
        log.append(events.Began(number))
        try:
            _run(run, log, Stopping(run))
        except StopRequested:
            log.append(events.Stopped(run.status().step))
            return devices.world_size() - 1  # the launcher ends the other processes only after a failure
        except Exception as error:
            traceback.print_exc()
            log.append(events.Failed(explain(error, run), not isinstance(error, Hopeless)))
            return 1
        finally:
            for request in requests.ALL:
                run.clear(request)
    return 0


def _hand_on(run: Run) -> None:
    """Let the next run of the queue begin: nobody else may be there to see that this one has ended."""
    try:
        for started in run_queue.advance(run.path.parent):
            print(f"{started.name} is next and was started.", flush=True)
    except Exception:
        traceback.print_exc()  # this run has ended well or badly, and its end does not change by that


def _run(run: Run, log: EventLog, stopping: Stopping) -> None:
    cfg = run.config()
    problems = devices.problems(cfg)
    if problems:
        raise ConfigError(problems)
    with _turn(run, lanes.of(cfg), log, stopping):
        _train(run, cfg, log, stopping)


def _turn(run: Run, wanted: tuple[str, ...], log: EventLog, stopping: Stopping) -> ExitStack:
    """Wait for the devices, in the order in which runs asked for them."""
    waiting = False
    while True:
        ahead = [other for other in all_runs(run.path.parent) if _waits_longer(other, run, wanted)] if waiting else []
        if not ahead and (taken := lanes.take(run.path.parent, wanted)):
            return taken
        if not waiting:
            log.append(events.Waiting("Another run is training; this one starts when it ends.", time.monotonic()))
            waiting = True
        stopping.check()
        time.sleep(0.5)


def _waits_longer(other: Run, run: Run, wanted: tuple[str, ...]) -> bool:
    if other.path == run.path or other.process() is None:
        return False
    theirs, mine = other.status(), run.status()
    if theirs.state != "waiting" or (theirs.waits, other.name) > (mine.waits, run.name):
        return False
    return bool(set(lanes.of(other.config())) & set(wanted))


def _train(run: Run, cfg: Config, log: EventLog, stopping: Stopping) -> None:
    log.append(events.Stage("Starting", 0, 1))
    if cfg.task == "image" and not devices.needs_bitsandbytes(cfg):
        leave_out_quantisation()
    with importing_libraries():  # torch and the models' libraries take seconds: only now
        from . import fast, loop, parallel

        task_class = _task_class(cfg)

    device = devices.pick(cfg.train.device)
    if cfg.train.gpu and device.type != "cuda":
        raise devices.DeviceError(
            f"train.gpu: there is no GPU number {cfg.train.gpu} here, counted from 0. Take another."
        )
    dtype = devices.dtype(cfg.train.precision, device)
    world, device = parallel.join(cfg.train.gpus, device)
    advice = memory.advice(cfg, devices.free(device), fast.machine(device, dtype))
    if advice:
        log.append(events.Note(advice))
    devices.limit(device, cfg.train.memory)
    if not world.first:
        world.wait()  # until the first process has filled the caches
    progress = events.Stages(log, stopping.check if world.first else lambda: None)
    task = task_class(run, cfg, device, dtype, progress, log.append)
    if world.first:
        world.wait()
    loop.fit(run, cfg, task, fast.build(task, cfg, device, dtype, world), log, stopping)
    world.leave()


def _task_class(cfg: Config) -> Callable[..., Task]:
    """What ``task`` says; only its own libraries are loaded."""
    if cfg.task == "image":
        from .dreambooth import DreamBooth

        return DreamBooth
    from .llm import LanguageModel

    return LanguageModel


def explain(error: Exception, run: Run) -> str:
    """An error in words for a person; the traceback is in the run's log."""
    if isinstance(error, UserError):
        return str(error)
    if devices.is_out_of_memory(error):
        return (
            "Out of memory. Lower train.batch (train.accumulate makes up for it), data.resolution or text.length, set "
            "train.checkpointing=true or base.quantize=8bit, or take a smaller adapter.rank. What was trained is "
            "saved: resume to go on."
        )
    if isinstance(error, OSError):
        return f"{of_disk(error)} What was trained is saved as far as it could be. Details: {run.log_path}"
    return f"{type(error).__name__}: {error}. Details: {run.log_path}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
