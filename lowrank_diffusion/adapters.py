"""Attach LoRA and GraLoRA to a model through PEFT. The only module that knows PEFT's spellings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.gralora import GraloraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from . import seeds, tensor_files
from .config import AdapterConfig, ConfigError, Problem
from .errors import AdapterError as AdapterError
from .factors import Factors, gralora_to_lora, stack
from .files import MB, Unreadable, read_object
from .loading import reading
from .quantize import QuantizedLinear
from .targets import ALL, endless, matching

NAME = "default"


@dataclass(frozen=True)
class AdaptedLayer:
    """A linear layer that carries an adapter."""

    path: str
    module: Any

    @property
    def base(self) -> nn.Linear:
        """The frozen layer underneath."""
        return self.module.get_base_layer()

    def base_weight(self) -> Tensor:
        """The frozen weight (m, n); a quantised one is dequantised."""
        base = self.base
        return base.dequantized() if isinstance(base, QuantizedLinear) else base.weight

    def factors(self, name: str = NAME) -> Factors:
        """An adapter as one plain pair with its scaling inside B; exact for GraLoRA and hybrid too.

        A convolution's A, (R, n, height, width), comes as (R, n * height * width).
        """
        layer: Any = self.module
        scaling = layer.scaling[name]
        if isinstance(self.module, LoraLayer):
            return Factors(layer.lora_A[name].weight.flatten(1), layer.lora_B[name].weight.flatten(1) * scaling)
        blocks = gralora_to_lora(layer.gralora_A[name], layer.gralora_B[name], scaling)
        if not layer.hybrid_r[name]:
            return blocks
        plain = Factors(layer.gralora_A_general[name].weight, layer.gralora_B_general[name].weight * scaling)
        return stack(blocks, plain)

    def in_effect(self) -> list[str]:
        """Names of this layer's adapters that are switched on."""
        layer: Any = self.module
        held = layer.lora_A if isinstance(layer, LoraLayer) else layer.gralora_A
        return [] if layer.disable_adapters else [name for name in layer.active_adapters if name in held]

    def beyond_factors(self) -> str:
        """What of the adapters in effect a plain pair cannot say; empty if nothing."""
        layer: Any = self.module
        if not isinstance(self.base, nn.Linear | nn.Conv2d) or not self.base.weight.is_floating_point():
            return f"{self.path} is a {type(self.base).__name__}"
        for name in self.in_effect() if isinstance(layer, LoraLayer) else []:
            if name in layer.lora_variant:
                return f"{self.path} has an adapter of another kind ({type(layer.lora_variant[name]).__name__})"
            if layer.lora_B[name].bias is not None:
                return f"the adapter of {self.path} has a bias"
        return ""


