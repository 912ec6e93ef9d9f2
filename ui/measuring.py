"""Measuring that no page owns: a thread of the app follows each job; what comes of it is in the run's folder."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run

from .at_work import AtWork
from .engine import CancelledError, Engine
from .measure_worker import Progress
from .process import Waiting


@dataclass
class Live(AtWork):
    """A measurement at work."""

    what: str = ""
    """The word on its button."""


class Measuring:
    """The jobs of an engine, at most one for a run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live: dict[str, Live] = {}
        self._ended: dict[str, tuple[str, bool]] = {}
        self._lock = threading.Lock()

    def start(self, run: Run, what: str, job: Any) -> None:
        """Measure, from now on whatever becomes of the page. Raises UserError while something else is measured."""
        with self._lock:
            if run.name in self._live:
                rule = f"{self._live[run.name].what} of {run.title} is being measured."
                raise UserError(f"{rule} Wait for it, or cancel it.")
            self._live[run.name] = Live(what=what)
            self._ended.pop(run.name, None)
        threading.Thread(target=self._work, args=[run, job], daemon=True, name=f"measure {run.name}").start()

    def cancel(self, run: Run) -> None:
        """Stop what is measured of a run."""
        if live := self._live.get(run.name):
            live.cancelled = True
            self._engine.cancel(run.name)

    def live(self, run: Run) -> Live | None:
        """How far a job is; None if there is none."""
        return self._live.get(run.name)

    def ended(self, run: Run) -> tuple[str, bool]:
        """What became of the run's last job, for a person, and whether it went well; empty before the first."""
        return self._ended.get(run.name, ("", True))

    def _work(self, run: Run, job: Any) -> None:
        live, ended = self._live[run.name], ("", True)
        try:
            for update in self._engine.run(run.name, job):
                self._hear(run, live, update)
        except CancelledError:
            ended = ("Cancelled. What was measured before is kept.", True)
        except UserError as error:
            ended = (str(error), False)
        except Exception as error:  # a thread has nobody to tell but the page
            ended = (f"Measuring failed ({type(error).__name__}: {error}).", False)
        finally:
            self._ended[run.name] = ended
            self._live.pop(run.name, None)

    def _hear(self, run: Run, live: Live, update: Any) -> None:
        live.waiting = isinstance(update, Waiting)
        if live.waiting and live.cancelled:
            self._engine.cancel(run.name)
        if isinstance(update, Progress):
            live.done, live.total = update.done, update.total
            live.began = live.began if update.done else time.monotonic()
