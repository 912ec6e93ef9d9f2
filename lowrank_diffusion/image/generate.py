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
from .apply import load_adapter, select
from .model import Base, denoiser, draw, native_size, prompts
from .replay import Replay
from .request import AdapterChoice, DrawCancelled, DrawRequest

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


class Studio:
    """A pipeline and its adapters, reloaded only where a request differs from the last."""

    def __init__(self) -> None:
        self._pipeline: Any = None
        self._base: Base | None = None
        self._replay: Replay | None = None
        self._adapters: dict[tuple[str, int], str] = {}
        self._most = BATCH

    @property
    def note(self) -> str:
        """Why drawing on a GPU is slower than it can be; empty if it is not."""
        if self._replay is None or self._replay.device.type != "cuda" or not self._replay.obstacle:
            return ""
        return f"Drawn without CUDA graphs: {self._replay.obstacle}."

    def draw(
        self,
        request: DrawRequest,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Drawn]:
        """Draw, some seeds at once; with ``request.compare`` each seed's base picture comes before its adapted one.

        Raises:
            ModelError, AdapterError, DeviceError: what cannot be used, and what to do.
            DrawCancelled: ``cancelled`` said so.
        """
        pipeline, replay = self.prepare(request)
        names = [self._load(pipeline, choice) for choice in request.adapters]
        variants = [False] * (request.compare or not names) + [True] * bool(names)
        total = request.count * len(variants) * request.steps
        steps = _Steps(total, progress, cancelled)
        seeds = range(request.seed, request.seed + request.count)
        while seeds:
            some = seeds[: self._at_once(pipeline, request)]
            seeds = seeds[len(some) :]
            pictures = []
            for adapted in variants:
                self._select(pipeline, names if adapted else [], request.adapters)
                images = self._batch(pipeline, replay, request, some, steps)
                pictures.append([Drawn(*pair, adapted) for pair in zip(images, some, strict=True)])
            for versions in zip(*pictures, strict=True):
                yield from versions

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
            name = f"adapter_{len(self._adapters)}"  # only those that were loaded count
            load_adapter(pipeline, path, name)
            self._adapters[key] = name
        return self._adapters[key]

    def _select(self, pipeline: Any, names: list[str], choices: tuple[AdapterChoice, ...]) -> None:
        if self._adapters:
            strengths: dict[str, float] = {}
            for name, choice in zip(names, choices, strict=False):  # no names: the base alone
                strengths[name] = strengths.get(name, 0.0) + choice.strength  # one file chosen twice acts twice
            select(pipeline, strengths)

    def _at_once(self, pipeline: Any, request: DrawRequest) -> int:
        """How many pictures of a request make a batch."""
        width, height = _size(pipeline, request)
        return max(1, min(self._most, BATCH_PIXELS // (width * height)))

    def _batch(
        self,
        pipeline: Any,
        replay: Replay,
        request: DrawRequest,
        seeds: Sequence[int],
        steps: _Steps,
    ) -> list[Image.Image]:
        """Pictures of these seeds; if memory is short, fewer at once, and in the end without graphs."""
        width, height = _size(pipeline, request)
        try:
            with replay.active():
                images = draw(
                    pipeline,
                    prompts(pipeline, request.prompt, request.negative),
                    seeds,
                    num_inference_steps=request.steps,
                    guidance_scale=request.guidance,
                    width=width,
                    height=height,
                    callback_on_step_end=steps.batch(len(seeds)),
                )
            steps.finished += request.steps * len(seeds)
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
        return [image for part in parts for image in self._batch(pipeline, replay, request, part, steps)]


class _Steps:
    """Counts denoising steps, reports them, and checks whether to go on."""

    def __init__(
        self, total: int, progress: Callable[[int, int], None] | None, cancelled: Callable[[], bool] | None
    ) -> None:
        self.finished = 0
        """Steps of pictures that are done."""
        self._total, self._progress, self._cancelled = total, progress, cancelled

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
            if self._cancelled and self._cancelled():
                raise DrawCancelled
            if self._progress:
                self._progress(self.finished + (step + 1) * count, self._total)
            return values

        return step_end


def _size(pipeline: Any, request: DrawRequest) -> tuple[int, int]:
    """(width, height) of a request's pictures, pixels."""
    native = native_size(denoiser(pipeline).config, pipeline.vae.config)
    return request.width or native, request.height or native
