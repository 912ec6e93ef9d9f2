"""The process that draws: it holds the pipeline."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import parameters
from lowrank_diffusion.image.request import DrawCancelled, DrawRequest, leave_out_quantisation

from .process import Cancelled, Finished, Partial

if TYPE_CHECKING:
    from lowrank_diffusion.image.generate import Drawn, Studio


@dataclass(frozen=True)
class Job:
    """One request, and the folder its pictures go to."""

    request: DrawRequest
    folder: Path


@dataclass(frozen=True)
class Progress(Partial):
    """Denoising steps done of all; total 0 while the model loads."""

    done: int
    total: int


@dataclass(frozen=True)
class Picture(Partial):
    """A picture on disk, its settings in its metadata."""

    kept: ClassVar[bool] = True

    path: Path
    seed: int
    adapted: bool


@dataclass(frozen=True)
class Done(Finished):
    """All pictures of a job."""

    pictures: tuple[Picture, ...]
    seconds: float
    note: str = ""
    """Why it could have gone faster; empty if it could not."""


class ImageWorker:
    """Draws jobs with one studio, which keeps what it loaded."""

    name: ClassVar[str] = "draw"
    died: ClassVar[str] = (
        "The drawing process was ended from outside, most likely because memory ran out. "
        "Take a smaller size or fewer pictures, or stop a running training, and try again."
    )
    out_of_memory: ClassVar[str] = "Out of memory. Take a smaller size or fewer adapters, or stop what else is running."
    failed: ClassVar[str] = "Drawing failed"

    def __init__(self) -> None:
        self._studio: Studio | None = None

    def warm(self, wanted: Callable[[], bool]) -> None:
        """Import, and unless a job is waiting load the embedded base: most likely wanted, and small."""
        leave_out_quantisation()
        with contextlib.suppress(Exception):  # a job meets the same again, and says so
            studio = self._open()
            if not wanted():
                studio.prepare(DrawRequest(prompt=""))

    def _open(self) -> Studio:
        if self._studio is None:
            from lowrank_diffusion.image.generate import Studio  # torch and diffusers: seconds

            self._studio = Studio()
        return self._studio

    def forget(self) -> None:
        """Let go of the pipeline."""
        self._studio = None

    def do(self, job: Job, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Done:
        """Draw one request and write its pictures as they come. Raises Cancelled and UserError."""
        send(Progress(0, 0))
        studio = self._open()
        began = time.monotonic()
        pictures = []
        try:
            for drawn in studio.draw(job.request, lambda done, total: send(Progress(done, total)), cancelled):
                pictures.append(_save(drawn, job, studio.sampler))
                send(pictures[-1])
        except DrawCancelled:
            raise Cancelled from None
        return Done(tuple(pictures), time.monotonic() - began, studio.note)


def _save(picture: Drawn, job: Job, sampler: str) -> Picture:
    """Write a PNG whose text metadata holds its exact settings. Raises UserError."""
    kind = "adapted" if picture.adapted else "base"
    path = job.folder / f"{picture.seed}-{kind}.png"
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        parameters.save(picture.image, path, job.request, picture.seed, picture.adapted, sampler)
    except OSError as error:
        message = f"{job.folder}: the pictures cannot be written: {error.strerror}. Free some space."
        raise UserError(message) from None
    return Picture(path, picture.seed, picture.adapted)
