"""The process that draws: it holds the pipeline."""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lowrank_diffusion.image import items
from lowrank_diffusion.image.items import Item
from lowrank_diffusion.image.request import DrawCancelled, DrawRequest, leave_out_quantisation
from lowrank_diffusion.processes import importing_libraries

from .process import Cancelled, Finished, Partial

if TYPE_CHECKING:
    from PIL import Image

    from lowrank_diffusion.image.generate import Studio


@dataclass(frozen=True)
class Job:
    """What to draw, and the folder the pictures go to; those that are there are left."""

    items: tuple[Item, ...]
    folder: Path


@dataclass(frozen=True)
class Progress(Partial):
    """Denoising steps done of all; total 0 while the model loads."""

    done: int
    total: int


@dataclass(frozen=True)
class Preview(Partial):
    """What the picture at work looks like: the address of a small JPEG that holds it itself."""

    kept: ClassVar[bool] = True  # they are few: their maker sees to it

    address: str


@dataclass(frozen=True)
class Picture(Partial):
    """A picture on disk, its settings in its metadata."""

    kept: ClassVar[bool] = True

    path: Path
    seed: int
    adapted: bool


@dataclass(frozen=True)
class Done(Finished):
    """All pictures that a job has drawn."""

    pictures: tuple[Picture, ...]
    seconds: float
    note: str = ""
    """What was done to what it was given, and why it could have gone faster; often empty."""


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
            with importing_libraries():
                from lowrank_diffusion.image.generate import Studio  # torch and diffusers: seconds

            self._studio = Studio()
        return self._studio

    def forget(self) -> None:
        """Let go of the pipeline."""
        self._studio = None

    def do(self, job: Job, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> Done:
        """Draw what is missing and write the pictures as they come. Raises Cancelled and UserError."""
        send(Progress(0, 0))
        studio = self._open()
        from lowrank_diffusion.image.generate import Hooks

        hooks = Hooks(
            lambda done, total: send(Progress(done, total)), cancelled, lambda image: send(Preview(address(image)))
        )
        began, pictures, notes = time.monotonic(), [], dict[str, None]()
        try:
            for _, file in items.draw(job.items, job.folder, studio, hooks):
                notes |= {studio.note: None}
                pictures.append(Picture(job.folder / file.name, file.seed, file.adapted))
                send(pictures[-1])
        except DrawCancelled:
            raise Cancelled from None
        return Done(tuple(pictures), time.monotonic() - began, " ".join(filter(None, notes)))


def address(image: Image.Image) -> str:
    """A picture as the address that a page shows it by, a JPEG of some kilobytes."""
    content = io.BytesIO()
    image.save(content, "jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
