"""The process that captions pictures: it holds the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .process import Cancelled, Finished, Partial

if TYPE_CHECKING:
    from lowrank_diffusion.image.captioner import Captioner


@dataclass(frozen=True)
class CaptionJob:
    """Caption these pictures, in their order."""

    model: str
    """Folder or hub id."""
    paths: tuple[Path, ...]
    prompt: str = ""
    """See :meth:`.captioner.Captioner.caption`."""


@dataclass(frozen=True)
class Captioned(Partial):
    """A caption."""

    kept: ClassVar[bool] = True

    path: Path
    text: str


@dataclass(frozen=True)
class AllCaptioned(Finished):
    """Every picture of the job has its caption."""


class CaptionWorker:
    """Does jobs with one model, which stays loaded."""

    name: ClassVar[str] = "caption"
    died: ClassVar[str] = (
        "The process that captions was ended from outside, most likely because memory ran out. "
        "Take a smaller model, or stop a running training, and try again."
    )
    out_of_memory: ClassVar[str] = "Out of memory. Take a smaller model, or stop what else is running."
    failed: ClassVar[str] = "Captioning failed"

    def __init__(self) -> None:
        self._loaded: tuple[str, Captioner] | None = None

    def warm(self, wanted: Callable[[], bool]) -> None:
        """Nothing: which model is wanted is not known."""

    def forget(self) -> None:
        """Let go of the model."""
        if self._loaded is not None:
            self._loaded[1].release()
        self._loaded = None

    def do(self, job: CaptionJob, send: Callable[[Partial], None], cancelled: Callable[[], bool]) -> AllCaptioned:
        """One job. Raises Cancelled, and UserError for a model or a picture that cannot be used."""
        captioner: Any = self._captioner(job.model)
        done = 0
        for path, text in captioner.caption(job.paths, job.prompt, cancelled=cancelled):
            send(Captioned(path, text))
            done += 1
        if done < len(job.paths):
            raise Cancelled
        return AllCaptioned()

    def _captioner(self, model: str) -> Captioner:
        if self._loaded is None or self._loaded[0] != model:
            from lowrank_diffusion import devices
            from lowrank_diffusion.image.captioner import Captioner  # torch and transformers: seconds

            self.forget()
            device = devices.pick("auto")
            self._loaded = (model, Captioner(model, device, devices.dtype("auto", device)))
        return self._loaded[1]
