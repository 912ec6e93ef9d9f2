"""Put adapters that were read into a pipeline, all or nothing, and choose which act and how strongly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .. import devices
from ..errors import AdapterError
from ..factors import Factors
from . import families, foreign


def load_adapter(pipeline: Any, path: Path, name: str) -> None:
    """Put an adapter of any program into a pipeline, exactly and whole; after a failure all is as it was before.

    Args:
        pipeline: Its denoiser and text encoders are adapted.
        path: A .safetensors file, or the folder of PEFT or diffusers.
        name: By which :func:`select` knows it.

    Raises:
        AdapterError: not an adapter of this base, or not whole.
    """
    models = _models(pipeline)
    pairs = foreign.read(path, models, families.of_pipeline(pipeline))
    before = {model: _State.of(models[model]) for model in pairs}
    try:
        for model, own in pairs.items():
            _inject(models[model], own, name)
    except BaseException as error:
        for model, state in before.items():
            state.restore(models[model], name)
        if not isinstance(error, Exception) or devices.is_out_of_memory(error):
            raise
        raise AdapterError(f"{path.name}: cannot be applied to this base: {str(error)[:300]}") from error


def select(pipeline: Any, strengths: Mapping[str, float]) -> None:
    """Switch on the adapters of these names, each at its strength, and switch off all others."""
    for model in _models(pipeline).values():
        for layer in (layer for layer in model.modules() if isinstance(layer, LoraLayer)):
            _choose(layer, {adapter: value for adapter, value in strengths.items() if adapter in layer.lora_A})
        model.requires_grad_(False)  # which PEFT turns on for what acts


def unload_adapter(pipeline: Any, name: str) -> None:
    """Take an adapter that is switched off out of a pipeline, and its tensors out of memory."""
    for model in _models(pipeline).values():
        layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and name in layer.lora_A]
        for layer in layers:
            layer.delete_adapter(name)
        if layers:
            model.peft_config.pop(name, None)


def _models(pipeline: Any) -> dict[str, Any]:
    """What of a pipeline can be adapted, the denoiser first."""
    family = families.of_pipeline(pipeline)
    return {name: getattr(pipeline, name) for name in (family.denoiser, *family.encoders)}


def _choose(layer: Any, strengths: Mapping[str, float]) -> None:
    layer.enable_adapters(bool(strengths))
    if strengths:
        layer.set_adapter(list(strengths))
    for adapter, value in strengths.items():
        layer.set_scale(adapter, value)


@torch.no_grad()
def _inject(model: Any, pairs: dict[str, Factors], name: str) -> None:
    """Add PEFT layers of one rank, alpha = rank, and write the pairs into them, narrower ones beside zeros.

    One rank for all: PEFT compares every layer with the expression of every other rank, which takes a minute for a
    file whose layers all differ.
    """
    rank = max(pair.a.shape[0] for pair in pairs.values())
    targets: Any = sorted(pairs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # several are meant
        # transformers' add_adapter refuses PEFT releases that work
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model, name)
    model._hf_peft_config_loaded = True
    for path, pair in pairs.items():
        _fill(model.get_submodule(path), name, pair)
    model.requires_grad_(False)


def _fill(layer: Any, name: str, pair: Factors) -> None:
    a, b, own = layer.lora_A[name].weight, layer.lora_B[name].weight, pair.a.shape[0]
    a.zero_()
    b.zero_()
    a[:own].copy_(pair.a.reshape(own, *a.shape[1:]))
    b[:, :own].copy_(pair.b.reshape(b.shape[0], own, *b.shape[2:]))


@dataclass(frozen=True)
class _State:
    """A model's layers and adapters before another adapter comes."""

    layers: dict[str, nn.Module]
    active: dict[str, tuple[Any, Any]]
    learning: list[tuple[nn.Parameter, bool]]
    configs: dict[str, Any] | None
    loaded: bool

    @classmethod
    def of(cls, model: Any) -> _State:
        layers = {path: layer for path, layer in model.named_modules() if ".lora_" not in path}
        tuned = {path: layer for path, layer in layers.items() if isinstance(layer, BaseTunerLayer)}
        active = {path: (layer._active_adapter, layer._disable_adapters) for path, layer in tuned.items()}
        learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        configs = getattr(model, "peft_config", None)
        return cls(layers, active, learning, None if configs is None else dict(configs), model._hf_peft_config_loaded)

    def restore(self, model: Any, name: str) -> None:
        """Take ``name`` out again, however much of it was added."""
        for path, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer) and path not in self.active:
                parent, _, last = path.rpartition(".")
                model.get_submodule(parent)._modules[last] = self.layers[path]
        for path, (active, disabled) in self.active.items():
            layer: Any = model.get_submodule(path)
            layer._active_adapter, layer._disable_adapters = active, disabled
            layer.delete_adapter(name)
        for parameter, learns in self.learning:
            parameter.requires_grad_(learns)
        if self.configs is None:
            model.__dict__.pop("peft_config", None)
        else:
            model.peft_config = self.configs
        model._hf_peft_config_loaded = self.loaded
