"""Follow a run in a terminal: a progress bar where there is one, plain lines in a log file."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from . import plan, supervisor
from .devices import GIB
from .runs import Run, RunError, Status, Watch

DONE, FAILED, INTERRUPTED = 0, 1, 130


def plain(text: str) -> str:
    """A text without what would steer the terminal or cannot be printed: it may be a stranger's."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def follow(run: Run, stop_on_interrupt: bool, known: Sequence[str] = ()) -> int:
    """Print progress until the run ends; returns the exit code.

    Ctrl-C asks the run to save and stop, and a second one leaves it to that; with ``stop_on_interrupt`` False the
    first one only stops watching. ``known``: notes that were shown already.
    """
    screen, watch, interrupted = Screen(run, known), Watch(run), False
    while True:
        try:
            status = watch.refresh()
            screen.show(status)
            if not status.active:
                screen.close(status)
                return INTERRUPTED if interrupted else _code(status)
            time.sleep(0.3)
        except KeyboardInterrupt:
            if interrupted or not stop_on_interrupt or not _ask_to_stop(run):
                screen.say(f"Not watching any more. Go on with: watch {run.name}")
                return INTERRUPTED
            interrupted = True
            screen.say("Saving and stopping (Ctrl-C again to leave it alone)...")


def _ask_to_stop(run: Run) -> bool:
    try:
        supervisor.stop(run)
    except RunError:
        return False
    return True


def _code(status: Status) -> int:
    return DONE if status.state in ("finished", "stopped") else FAILED


def tell(notes: Sequence[str]) -> None:
    """Notes on what is not used as it is."""
    for note in notes:
        print(plain(f"note: {note}"), file=sys.stderr, flush=True)


class Screen:
    """What has been printed about a run so far, so that everything is printed once."""

    def __init__(self, run: Run, known: Sequence[str] = ()):
        self.run, self._known = run, set(known)
        self.terminal = sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._last = self._mode = ""
        self._step = -1
        self._last_time = 0.0
        self._notes = 0
        self._samples = 0
        self._measures: dict[str, int] = {}

    def say(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        tqdm.write(plain(text), file=sys.stderr if self.terminal else sys.stdout)
        sys.stdout.flush()

    def show(self, status: Status) -> None:
        """Say what is new."""
        for note in (note for note in status.notes[self._notes :] if note not in self._known):
            self.say(f"note: {note}")
        for step, prompt, path in status.samples[self._samples :]:
            self.say(f"sample after step {step}: {self.run.path / path} ({prompt})")
        self._notes, self._samples = len(status.notes), len(status.samples)
        for name, points in status.measures.items():
            for step, value in points[self._measures.get(name, 0) :]:
                self.say(f"{name} after step {step}: " + (f"{value:.1%}" if name == "exact match" else f"{value:.4g}"))
            self._measures[name] = len(points)
        if status.mode != self._mode:
            self._mode = status.mode
            self.say(plan.sentence(status.mode, status.reason))
        if status.state == "training" and (status.step or not status.stage):
            self._show_step(status)
        elif status.active:
            self._show_stage(status)

    def _show_stage(self, status: Status) -> None:
        line = status.message or status.stage or status.state
        counted = f"{line} {status.stage_done}/{status.stage_total}" if status.stage_total > 1 else line
        if line != self._last or (not self.terminal and time.monotonic() - self._last_time > 10):
            self.say(counted)
            self._last, self._last_time = line, time.monotonic()

    def _show_step(self, status: Status) -> None:
        loss = status.losses[-1][1] if status.losses else None
        if self.terminal:
            if self._bar is None:
                self._bar = tqdm(total=status.steps, initial=status.step, desc=self.run.title, unit="step")
            self._bar.update(status.step - self._bar.n)
            if loss is not None:
                self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        elif (
            loss is not None
            and status.step != self._step
            and (time.monotonic() - self._last_time > 5 or status.step == status.steps)
        ):
            self.say(f"step {status.step}/{status.steps} loss {loss:.4f} eta {status.eta:.0f} s")
            self._last_time = time.monotonic()
        self._step = status.step

    def close(self, status: Status) -> None:
        """The last words."""
        if self._bar is not None:
            self._bar.update(status.step - self._bar.n)
            self._bar.close()
        self.say(f"{self.run.name}: {status.state} after step {status.step}. {status.message}".rstrip())
        if status.memory:
            self.say(f"  most GPU memory taken: {status.memory / GIB:.2f} GiB")
        if status.state == "finished":
            for path in self.run.files():
                self.say(f"  {path}")
        elif status.state in ("stopped", "failed", "interrupted") and status.resumable:
            self.say(f"Resume with: python -m lowrank_diffusion resume {self.run.name}")
