"""The adapter of the lowest validation loss, kept beside the newest checkpoints; and when to end early."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from lowrank_diffusion import events
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.runs import Run
from lowrank_diffusion.status import Status

from .step import Step

Write = Callable[[Path], list[Path]]
"""Exports the adapter as it is into a folder that it makes."""


class Best:
    """What the validations of a run have come to; a resumed run begins with those of its events.

    The validation before the first step measures the base: it says whether training has helped, and is not a step to
    keep.
    """

    def __init__(self, run: Run, state: Step, log: EventLog):
        self.run, self.state, self.log = run, state, log
        self.seen = [point for point in run.status().validation if point[0] <= state.done] if state.world.first else []

    @property
    def lowest(self) -> tuple[int, float] | None:
        """(step, loss) of the lowest loss after the first step; the earliest of equal ones."""
        return Status(validation=self.seen).lowest

    def take(self, loss: float, write: Write) -> None:
        """A validation of the state as it is: keep its adapter if none was lower."""
        before, step = self.lowest, self.state.done
        self.seen.append((step, loss))
        if not (step and self.state.cfg.save.best and (before is None or loss < before[1])):
            return
        folder = self.run.best_folder(step)
        paths = write(folder)
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        self.log.append(events.Best(step, loss, tuple(str(path.relative_to(self.run.path)) for path in paths)))

    @property
    def enough(self) -> bool:
        """Whether ``train.patience`` is used up: that many validations since the lowest."""
        patience, lowest = self.state.cfg.train.patience, self.lowest
        if not patience or lowest is None:
            return False
        return sum(step > lowest[0] for step, _ in self.seen) >= patience

    def conclude(self) -> None:
        """At the end of a run, tell why it ended before its last step, and whether training has helped at all."""
        if (lowest := self.lowest) is None:
            return
        step, loss = lowest
        if self.state.done < self.state.cfg.train.steps:
            after = self.state.cfg.train.patience
            words = f"{after} validations have" if after > 1 else "one validation has"
            self.log.append(events.Note(f"Ended early: {words} not been below {loss:.4f}, the loss of step {step}."))
        base = dict(self.seen).get(0)
        if base is not None and loss >= base:
            words = (
                f"None of its steps has a lower validation loss than the base alone ({loss:.4f} against {base:.4f})."
            )
            self.log.append(events.Note(f"{words} Try a lower optimizer.lr, or other held-out examples."))
