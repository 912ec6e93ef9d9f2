"""The process that draws: it holds the pipeline, so that the web process needs no torch and survives its death."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank_diffusion import devices
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.request import DrawCancelled, DrawRequest, leave_out_quantisation

if TYPE_CHECKING:
    from lowrank_diffusion.image.generate import Drawn, Studio


@dataclass(frozen=True)
class Job:
    """One request, and the folder its pictures go to."""

    request: DrawRequest
    folder: Path


@dataclass(frozen=True)
class Waiting:
    """Another page's pictures are being drawn first."""


@dataclass(frozen=True)
class Progress:
    """Denoising steps done of all; total 0 while the model loads."""

    done: int
    total: int


@dataclass(frozen=True)
class Picture:
    """A picture on disk, its settings in its metadata."""

    path: Path
    seed: int
    adapted: bool


@dataclass(frozen=True)
class Done:
    """The end of a job that went well."""

    pictures: tuple[Picture, ...]
    seconds: float
    note: str = ""
    """Why it could have gone faster; empty if it could not."""


@dataclass(frozen=True)
class Failed:
    """The end of a job that did not; ``message`` is for the person."""

    message: str
    cancelled: bool = False


Message = Progress | Picture | Done | Failed


def settings(request: DrawRequest, seed: int, adapted: bool) -> dict[str, Any]:
    """What one picture was drawn from: every field of the request, with its own seed and what was in effect."""
    values = asdict(request) | {"seed": seed, "count": 1, "adapted": adapted, "base": request.base.model_dump()}
    values["adapters"] = [asdict(choice) for choice in request.adapters] if adapted else []
    values.pop("compare")
    return values


def serve(connection: Connection, cancel: Event) -> None:
    """Draw jobs until the other end is gone."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their hints are about code, not for the person here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the app, which then closes the connection
    leave_out_quantisation()
    studio: list[Studio] = []
    with contextlib.suppress(Exception):  # a job meets the same again, and says so
        _open(studio)
        if not connection.poll():
            studio[0].prepare(DrawRequest(prompt=""))  # the embedded base, most likely wanted, and small
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job: Job = connection.recv()
            connection.send(_answer(job, studio, connection.send, cancel.is_set))


def _open(studio: list[Studio]) -> Studio:
    """The one studio; making it imports torch and diffusers."""
    if not studio:
        from lowrank_diffusion.image.generate import Studio

        studio.append(Studio())
    return studio[0]


def _answer(
    job: Job, studio: list[Studio], send: Callable[[Message], None], cancelled: Callable[[], bool]
) -> Done | Failed:
    try:
        drawing = _open(studio)
        began = time.monotonic()
        pictures = []
        for picture in drawing.draw(job.request, lambda done, total: send(Progress(done, total)), cancelled):
            pictures.append(_save(picture, job))
            send(pictures[-1])
        return Done(tuple(pictures), time.monotonic() - began, drawing.note)
    except DrawCancelled:
        return Failed("Cancelled.", cancelled=True)
    except Exception as error:  # whatever it is: the worker goes on, and a bug does not look like a death by memory
        if devices.is_out_of_memory(error):
            studio.clear()
        return Failed(_words(error, job))


def _words(error: Exception, job: Job) -> str:
    """What to tell the person."""
    if isinstance(error, UserError):
        return str(error)
    if devices.is_out_of_memory(error):
        return "Out of memory. Take a smaller size or fewer adapters, or stop what else is running."
    if isinstance(error, OSError):
        return f"{job.folder}: the pictures cannot be written: {error.strerror}. Free some space."
    traceback.print_exc()
    return f"Drawing failed: {type(error).__name__}: {error}. The terminal that the app runs in shows where."


def _save(picture: Drawn, job: Job) -> Picture:
    """Write a PNG whose text metadata holds its exact settings."""
    from PIL.PngImagePlugin import PngInfo

    facts = json.dumps(settings(job.request, picture.seed, picture.adapted), ensure_ascii=False)
    information = PngInfo()
    information.add_itxt("lowrank_diffusion", facts)
    job.folder.mkdir(parents=True, exist_ok=True)
    kind = "adapted" if picture.adapted else "base"
    path = job.folder / f"{picture.seed}-{kind}.png"
    picture.image.save(path, pnginfo=information)
    return Picture(path, picture.seed, picture.adapted)
