"""What a run's events add up to."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import events

ACTIVE = ("starting", "waiting", "preparing", "training", "paused")


@dataclass
class Status:
    """What a run's events add up to."""

    state: str = "new"
    """new, queued, held, starting, waiting, preparing, training, paused, stopped, finished, failed, or interrupted (its
    process died)."""
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
    """When the newest event was written; by the system's clock, which may be set back: for people only."""
    starts: int = 0
    """How often a process has begun to work on it."""
    waits: float = 0.0
    """Since when it waits for its device, seconds of the clock that all processes of this boot share."""
    resumable: bool = True
    """Whether going on could end otherwise than it did."""

    @property
    def took(self) -> float:
        """Seconds from the first step to the newest event."""
        return max(self.updated - self.started, 0.0) if self.started else 0.0

    @property
    def lowest(self) -> tuple[int, float] | None:
        """(step, loss) of the lowest validation loss; what was measured before the first step is the base's."""
        return min((point for point in self.validation if point[0]), key=lambda point: point[1], default=None)

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
            case events.Began() | events.Waiting() | events.Paused() | events.Continued() as event:
                self._wait(event)
            case events.Stage() as event:
                self._prepare(event)
            case events.Started() as event:
                self._start(event, record.time)
            case events.Stepped() as event:
                self._step(event)
            case events.Validated(step=step, loss=loss):
                self.validation.append((step, loss))
                self.stage = ""
            case events.Measured(name=name, value=value):
                self.measures.setdefault(name, []).append((self.step, value))
            case events.Sampled(step=step, prompt=prompt, path=path):
                self.samples.append((step, prompt, path))
            case events.Note() | events.Memory() as event:
                self._tell(event)
            case events.Stopped() | events.Finished() | events.Failed() as event:
                self.state, self.message = type(event).__name__.lower(), getattr(event, "message", "")
                self.stage = ""
                self.resumable = getattr(event, "resumable", True)

    def _wait(self, event: events.Began | events.Waiting | events.Paused | events.Continued) -> None:
        """A process has come, and perhaps has to wait; or it was asked to."""
        match event:
            case events.Began(number=number):
                self.state, self.message, self.stage = "starting", "", ""
                self.starts, self.resumable = number, True
            case events.Waiting(reason=reason, since=since):
                self.state, self.message, self.waits = "waiting", reason, since
            case events.Paused():
                self.state = "paused"
            case events.Continued():
                self.state = "training"

    def _prepare(self, event: events.Stage) -> None:
        """Work that is not a step; between two steps the run is still one that trains."""
        self.stage, self.stage_done, self.stage_total = event.name, event.done, event.total
        if self.state != "training":
            self.state, self.message = "preparing", ""

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
        self.step, self.stage = event.step, ""
        self.losses.append((event.step, event.loss))
        self.rates.append((event.step, event.lr))
        first = not self.seconds_per_step
        self.seconds_per_step = event.seconds if first else 0.9 * self.seconds_per_step + 0.1 * event.seconds
