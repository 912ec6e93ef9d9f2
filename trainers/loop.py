"""The training loop, the only one. Read it top to bottom: validate, sample, save, stop or take one more step."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lowrank_diffusion import devices, events, requests
from lowrank_diffusion.config import Config
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.runs import Run

from . import checkpoint
from .best import Best
from .step import Diverged, Result, Step
from .task import Counted, Task

T = TypeVar("T")


def fit(run: Run, cfg: Config, task: Task, state: Step, log: EventLog, stopping: Callable[[], bool]) -> None:
    """Train from the newest checkpoint, or from the beginning, to the last step or to a request to stop.

    The loop passes ``train.steps`` + 1 times: the last pass only looks at the result and saves it.
    """
    start = _restore(run, state, log)
    steps = cfg.train.steps
    size = sum(p.numel() for p in state.parameters.values())
    precision = str(state.dtype).removeprefix("torch.")
    mode, reason = state.plan.mode, state.plan.why_not_faster
    log.append(events.Started(start, steps, state.device.type, precision, size, mode, reason))
    report = Report(log)
    memory, best, done = Peaks(state, log), Best(run, state, log), False
    memory.tell("preparing")

    try:
        for step in range(start, steps + 1):
            _pause(run, state, report, stopping)
            fresh, ends = step > start or start == 0, step == steps or state.world.any(stopping())
            validate = fresh and _due(step, cfg.validation.every, steps)
            sample = run.requested("sample") or (fresh and _due(step, cfg.sample.every, steps))
            save = run.requested("save") or (step > start and step % cfg.save.every == 0)
            if validate or sample or save or ends:
                report(state.drain())
                memory.tell("steps")
            if validate:
                _validate(task, state, log, best)
            if sample:
                _sample(run, task, state, log)
                memory.tell("samples")
            done = step == steps or (validate and _enough(state, best))
            if save or ends or done:
                _save(run, task, state, log, report.loss, done)
            if ends or done:
                break
            report(state.advance(step))
    except Exception:
        _rescue(run, state, log, start)
        raise
    _end(state, log, best, done)


def _end(state: Step, log: EventLog, best: Best, done: bool) -> None:
    if done:
        best.conclude()
    log.append(events.Finished(state.done) if done else events.Stopped(state.done))


def _restore(run: Run, state: Step, log: EventLog) -> int:
    """The first process decides which checkpoint is sound; the others take the newest that it has left."""
    if not state.world.first:
        state.world.wait()
    start = checkpoint.restore(run, state, lambda note: log.append(events.Note(note)))
    if state.world.first:
        state.world.wait()
    if not run.checkpoints and state.cfg.adapter.start:
        checkpoint.begin_with(Path(state.cfg.adapter.start), state)
    return start


class Report:
    """Tells what steps did."""

    def __init__(self, log: EventLog):
        self.log = log
        self.loss: float | None = None
        """Mean training loss of late."""

    def __call__(self, results: list[Result]) -> None:
        """These are done."""
        for result in results:
            self.loss = result.loss if self.loss is None else 0.95 * self.loss + 0.05 * result.loss
            self.log.append(events.Stepped(result.step, result.loss, result.lr, result.grad_norm, result.seconds))


def _pause(run: Run, state: Step, report: Report, stopping: Callable[[], bool]) -> None:
    """Wait while a pause is asked for; other processes of the run wait for this one at their next step."""
    if not (state.world.first and run.requested("pause")):
        return
    report(state.drain())
    report.log.append(events.Paused(state.done))
    while run.requested("pause") and not stopping():
        time.sleep(0.2)
    report.log.append(events.Continued(state.done))


class Peaks:
    """Reports how much GPU memory each stage takes, whenever it is more than before."""

    def __init__(self, state: Step, log: EventLog):
        self.state, self.log, self.reported = state, log, dict[str, tuple[int, int]]()

    def tell(self, stage: str) -> None:
        """What happened since the last call was ``stage``."""
        peak, before = devices.peak(self.state.device), self.reported.get(stage, (0, 0))
        if peak and (peak[0] > before[0] or peak[1] > before[1]):
            self.reported[stage] = max(peak[0], before[0]), max(peak[1], before[1])
            self.log.append(events.Memory(stage, *self.reported[stage]))


def _due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps


def _counted(what: str, state: Step, log: EventLog) -> Counted:
    """Tells of work between two steps while it is done."""
    stages = events.Stages(log)
    name = f"{what} after step {state.done}" if state.done else f"{what} before training"
    return lambda done, total: stages(name, done, total)


def _validate(task: Task, state: Step, log: EventLog, best: Best) -> None:
    if not state.world.first:
        return
    with state.evaluating(), state.autocast():
        loss = task.validate(_counted("Measuring", state, log))
    if loss is not None:
        log.append(events.Validated(state.done, loss))
        best.take(loss, lambda folder: _patiently(lambda: _exported(task, state, folder, None), state, log))


def _enough(state: Step, best: Best) -> bool:
    """Only the first process validates: the others hear of it."""
    return bool(state.cfg.train.patience) and state.world.any(best.enough)


def _sample(run: Run, task: Task, state: Step, log: EventLog) -> None:
    if not state.world.first:
        return
    prompts = requests.prompts_of(run)
    run.clear("sample")
    try:
        with state.evaluating():
            for prompt, path in task.sample(state.done, prompts, _counted("Sampling", state, log)):
                log.append(events.Sampled(state.done, prompt, str(path.relative_to(run.path))))
    except OSError as error:
        if not is_disk_full(error):
            raise
        log.append(events.Note(f"The disk is full: the samples of step {state.done} are missing. Free some space."))


def _exported(task: Task, state: Step, folder: Path, loss: float | None) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with state.evaluating():
        return task.export(folder, state.done, loss)


def _save(run: Run, task: Task, state: Step, log: EventLog, loss: float | None, done: bool) -> None:
    """Write checkpoint and adapter files; the run's own folder gets them too when it is ``done``."""
    if not state.world.first:
        return

    def export() -> list[Path]:
        files = _exported(task, state, folder, loss)
        return files + (_exported(task, state, run.path, loss) if done else [])

    run.clear("save")
    folder = _patiently(lambda: checkpoint.save(run, state), state, log)
    files = _patiently(export, state, log)
    checkpoint.prune(run, state.cfg.save.keep)
    log.append(events.Saved(state.done, str(folder.relative_to(run.path))))
    log.append(events.Exported(state.done, tuple(str(path.relative_to(run.path)) for path in files)))


def _rescue(run: Run, state: Step, log: EventLog, start: int) -> None:
    """Keep what was trained since ``start`` when something goes wrong, if it is worth keeping."""
    if state.whole and state.done > start and state.world.first:
        with suppress(Diverged):
            _patiently(lambda: checkpoint.save(run, state), state, log)


def _patiently(write: Callable[[], T], state: Step, log: EventLog) -> T:
    """On a full disk wait for space, again and again.

    Training on would put more work at risk, and ending would lose what was trained.
    """
    noted = False
    while True:
        try:
            return write()
        except OSError as error:
            if not is_disk_full(error):
                raise
            if not noted:
                log.append(events.Note(f"The disk is full: step {state.done} waits to be saved. Free some space."))
                print(f"step {state.done} cannot be saved yet: {error}", flush=True)
                noted = True
            time.sleep(2)


def is_disk_full(error: OSError) -> bool:
    """Whether this error goes away when somebody makes room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
