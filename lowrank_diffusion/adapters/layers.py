"""Attach adapters of any kind to a model through PEFT, find them again, and keep them in PEFT's folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .. import seeds, tensor_files
from ..config import AdapterConfig, ConfigError
from ..errors import AdapterError as AdapterError
from ..factors import Factors
from ..files import MB, Unreadable, read_object
from ..loading import reading
from ..quantize import QuantizedLinear
from ..targets import ALL, endless, matching
from .kind import Kind
from .kinds import KINDS
from .settings import size_problems, unmatched

NAME = "default"


@dataclass(frozen=True)
class AdaptedLayer:
    """A linear layer that carries an adapter."""

    path: str
    module: Any
    kind: Kind

    @property
    def base(self) -> nn.Linear:
        """The frozen layer underneath."""
        return self.module.get_base_layer()

    def base_weight(self) -> Tensor:
        """The frozen weight (m, n); a quantised one is dequantised."""
        base = self.base
        return base.dequantized() if isinstance(base, QuantizedLinear) else base.weight

    def factors(self, name: str = NAME) -> Factors:
        """An adapter as one plain pair with its scaling inside B; exact for every kind."""
        return self.kind.factors(self.module, name)

    def in_effect(self) -> list[str]:
        """Names of this layer's adapters that are switched on."""
        layer: Any = self.module
        held = getattr(layer, self.kind.parts[0])
        return [] if layer.disable_adapters else [name for name in layer.active_adapters if name in held]

    def obstacle_to_factors(self) -> str:
        """Why the adapters in effect are more than :meth:`factors` can say; empty if they are not."""
        if not isinstance(self.base, nn.Linear | nn.Conv2d) or not self.base.weight.is_floating_point():
            return f"{self.path} is a {type(self.base).__name__}"
        every = (self.kind.obstacle_to_factors(self.module, name, self.path) for name in self.in_effect())
        return next(filter(None, every), "")


def matching_layers(model: nn.Module, targets: str | tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers that ``adapter.targets`` means, by path. Raises ConfigError for a target without a layer."""
    linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if targets == ALL:
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
        linears = {path: module for path, module in linears.items() if module is not head}
    chosen, missing = matching(linears, targets)
    if missing:
        raise ConfigError(unmatched(linears, missing))
    return {path: module for path, module in linears.items() if path in chosen}


def check_sizes(layers: dict[str, nn.Linear], cfg: AdapterConfig) -> None:
    """What the kind asks of the sides of every layer. Raises ConfigError naming one and the allowed values."""
    sides = {path: (layer.out_features, layer.in_features) for path, layer in layers.items()}
    if problems := size_problems(cfg, sides):
        raise ConfigError(problems)


def attach(model: nn.Module, cfg: AdapterConfig, seed: int, name: str = "") -> list[AdaptedLayer]:
    """Freeze ``model`` and give its target layers float32 adapters that start as the identity.

    The kind says what begins at zero; everything else is drawn from (seed, layer path), Kaiming-uniform as in PEFT.
    Float64 models (tests) get float64 adapters. Models that are trained together differ in ``name``, so that they draw
    differently.

    Raises:
        ConfigError: where a target matches nothing, or a layer's sides do not suit the kind.
    """
    layers = matching_layers(model, cfg.targets)
    check_sizes(layers, cfg)
    model.requires_grad_(False)
    peft.inject_adapter_in_model(cfg.method.config(cfg, list(layers)), model, adapter_name=NAME)
    adapted = adapted_layers(model)
    if {layer.path for layer in adapted} != set(layers):
        raise RuntimeError(f"PEFT adapted {len(adapted)} layers where {len(layers)} were asked for")
    for path, parameter in trainable(model).items():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        (part,) = set(path.split(".")) & set(cfg.method.parts)  # whatever else is trained would be lost
        if part in cfg.method.zeros:
            parameter.data.zero_()
        else:
            _draw(f"{name}{path}", parameter, seed)
    for layer in adapted:
        layer.kind.adopt(layer.module, NAME)
    return adapted


def _draw(name: str, parameter: nn.Parameter, seed: int) -> None:
    fan_in = parameter.shape[1]  # (r, n) of a plain A, (k, n/k, r) of GraLoRA's: the width of what is read
    bound = 1 / math.sqrt(fan_in)
    draw = torch.rand(parameter.shape, generator=seeds.generator(seed, 0, f"init {name}"), dtype=torch.float32)
    parameter.data.copy_((2 * draw - 1) * bound)


def adapted_layers(model: nn.Module) -> list[AdaptedLayer]:
    """Every layer of ``model`` that carries an adapter, in the order of its modules."""
    kinds = {kind.layer_class(): kind for kind in KINDS.values()}
    return [
        AdaptedLayer(path, module, kinds[own])
        for path, module in model.named_modules()
        if (own := next((cls for cls in kinds if isinstance(module, cls)), None))
    ]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by name, in a stable order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load(model: Any, folder: Path) -> Any:
    """The model with the adapter of a PEFT folder, for answers only. Raises AdapterError."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # PEFT would take a pickle for the second
        if not (folder / name).is_file():
            raise AdapterError(f"{folder}: has no {name}. Give the folder of a PEFT adapter.")
    try:
        _refuse_endless(folder, read_object(folder / "adapter_config.json", MB))
        tensor_files.read(folder / "adapter_model.safetensors")
    except (Unreadable, tensor_files.HeaderError) as error:
        raise AdapterError(f"{folder}: {error}") from None
    advice = "Choose the base it is for."
    with reading(lambda reason: AdapterError(f"{folder}: cannot be used with this base ({reason}). {advice}")):
        adapted = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    for layer in adapted_layers(adapted):
        layer.kind.adopt(layer.module, NAME)
    return adapted


def _refuse_endless(folder: Path, said: dict[str, Any]) -> None:
    """PEFT compares every layer with the expressions of a config, which is a stranger's. Raises AdapterError."""
    for field in ("target_modules", "exclude_modules", "alpha_pattern", "rank_pattern"):
        value = said.get(field)
        given = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        for expression in given:
            if endless(expression):
                rule = f"its {field} has the expression {expression[:60]!r}, which could take forever"
                raise AdapterError(f"{folder}: {rule}. Write the names of its layers there.")


def unload(model: Any) -> Any:
    """The model as it was before :func:`load`."""
    return model.unload()


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """The base alone, inside the context."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def native(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The adapter as PEFT stores it: float32 tensors on the CPU by key, and the fields of adapter_config.json.

    Only the fields that say the kind's settings are given: an older PEFT may not know the others.
    """
    state = peft.get_peft_model_state_dict(model, adapter_name=NAME)
    tensors = {f"base_model.model.{k}": v.detach().to("cpu", torch.float32).contiguous() for k, v in state.items()}
    config: Any = model.peft_config[NAME]  # type: ignore[index]
    written = adapted_layers(model)[0].kind.kept
    fields = {name: value for name, value in config.to_dict().items() if name in written}
    fields |= {"target_modules": sorted(config.target_modules), "inference_mode": True}
    return tensors, {name: getattr(value, "value", value) for name, value in fields.items()}
