"""Draw pictures with a base and adapters, keeping the pipeline loaded between requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from torch import nn

from .. import devices
from ..adapters import AdapterError as AdapterError
from ..factors import Factors
from . import foreign
from .model import Base, draw, native_size
from .replay import Replay
from .request import AdapterChoice, DrawCancelled, DrawRequest

BATCH = 4
"""At most so many pictures are drawn at once: more are hardly faster, and come later."""

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
        self._pipeline: StableDiffusionXLPipeline | None = None
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

    def prepare(self, request: DrawRequest) -> tuple[StableDiffusionXLPipeline, Replay]:
        """Load the base that a request needs, if it is not the one at hand. Raises ModelError, DeviceError."""
        device = devices.pick(request.device)
        wanted = Base.of(request.base, device, devices.dtype(request.precision, device))
        if self._pipeline is None or self._replay is None or wanted != self._base:
            self.release()
            self._base, self._pipeline = wanted, wanted.pipeline()
            if device.type == "cuda":  # convolutions run in this layout anyway, and else turn all they get around
                self._pipeline.unet.to(memory_format=torch.channels_last)
            self._replay = Replay(self._pipeline.unet)
        return self._pipeline, self._replay

    def _load(self, pipeline: StableDiffusionXLPipeline, choice: AdapterChoice) -> str:
        """Load an adapter file once; a file that has changed since is another one."""
        path = Path(choice.path).expanduser()
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

    def _at_once(self, pipeline: StableDiffusionXLPipeline, request: DrawRequest) -> int:
        """How many pictures of a request make a batch."""
        width, height = _size(pipeline, request)
        return max(1, min(self._most, BATCH_PIXELS // (width * height)))

    def _batch(
        self,
        pipeline: StableDiffusionXLPipeline,
        replay: Replay,
        request: DrawRequest,
        seeds: Sequence[int],
        steps: _Steps,
    ) -> list[Image.Image]:
        """Pictures of these seeds; where memory is short with fewer at once, and at last without graphs."""
        width, height = _size(pipeline, request)
        try:
            with replay.active():
                images = draw(
                    pipeline,
                    {"prompt": request.prompt, "negative_prompt": request.negative or None},
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
    """Counts denoising steps, tells of them, and looks whether to go on."""

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


def _size(pipeline: StableDiffusionXLPipeline, request: DrawRequest) -> tuple[int, int]:
    """(width, height) of a request's pictures, pixels."""
    native = native_size(pipeline.unet.config, pipeline.vae.config)
    return request.width or native, request.height or native


def load_adapter(pipeline: StableDiffusionXLPipeline, path: Path, name: str) -> None:
    """Put an adapter of any program into a pipeline, exactly and whole; after a failure all is as it was before.

    Raises:
        AdapterError: not an adapter of this base, or not whole.
    """
    models: dict[str, Any] = {model: getattr(pipeline, model) for model in foreign.MODELS}
    pairs = foreign.read(path, models)
    before = {model: _State.of(models[model]) for model in pairs}
    try:
        for model, own in pairs.items():
            _inject(models[model], own, name)
    except BaseException as error:
        for model, state in before.items():
            state.restore(models[model], name)
        if isinstance(error, RuntimeError | ValueError | KeyError | TypeError) and not devices.is_out_of_memory(error):
            raise AdapterError(f"{path.name}: cannot be applied to this base: {str(error)[:300]}") from None
        raise


@torch.no_grad()
def _inject(model: Any, pairs: dict[str, Factors], name: str) -> None:
    """Add PEFT layers of exactly these ranks, alpha = rank, and write the pairs into them."""
    ranks = {path: pair.a.shape[0] for path, pair in pairs.items()}
    patterns = {f"^{re.escape(path)}": rank for path, rank in ranks.items()}
    most = max(ranks.values())
    targets: Any = sorted(pairs)
    config = LoraConfig(
        r=most, lora_alpha=most, target_modules=targets, rank_pattern=patterns, alpha_pattern=dict(patterns)
    )
    inject_adapter_in_model(config, model, name)  # transformers' add_adapter refuses PEFT releases that work
    model._hf_peft_config_loaded = True
    for path, pair in pairs.items():
        layer = model.get_submodule(path)
        for own, value in ((layer.lora_A[name].weight, pair.a), (layer.lora_B[name].weight, pair.b)):
            own.copy_(value.reshape(own.shape))
    model.requires_grad_(False)


@dataclass(frozen=True)
class _State:
    """A model's layers and adapters before another adapter comes."""

    layers: dict[str, nn.Module]
    active: dict[str, tuple[Any, Any]]
    configs: dict[str, Any] | None
    loaded: bool

    @classmethod
    def of(cls, model: Any) -> _State:
        layers = {path: layer for path, layer in model.named_modules() if ".lora_" not in path}
        tuned = {path: layer for path, layer in layers.items() if isinstance(layer, BaseTunerLayer)}
        active = {path: (layer._active_adapter, layer._disable_adapters) for path, layer in tuned.items()}
        configs = getattr(model, "peft_config", None)
        return cls(layers, active, None if configs is None else dict(configs), model._hf_peft_config_loaded)

    def restore(self, model: Any, name: str) -> None:
        """Take ``name`` out again, however far it came."""
        for path, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer) and path not in self.active:
                parent, _, last = path.rpartition(".")
                model.get_submodule(parent)._modules[last] = self.layers[path]
        for path, (active, disabled) in self.active.items():
            layer: Any = model.get_submodule(path)
            layer.delete_adapter(name)
            layer._active_adapter, layer._disable_adapters = active, disabled
        if self.configs is None:
            model.__dict__.pop("peft_config", None)
        else:
            model.peft_config = self.configs
        model._hf_peft_config_loaded = self.loaded
