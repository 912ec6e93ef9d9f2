"""The one process that holds a model, for all pages: started when needed, one job at a time, gone when idle.

A crash or an out-of-memory kill ends that process only: the job gets a clear message, the next one a new process.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from lowrank_diffusion.errors import UserError

from .process import Failed, Finished, Partial, Waiting, Worker, serve


class EngineError(UserError):
    """A job did not come to its end; the message says why and what to do."""


class CancelledError(EngineError):
    """The person asked to stop."""


class Engine:
    """Works for any number of pages. ``job`` names who asked, so that only they cancel it."""

    def __init__(self, worker: type[Worker], idle_seconds: float = 300.0) -> None:
        self._kind = worker
        self._idle_seconds = idle_seconds
        self._context = multiprocessing.get_context("spawn")  # the web process has threads: forking it is not safe
        self._turn = threading.Lock()
        self._process: Any = None
        self._connection: Connection | None = None
        self._cancel = self._context.Event()
        self._job = ""
        self._given_up: set[str] = set()
        self._release_next = False
        self._idle: threading.Timer | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process id while there is one."""
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def warm(self) -> None:
        """Start the worker before it is needed, so that what it imports does not delay its first job."""
        if self.pid is None and self._turn.acquire(blocking=False):
            try:
                self._worker()
            finally:
                self._finish()

    def run(self, job: str, work: Any) -> Iterator[Waiting | Partial | Finished]:
        """What the worker says of ``work``, and at the end Finished. Closing the iterator before that cancels the job.

        Raises:
            CancelledError: if :meth:`cancel` was called for this job.
            EngineError: with a message for the person.
        """
        self._given_up.discard(job)
        while not self._turn.acquire(timeout=0.3):
            if job in self._given_up:
                raise CancelledError("Cancelled before it began.")
            yield Waiting()
        ended = False
        try:
            self._job = job
            self._cancel.clear()
            connection = self._worker()
            connection.send(work)
            for message in self._messages(connection):
                ended = isinstance(message, Finished | Failed)
                if isinstance(message, Failed):
                    raise (CancelledError if message.cancelled else EngineError)(message.message)
                yield message
        except (EOFError, OSError):
            ended = True
            self._end()
            raise EngineError(self._kind.died) from None
        finally:
            if ended:
                self._finish()
            else:  # the page is gone: let the worker notice, without holding up whoever closed this
                self._cancel.set()
                threading.Thread(target=self._drain, daemon=True).start()

    def cancel(self, job: str) -> bool:
        """Stop a job at its next step; False if it is not at work."""
        if self._job == job:
            self._cancel.set()
            return True
        self._given_up.add(job)
        return False

    def release(self) -> None:
        """End the worker and give its memory back; a job at work is finished first."""
        self._release_next = True  # before the try: whoever holds the turn looks at it after giving the turn back
        if self._turn.acquire(blocking=False):
            self._release_next = False
            try:
                self._end()
            finally:
                self._turn.release()

    def close(self) -> None:
        """End the worker now."""
        self._end()

    def _worker(self) -> Connection:
        if self._idle is not None:
            self._idle.cancel()
        if self.pid is None or self._connection is None:
            self._end()
            here, there = self._context.Pipe()
            arguments = (there, self._cancel, self._kind)
            self._process = self._context.Process(target=serve, args=arguments, daemon=True, name=self._kind.name)
            self._process.start()
            there.close()  # so that its death is an end of file here
            self._connection = here
        return self._connection

    @staticmethod
    def _messages(connection: Connection) -> Iterator[Partial | Finished | Failed]:
        """Messages to the end of the job, those that the next replaces at most some times a second. Raises EOFError."""
        shown = 0.0
        while True:
            message = connection.recv()
            if isinstance(message, Finished | Failed):
                yield message
                return
            if message.kept or time.monotonic() - shown > 0.15:
                shown = shown if message.kept else time.monotonic()
                yield message

    def _drain(self) -> None:
        try:
            connection = self._connection
            while connection is not None and not isinstance(connection.recv(), Finished | Failed):
                pass
        except (EOFError, OSError):
            self._end()
        self._finish()

    def _finish(self) -> None:
        """After a job: let the next one have its turn, and end the worker if that is wanted, now or when idle."""
        self._job = ""
        if self.pid is not None:
            self._idle = threading.Timer(self._idle_seconds, self.release)
            self._idle.daemon = True
            self._idle.start()
        self._turn.release()
        if self._release_next:
            self.release()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.terminate()
            self._process.join(timeout=5)
            if self._process.is_alive():
                self._process.kill()
            self._process = None
