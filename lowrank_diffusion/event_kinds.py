"""The events themselves: what can happen to a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True)
class Began(Event):
    """A process has taken the run, for the ``number``-th time; what follows comes from it."""

    number: int


@dataclass(frozen=True)
class Waiting(Event):
    """Another run holds the device; this one starts when that ends."""

    reason: str
    since: float = 0.0
    """``time.monotonic()``: the order of those who wait, even if the clock is set."""


@dataclass(frozen=True)
class Started(Event):
    """The loop is about to run from ``step`` (0, or where a checkpoint left off) to ``steps``."""

    step: int
    steps: int
    device: str
    precision: str
    parameters: int
    mode: str = "eager"
    """How a step runs: captured, compiled or eager."""
    reason: str = ""
    """Why not faster, where it could be."""


@dataclass(frozen=True)
class Stage(Event):
    """Work that is not a step: loading and caching before the first, measuring and samples between two."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Paused(Event):
    """Waits after ``step`` steps, its model in memory, until it is asked to go on."""

    step: int


@dataclass(frozen=True)
class Continued(Event):
    """Goes on after a pause."""

    step: int


@dataclass(frozen=True)
class Stepped(Event):
    """One optimiser step is done; ``step`` counts from 1."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float


@dataclass(frozen=True)
class Validated(Event):
    """Loss on held-out examples after ``step`` steps."""

    step: int
    loss: float


@dataclass(frozen=True)
class Measured(Event):
    """A figure of the state after the steps done by then, such as the share of exact answers."""

    name: str
    value: float


@dataclass(frozen=True)
class Sampled(Event):
    """A picture or an answer made after ``step`` steps; ``path`` is relative to the run directory."""

    step: int
    prompt: str
    path: str


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint that training can resume from; ``path`` is relative to the run directory."""

    step: int
    path: str


@dataclass(frozen=True)
class Exported(Event):
    """Adapter files for other programs; paths are relative to the run directory."""

    step: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Best(Event):
    """The adapter after ``step`` steps has the lowest validation loss so far; its files, relative to the run."""

    step: int
    loss: float
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Note(Event):
    """Something a person should know; training goes on."""

    message: str


@dataclass(frozen=True)
class Memory(Event):
    """Most GPU memory of a stage ("preparing", "steps" or "samples") so far, in bytes."""

    stage: str
    allocated: int
    """In tensors."""
    reserved: int
    """Taken from the GPU: the tensors, and room between them."""


@dataclass(frozen=True)
class Stopped(Event):
    """Ended on request after ``step`` steps, saved; can be resumed."""

    step: int


@dataclass(frozen=True)
class Finished(Event):
    """All steps done and files written."""

    step: int


@dataclass(frozen=True)
class Failed(Event):
    """Ended by an error; ``message`` says what and what to do."""

    message: str
    resumable: bool = True
    """Whether going on could end differently: what is repeated to the bit fails again."""
