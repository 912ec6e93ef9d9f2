"""The process that measures adapters: evaluations, flatness and spectra of runs, kept in their folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lowrank_diffusion import cli_image, cli_text, evaluations, understanding
from lowrank_diffusion.api import EvaluateOptions
from lowrank_diffusion.image.request import DrawCancelled
from lowrank_diffusion.runs import Run

from .process import Cancelled, Finished, Partial


@dataclass(frozen=True)
class Evaluate:
    """Measure every kept adapter of a run, beside its base."""

    run: Path
    encoder: str = ""
    """For pictures; empty: the embedded one."""


@dataclass(frozen=True)
class Flatness:
    """Measure losses under weight noise of runs together; kept with the first."""

    runs: tuple[Path, ...]


@dataclass(frozen=True)
class Spectra:
    """Take the newest adapter of a run apart."""

    run: Path


@dataclass(frozen=True)
class Progress(Partial):
    """What is done of all; total 0 while something loads."""

    done: int
    total: int


@dataclass(frozen=True)
class Measured(Finished):
    """It is in the run's folder."""


Job = Evaluate | Flatness | Spectra


class MeasureWorker:
    """Does one job after another and keeps nothing of them."""

    name: ClassVar[str] = "measure"
    died: ClassVar[str] = (
        "The measuring process was ended from outside, most likely because memory ran out. "
        "Stop what else is running, such as a training, and try again."
    )
    out_of_memory: ClassVar[str] = "Out of memory. Stop what else is running, such as a training, and try again."
    failed: ClassVar[str] = "Measuring failed"

    def warm(self, wanted: Callable[[], bool]) -> None:
        """Nothing: a job is waiting already."""

    def forget(self) -> None:
        """Nothing is held."""

    def do(self, job: Job, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Measured:
        """One job. Raises Cancelled and UserError."""

        def progress(done: int, total: int) -> None:
            if cancelled():
                raise Cancelled
            send(Progress(done, total))

        progress(0, 0)
        try:
            match job:
                case Evaluate():
                    run = Run(job.run)
                    record: Any = (_pictures if run.task == "image" else _texts)(run, job, progress, cancelled)
                case Flatness():
                    run = Run(job.runs[0])
                    record = understanding.flatness_plan([str(path) for path in job.runs], {}).measure(progress)
                    record = _named(record, job.runs, "--flatness")
                case Spectra():
                    run = Run(job.run)
                    record = understanding.spectra_plan(str(job.run), {}).measure(progress)
                    record = _named(record, [job.run], "--spectra")
        except DrawCancelled:
            raise Cancelled from None
        finally:
            _give_back()
        evaluations.write(run, record)
        return Measured()


def _named(record: Any, paths: Any, option: str) -> Any:
    """With the command for a terminal, which calls runs by their names."""
    names = [path.name for path in paths]
    command = evaluations.command("understand", names, {option.removeprefix("--"): True})
    return record.model_copy(update={"command": command})


def _given(**values: Any) -> dict[str, Any]:
    usual = {"device": "auto", "precision": "auto", "steps": "all"}
    return dict.fromkeys(EvaluateOptions.__annotations__) | usual | values


def _pictures(
    run: Run, job: Evaluate, progress: Callable[[int, int], None], cancelled: Callable[[], bool]
) -> evaluations.Pictures:
    plan = cli_image.evaluation(run, _given(encoder=job.encoder or None), "")
    return plan.record(plan.measure(progress, cancelled))


def _texts(
    run: Run, _job: Evaluate, progress: Callable[[int, int], None], _cancelled: Callable[[], bool]
) -> evaluations.Texts:
    plan = cli_text.evaluation(run, _given())
    measured = {}
    for name, figures in plan.measure():
        measured[name] = figures
        progress(len(measured), len(plan.folders))
    return plan.record(measured)


def _give_back() -> None:
    """The memory of what was loaded, for whatever comes next."""
    from lowrank_diffusion import devices

    devices.release(devices.pick("auto"))
