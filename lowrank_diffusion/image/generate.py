"""Draw pictures with a base and adapters, keeping the pipeline loaded between requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .. import devices
from ..errors import AdapterError
from ..paths import expanded
from . import families, samplers, start
from .apply import load_adapter, select, unload_adapter
from .model import Base, denoiser, draw, latents_of, native_size, prompts
from .preview import Preview
from .replay import Replay
from .request import AdapterChoice, DrawCancelled, DrawRequest, drawn_steps

BATCH = 4
"""At most this many pictures are drawn at once: more are hardly faster, and come later."""

BATCH_PIXELS = BATCH * 1024**2
"""And so many pixels."""


@dataclass(frozen=True)
class Drawn:
    """A picture and how it came about."""

    image: Image.Image
    seed: int
    adapted: bool


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to hear while pictures are drawn."""

    progress: Callable[[int, int], None] | None = None
    """Called with the denoising steps done and their total."""
    cancelled: Callable[[], bool] | None = None
    """Asked after every step whether to give up."""
    preview: Callable[[Image.Image], None] | None = None
    """Given a small picture of what there is so far, every now and then."""


@dataclass(frozen=True)
class _Task:
    """A request with what is made once for all its pictures."""

    request: DrawRequest
    pipeline: Any
    """Which draws: the base's own, or one of its parts that starts from a picture."""
    options: dict[str, Any]
    start: start.Start | None
    size: tuple[int, int]

    def finished(self, images: list[Image.Image]) -> list[Image.Image]:
        """What is outside of a mask is the start's."""
        return [self.start.kept(image) for image in images] if self.start else images


