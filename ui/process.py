"""What the app and a worker process say to each other, and the loop that the worker runs.

A worker holds a model, so that the web process needs no torch and survives the worker's death.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, ClassVar, Protocol

from lowrank_diffusion import devices
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.processes import without_hints


@dataclass(frozen=True)
class Waiting:
    """Another page's job is done first."""


@dataclass(frozen=True)
class Partial:
    """Base of what is said before the end of a job; each says all there is so far, so that one may be left out."""

    kept: ClassVar[bool] = False
    """Whether it must not be left out after all."""


@dataclass(frozen=True)
class Finished:
    """Base of the end of a job that went well."""


@dataclass(frozen=True)
class Failed:
    """The end of a job that did not; ``message`` is for the person."""

    message: str
    cancelled: bool = False


class Cancelled(Exception):
    """The person asked to stop."""


class Worker(Protocol):
    """What does the jobs, inside its own process."""

    name: ClassVar[str]
    """Of the process."""
    died: ClassVar[str]
    """What to say when the process was ended from outside."""
    out_of_memory: ClassVar[str]
    failed: ClassVar[str]
    """What did not work, as the beginning of a sentence."""

    def warm(self, wanted: Callable[[], bool]) -> None:
        """Called once, before the first job: prepare what can be prepared. ``wanted`` says whether a job is waiting."""
        ...

    def do(self, job: Any, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Finished:
        """One job. Raises Cancelled, UserError, or anything."""
        ...

    def forget(self) -> None:
        """Let go of everything loaded."""
        ...


def serve(connection: Connection, cancel: Event, kind: type[Worker]) -> None:
    """Do jobs until the other end is gone."""
    without_hints()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the app, which then closes the connection
    signal.signal(signal.SIGTERM, _leave)
    worker = kind()
    worker.warm(connection.poll)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = connection.recv()
            connection.send(_answer(worker, job, connection.send, cancel.is_set))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way out


def _leave(*_: object) -> None:
    """What it holds of the system is given back on the way out, and a second signal changes nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def _answer(
    worker: Worker, job: Any, send: Callable[[Partial], None], cancelled: Callable[[], bool]
) -> Finished | Failed:
    try:
        return worker.do(job, send, cancelled)
    except Cancelled:
        return Failed("Cancelled.", cancelled=True)
    except UserError as error:
        return Failed(str(error))
    except Exception as error:  # whatever it is: the worker goes on, and a bug does not look like a death by memory
        if devices.is_out_of_memory(error):
            worker.forget()
            return Failed(worker.out_of_memory)
        traceback.print_exc()
        words = f"{type(error).__name__}: {error}"
        return Failed(f"{worker.failed}: {words}. The terminal that the app runs in shows where.")