def matching_layers(model: nn.Module, targets: str | tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers that ``adapter.targets`` means, by path. Raises ConfigError for a target without a layer."""
    linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if targets == ALL:
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
        linears = {path: module for path, module in linears.items() if module is not head}
    found, missing = matching(linears, targets)
    if missing:
        hint = f"Layers are called: {', '.join(_last_names(linears))}."
        raise ConfigError([Problem("adapter.targets", f"{name!r} matches no linear layer.", hint) for name in missing])
    return {path: module for path, module in linears.items() if path in found}


def _last_names(paths: Iterable[str]) -> list[str]:
    """The distinct ends of layer paths, 'to_out.0' with its number."""
    return sorted({re.search(r"[^.]*[^.\d][^.]*(\.\d+)?$", path).group() for path in paths})  # type: ignore[union-attr]


def check_sizes(layers: dict[str, nn.Linear], cfg: AdapterConfig) -> None:
    """GraLoRA's k must divide both sides of every layer. Raises ConfigError naming one and the allowed values."""
    if cfg.kind != "gralora":
        return
    sides = {path: (layer.out_features, layer.in_features) for path, layer in layers.items()}
    wrong = [path for path, (rows, columns) in sides.items() if rows % cfg.k or columns % cfg.k]
    if wrong:
        common = math.gcd(cfg.rank, *(side for pair in sides.values() for side in pair))
        allowed = [k for k in range(1, 17) if common % k == 0]
        rows, columns = sides[wrong[0]]
        rule = f"must divide both sides of every layer, got {cfg.k}; {wrong[0]} is {rows} x {columns}"
        raise ConfigError([Problem("adapter.k", f"{rule} ({len(wrong)} such layers).", f"Allowed here: {allowed}.")])


def peft_config(cfg: AdapterConfig, paths: list[str]) -> peft.PeftConfig:
    """Our settings in PEFT's words."""
    if cfg.kind == "lora":
        return peft.LoraConfig(
            r=cfg.rank, lora_alpha=cfg.scaling * cfg.rank, lora_dropout=cfg.dropout, target_modules=paths  # type: ignore[arg-type]
        )  # fmt: skip
    return peft.GraloraConfig(
        r=cfg.rank, alpha=cfg.scaling * cfg.total_rank, gralora_k=cfg.k, hybrid_r=cfg.hybrid_rank,  # type: ignore[arg-type]
        gralora_dropout=cfg.dropout, target_modules=paths,
    )  # fmt: skip


def attach(model: nn.Module, cfg: AdapterConfig, seed: int, name: str = "") -> list[AdaptedLayer]:
    """Freeze ``model`` and give its target layers float32 adapters that start as the identity.

    Every A is drawn from (seed, layer path), Kaiming-uniform as in PEFT; every B is zero. Float64 models (tests) get
    float64 adapters. Models that are trained together differ in ``name``, so that they draw differently.

    Raises:
        ConfigError: where a target matches nothing or k does not divide a layer.
    """
    layers = matching_layers(model, cfg.targets)
    check_sizes(layers, cfg)
    model.requires_grad_(False)
    peft.inject_adapter_in_model(peft_config(cfg, list(layers)), model, adapter_name=NAME)
    adapted = adapted_layers(model)
    if {layer.path for layer in adapted} != set(layers):
        raise RuntimeError(f"PEFT adapted {len(adapted)} layers where {len(layers)} were asked for")
    for path, parameter in trainable(model).items():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        _initialise(f"{name}{path}", parameter, seed)
    return adapted


def _initialise(name: str, parameter: nn.Parameter, seed: int) -> None:
    if "_A" not in name:
        parameter.data.zero_()
        return
    fan_in = parameter.shape[1]  # (r, n) of plain A and (k, n/k, r) of GraLoRA's: in both the width of the input
    bound = 1 / math.sqrt(fan_in)
    draw = torch.rand(parameter.shape, generator=seeds.generator(seed, 0, f"init {name}"), dtype=torch.float32)
    parameter.data.copy_((2 * draw - 1) * bound)


def adapted_layers(model: nn.Module) -> list[AdaptedLayer]:
    """Every layer of ``model`` that carries an adapter, in the order of its modules."""
    kinds = (LoraLayer, GraloraLayer)
    return [AdaptedLayer(path, module) for path, module in model.named_modules() if isinstance(module, kinds)]


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
        return peft.PeftModel.from_pretrained(model, str(folder)).eval()


def _refuse_endless(folder: Path, said: dict[str, Any]) -> None:
    """PEFT compares every layer with the expressions of a config, which is a stranger's. Raises AdapterError."""
    for field in ("target_modules", "exclude_modules", "alpha_pattern", "rank_pattern"):
        value = said.get(field)
        given = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        for expression in given:
            if endless(expression):
                rule = f"its {field} has the expression {expression[:60]!r}, which could take for ever"
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

    Only fields that differ from PEFT's defaults are given: an older PEFT may not know the others.
    """
    state = peft.get_peft_model_state_dict(model, adapter_name=NAME)
    tensors = {f"base_model.model.{k}": v.detach().to("cpu", torch.float32).contiguous() for k, v in state.items()}
    config: Any = model.peft_config[NAME]  # type: ignore[index]
    kept = {"peft_type", "r", "lora_alpha", "alpha", "gralora_k", "hybrid_r", "lora_dropout", "gralora_dropout"}
    fields = {name: value for name, value in config.to_dict().items() if name in kept}
    fields |= {"target_modules": sorted(config.target_modules), "inference_mode": True}
    return tensors, {name: getattr(value, "value", value) for name, value in fields.items()}