class Studio:
    """A pipeline and its adapters, reloaded only where a request differs from the last."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._base: Base | None = None
        self._replay: Replay | None = None
        self._adapters: dict[tuple[str, int], str] = {}
        self._loaded = 0
        self._most = BATCH
        self._scheduler: Any = None
        self._said = ""

    @property
    def note(self) -> str:
        """What was done to the last request's start picture, and why drawing is slower than it can be; often empty."""
        slow = self._replay is not None and self._replay.device.type == "cuda" and self._replay.obstacle
        return " ".join(filter(None, (self._said, f"Drawn without CUDA graphs: {slow}." if slow else "")))

    @property
    def sampler(self) -> str:
        """The name of the sampler that drew last, as A1111 says it."""
        scheduler = self._pipeline.scheduler
        return samplers.title(type(scheduler).__name__, scheduler.config)

    def draw(
        self,
        request: DrawRequest,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        preview: Callable[[Image.Image], None] | None = None,
    ) -> Iterator[Drawn]:
        """Draw, some seeds at once; with ``request.compare`` each seed's base picture comes before its adapted one.

        Raises:
            ModelError, AdapterError, DeviceError: what cannot be used, and what to do.
            DrawCancelled: ``cancelled`` said so.
        """
        pipeline, replay = self.prepare(request)
        names = [self._load(pipeline, choice) for choice in request.adapters]
        variants = [False] * (request.compare or not names) + [True] * bool(names)
        task = self._task(request)
        hooks = Hooks(progress, cancelled, preview)
        steps = _Steps(request.count * len(variants) * drawn_steps(request), hooks, pipeline)
        seeds = range(request.seed, request.seed + request.count)
        while seeds:
            some = seeds[: self._at_once(task)]
            seeds = seeds[len(some) :]
            pictures = []
            for adapted in variants:
                self._select(pipeline, names if adapted else [], request.adapters)
                images = task.finished(self._batch(task, replay, some, steps))
                pictures.append([Drawn(*pair, adapted) for pair in zip(images, some, strict=True)])
            for versions in zip(*pictures, strict=True):
                yield from versions

    def _task(self, request: DrawRequest) -> _Task:
        """Raises UserError for a start picture or a mask that cannot be used."""
        pipeline, begin = self._pipeline, start.read(request)
        pipeline.scheduler = samplers.made(request.sampler, self._scheduler)
        self._said = begin.note if begin else ""
        options: dict[str, Any] = {"num_inference_steps": request.steps, "guidance_scale": request.guidance}
        if begin is None:
            width, height = _size(pipeline, request)
            return _Task(request, pipeline, options | {"width": width, "height": height}, None, (width, height))
        latents, cells, (width, height) = latents_of(pipeline, begin.picture), begin.cells(), begin.picture.size
        options |= {"strength": float(request.change), "image": latents}
        if cells is not None:
            options |= {"mask_image": cells, "masked_image_latents": latents, "width": width, "height": height}
        drawing = families.of_pipeline(pipeline).network().from_picture(pipeline, masked=cells is not None)
        drawing.set_progress_bar_config(disable=True)
        return _Task(request, drawing, options, begin, (width, height))

    def release(self) -> None:
        """Forget the pipeline and give its memory back."""
        base, self._pipeline, self._base, self._replay, self._adapters = self._base, None, None, None, {}
        self._most = BATCH
        if base is not None:
            devices.release(base.device)

    def prepare(self, request: DrawRequest) -> tuple[Any, Replay]:
        """Load the base that a request needs, if it is not the one at hand. Raises ModelError, DeviceError."""
        device = devices.pick(request.device)
        wanted = Base.of(request.base, device, devices.dtype(request.precision, device))
        if self._pipeline is None or self._replay is None or wanted != self._base:
            self.release()
            self._base, self._pipeline = wanted, wanted.pipeline()
            self._scheduler = self._pipeline.scheduler
            if device.type == "cuda":  # convolutions run in this layout anyway, and would else convert all they get
                denoiser(self._pipeline).to(memory_format=torch.channels_last)
            self._replay = Replay(denoiser(self._pipeline))
        return self._pipeline, self._replay

    def _load(self, pipeline: Any, choice: AdapterChoice) -> str:
        """Load an adapter file once; a file that has changed since is another one."""
        path = expanded(choice.path)
        try:
            key = (str(path.resolve()), path.stat().st_mtime_ns)
        except OSError as error:
            raise AdapterError(f"{path}: cannot be read: {error.strerror}.") from None
        if key not in self._adapters:
            name = f"adapter_{self._loaded}"  # only those that were loaded count
            load_adapter(pipeline, path, name)
            self._adapters[key], self._loaded = name, self._loaded + 1
        return self._adapters[key]

    def unload_all_but(self, choices: Sequence[AdapterChoice]) -> None:
        """Give back the memory of the adapters that are none of these, which drew last; with none of them, nothing."""
        kept = {str(expanded(choice.path).resolve()) for choice in choices}
        gone = {key: name for key, name in self._adapters.items() if kept and key[0] not in kept}
        for key, name in gone.items():
            unload_adapter(self._pipeline, name)
            del self._adapters[key]

    def _select(self, pipeline: Any, names: list[str], choices: tuple[AdapterChoice, ...]) -> None:
        if self._adapters:
            strengths: dict[str, float] = {}
            for name, choice in zip(names, choices, strict=False):  # no names: the base alone
                strengths[name] = strengths.get(name, 0.0) + choice.strength  # one file chosen twice acts twice
            select(pipeline, strengths)

    def _at_once(self, task: _Task) -> int:
        """How many pictures of a request make a batch."""
        width, height = task.size
        return max(1, min(self._most, BATCH_PIXELS // (width * height)))

    def _batch(self, task: _Task, replay: Replay, seeds: Sequence[int], steps: _Steps) -> list[Image.Image]:
        """Pictures of these seeds; if memory is short, fewer at once, and in the end without graphs."""
        request = task.request
        try:
            with replay.active():
                images = draw(
                    task.pipeline,
                    prompts(self._pipeline, request.prompt, request.negative),
                    seeds,
                    callback_on_step_end=steps.batch(len(seeds)),
                    **task.options,
                )
            steps.finished += drawn_steps(request) * len(seeds)
            return images
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            if len(seeds) > 1:
                self._most = len(seeds) // 2
            elif not replay.release("memory is short"):
                raise
        # Not inside the handler: the error holds on to all that was computed before it.
        devices.release(replay.device)
        parts = [seeds[i : i + self._most] for i in range(0, len(seeds), self._most)]
        return [image for part in parts for image in self._batch(task, replay, part, steps)]


class _Steps:
    """Counts denoising steps, reports them, and checks whether to go on."""

    def __init__(self, total: int, hooks: Hooks, pipeline: Any) -> None:
        self.finished = 0
        """Steps of pictures that are done."""
        self._total, self._hooks = total, hooks
        self._preview = Preview(pipeline, hooks.preview) if hooks.preview else None

    def batch(self, count: int) -> Callable[..., dict]:
        """What the pipeline is to call after every step of ``count`` pictures."""
        before: torch.cuda.Event | None = None

        def step_end(_pipe: Any, step: int, _time: Any, values: dict) -> dict:
            nonlocal before
            if values["latents"].is_cuda:
                # Launching a graph takes no time: without waiting, all steps would be launched before the first is
                # done, and said to be. To wait for the step before this one leaves the device busy.
                if before is not None:
                    before.synchronize()
                before = torch.cuda.Event()
                before.record()
            if self._hooks.cancelled and self._hooks.cancelled():
                raise DrawCancelled
            if self._hooks.progress:
                self._hooks.progress(self.finished + (step + 1) * count, self._total)
            if self._preview:
                self._preview.step(values["latents"])
            return values

        return step_end


def _size(pipeline: Any, request: DrawRequest) -> tuple[int, int]:
    """(width, height) of a request's pictures, pixels."""
    native = native_size(denoiser(pipeline).config, pipeline.vae.config)
    return request.width or native, request.height or native
