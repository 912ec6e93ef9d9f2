"""Draw pictures with a base and adapters, keeping the pipeline loaded between requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors import SafetensorError

from .. import devices
from ..adapters import AdapterError as AdapterError
from .model import Base, draw, native_size
from .request import AdapterChoice, DrawCancelled, DrawRequest


@dataclass(frozen=True)
class Drawn:
    """A picture and how it came about."""

    image: Image.Image
    seed: int
    adapted: bool


class Studio:
    """A pipeline and its adapters, reloaded only where a request differs from the last."""

    def __init__(self) -> None:
        self._pipeline: StableDiffusionXLPipeline | None = None
        self._base: Base | None = None
        self._adapters: dict[tuple[str, int], str] = {}

    def draw(
        self,
        request: DrawRequest,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Drawn]:
        """Draw; with ``request.compare`` each seed's base picture comes before its adapted one.

        Raises:
            ModelError, AdapterError, DeviceError: what cannot be used, and what to do.
            DrawCancelled: ``cancelled`` said so.
        """
        pipeline = self._prepare(request)
        names = [self._load(pipeline, choice) for choice in request.adapters]
        variants = [False] * (request.compare or not names) + [True] * bool(names)
        total = request.count * len(variants) * request.steps
        done = 0

        def step_end(_pipe: Any, _step: int, _time: Any, values: dict) -> dict:
            nonlocal done
            done += 1
            if cancelled and cancelled():
                raise DrawCancelled
            if progress:
                progress(min(done, total), total)
            return values

        pictures = []
        for seed in range(request.seed, request.seed + request.count):
            for adapted in variants:
                self._select(pipeline, names if adapted else [], request.adapters)
                pictures.append(Drawn(self._one(pipeline, request, seed, step_end), seed, adapted))
        return pictures

    def release(self) -> None:
        """Forget the pipeline and give its memory back."""
        base, self._pipeline, self._base, self._adapters = self._base, None, None, {}
        if base is not None:
            devices.release(base.device)

    def _prepare(self, request: DrawRequest) -> StableDiffusionXLPipeline:
        device = devices.pick(request.device)
        wanted = Base.of(request.base, device, devices.dtype(request.precision, device))
        if self._pipeline is None or wanted != self._base:
            self.release()
            self._base, self._pipeline = wanted, wanted.pipeline()
        return self._pipeline

    def _load(self, pipeline: StableDiffusionXLPipeline, choice: AdapterChoice) -> str:
        """Load an adapter file once; a file that has changed since is another one."""
        path = Path(choice.path)
        try:
            key = (str(path.resolve()), path.stat().st_mtime_ns)
        except OSError as error:
            raise AdapterError(f"{path}: cannot be read: {error.strerror}.") from None
        if key not in self._adapters:
            name = f"adapter_{len(self._adapters)}"
            load_adapter(pipeline, path, name)
            self._adapters[key] = name
        return self._adapters[key]

    def _select(
        self, pipeline: StableDiffusionXLPipeline, names: list[str], choices: tuple[AdapterChoice, ...]
    ) -> None:
        if names:
            pipeline.enable_lora()
            pipeline.set_adapters(names, [choice.strength for choice in choices])
        elif self._adapters:
            pipeline.disable_lora()

    def _one(
        self, pipeline: StableDiffusionXLPipeline, request: DrawRequest, seed: int, step_end: Callable[..., dict]
    ) -> Image.Image:
        native = native_size(pipeline.unet.config, pipeline.vae.config)
        return draw(
            pipeline,
            {"prompt": request.prompt, "negative_prompt": request.negative or None},
            seed,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            width=request.width or native,
            height=request.height or native,
            callback_on_step_end=step_end,
        )


def load_adapter(pipeline: StableDiffusionXLPipeline, path: Path, name: str) -> None:
    """Load a diffusers or kohya safetensors file and make sure that it did something.

    diffusers only logs a line when no key of a file fits, so the adapted layers are counted.

    Raises:
        AdapterError: not safetensors, not an adapter of this base, or nothing in it fits.
    """
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path}: only .safetensors adapters are loaded; other formats can run code of strangers.")
    try:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True)
    except (SafetensorError, ValueError, RuntimeError, KeyError, IndexError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__  # the sizes are in later lines
        raise AdapterError(f"{path.name}: is not a LoRA file for this base: {reason}") from None
    if not any(name in names for names in pipeline.get_list_adapters().values()):
        raise AdapterError(f"{path.name}: holds no layer of this base. Was it trained on another model?")
