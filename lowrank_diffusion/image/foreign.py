"""Adapters of any program as plain pairs by layer, known by the names in the file; other kinds are refused by name.

A layer's update is ``scale * up @ down`` with scale = alpha / rank of that layer; a layer without alpha has alpha =
rank. Nothing is guessed from other layers.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import AdapterError
from ..factors import Factors, gralora_to_lora, stack
from ..loading import reading
from . import adapter_files, families, peft_config
from .families import Family
from .peft_config import Stated

MODELS = adapter_files.MODELS
Pairs = dict[str, dict[str, Factors]]
"""By model, then by the layer's path there: A (R, n) or (R, n, h, w), B (m, R) or (m, R, 1, 1), scale inside B."""

_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""What diffusers called a text encoder's projections before it used PEFT."""


@dataclass(frozen=True)
class Tensors:
    """A file's tensors and what it says about them."""

    label: str
    tensors: dict[str, Tensor]
    stated: Mapping[str, Stated]
    """What PEFT or diffusers says of each model's."""


def read(path: Path, models: Mapping[str, nn.Module], family: Family | None = None) -> Pairs:
    """Every pair of a file, or of PEFT's folder with its folders of text encoders.

    Args:
        path: A .safetensors file, or a folder with adapter_config.json.
        models: The base's by their names, the denoiser first; pairs must fit their layers.
        family: The base's, which a file must be for.

    Raises:
        AdapterError: not a LoRA of this base, whole and finite.
    """
    if not path.is_dir() and path.name == adapter_files.WEIGHTS and (path.parent / adapter_files.CONFIG).is_file():
        path = path.parent  # the file is part of that folder
    if not path.is_dir():
        return _pairs(_load(path, family), models, "")
    plain = path / adapter_files.DIFFUSERS_DEFAULT
    if plain.is_file() and not (path / adapter_files.CONFIG).is_file():
        return _pairs(_load(plain, family), models, "")
    first, *others = [*models] or MODELS
    if path.name in others:
        return _pairs(_of_folder(path, family), models, path.name)
    pairs: Pairs = {}
    for name in (first, *others):
        folder = path if name == first else path / name
        if folder == path or folder.is_dir():
            pairs |= _pairs(_of_folder(folder, family), models, name)
    return pairs


def _of_folder(folder: Path, family: Family | None) -> Tensors:
    """One model's adapter as PEFT keeps it."""
    file, config = folder / adapter_files.WEIGHTS, folder / adapter_files.CONFIG
    if not (file.is_file() and config.is_file()):
        raise AdapterError(f"{folder}: has no {adapter_files.WEIGHTS} and {adapter_files.CONFIG} of PEFT.")
    return _load(file, family, peft_config.of_folder(config))


def _load(path: Path, family: Family | None, config: Stated | None = None) -> Tensors:
    header = adapter_files.check(path, family).header
    advice = "Download or copy it again."
    with reading(lambda reason: AdapterError(f"{path.name}: cannot be read: {reason}. {advice}")):
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in header.shapes}
    # kohya's scripts write an alpha as the number it was given as
    tensors = {key: tensor.float() if key.endswith(".alpha") else tensor for key, tensor in tensors.items()}
    broken = [key for key, tensor in tensors.items() if not tensor.is_floating_point()]
    broken += [key for key, tensor in tensors.items() if key not in broken and not tensor.float().isfinite().all()]
    if broken:
        raise AdapterError(f"{path.name}: {broken[0]} is not of finite numbers ({len(broken)} such tensors).")
    stated = dict.fromkeys(MODELS, config) if config else adapter_files.stated(path.name, header)
    return Tensors(path.name, {key: tensor.float() for key, tensor in tensors.items()}, stated)


def _layers(models: Mapping[str, nn.Module]) -> dict[str, dict[str, tuple[str, Any]]]:
    """By model and any name of a layer: its path and the layer itself, adapted or not."""
    by_model: dict[str, dict[str, tuple[str, Any]]] = {}
    for model, module in models.items():
        names = by_model.setdefault(model, {})
        linears = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        for full, layer in linears.items():
            path = full.removesuffix(".base_layer")
            known = [] if ".lora_" in full else families.layer_names(model, path, getattr(module, "config", None))
            names.update(dict.fromkeys(known, (path, layer)))
    return by_model


def _pairs(file: Tensors, models: Mapping[str, nn.Module], default: str) -> Pairs:
    layers = _layers(models)
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in file.tensors.items():
        place = _place(key, layers, default or next(iter(models), ""))
        if place is None:
            unknown.append(key)
            continue
        model, path, role = place
        if role in groups.setdefault((model, path), {}):
            raise AdapterError(f"{file.label}: {key} is there twice under different names.")
        groups[model, path][role] = tensor
    if unknown:
        rule = f"{len(unknown)} of {len(file.tensors)} tensors fit no layer of this base, such as {unknown[0]}"
        raise AdapterError(f"{file.label}: {rule}. Was it trained on another model?")
    pairs: Pairs = {}
    for (model, path), group in groups.items():
        layer = layers[model][path][1]
        try:
            pair = _pair(file.stated[model], path, group)
        except (ValueError, RuntimeError, KeyError, TypeError, IndexError, ArithmeticError, AttributeError) as error:
            if isinstance(error, AdapterError):
                raise
            rule = f"what it says of {path} makes no pair ({type(error).__name__}: {str(error)[:200]})"
            raise AdapterError(f"{file.label}: {rule}. Download or export it again.") from None
        _fits(file.label, path, pair, layer)
        pairs.setdefault(model, {})[path] = pair
    return pairs


@functools.cache
def _prefixes() -> list[tuple[str, str]]:
    """(part, prefix) of all families; no prefix of one part begins another's name."""
    return [(part, prefix) for part in MODELS for prefix in families.prefixes(part)]


def _place(key: str, layers: Mapping[str, Mapping[str, Any]], default: str) -> tuple[str, str, str] | None:
    parts = adapter_files.split(key)
    if parts is None:
        return None
    name, model, role = parts[0].removeprefix("base_model.model."), default, parts[1]
    for other, prefix in _prefixes():
        if name.startswith(prefix):
            name, model = name.removeprefix(prefix).removeprefix("base_model.model."), other
    name = re.sub(r"\.processor\.(to_\w+)$", r".\1", name).removesuffix("_lora")
    if model.startswith("text_encoder"):
        name = re.sub(r"(?<=self_attn\.)to_\w+$", lambda match: _OLD_TEXT.get(match[0], match[0]), name)
    for form in (name, f"{name}.0", name.replace("_lora.", ".")):
        if form in layers.get(model, {}):
            return model, layers[model][form][0], role
    return None


def _pair(stated: Stated, path: str, group: dict[str, Tensor]) -> Factors:
    """One layer's pair with its scale inside B; that its tensors make one was checked in the header."""
    if "gralora_A" in group:
        k, _, rank = group["gralora_A"].shape
        scale = stated.block_scale(path, k, rank, group["general_A"].shape[0] if "general_A" in group else 0)
        pair = gralora_to_lora(group["gralora_A"], group["gralora_B"], scale)
        return stack(pair, Factors(group["general_A"], group["general_B"] * scale)) if "general_A" in group else pair
    down, up, rank = group["down"], group["up"], group["down"].shape[0]
    if "mid" in group:  # down, then a convolution, then up: the first two are linear, so they are one
        down = torch.einsum("rshw,sn->rnhw", group["mid"], down.flatten(1))
    return Factors(down, up * stated.scale(path, rank, float(group["alpha"]) if "alpha" in group else None))


def _fits(label: str, path: str, pair: Factors, layer: Any) -> None:
    rows, inputs = layer.weight.shape[0], tuple(layer.weight.shape[1:])
    a, b = pair
    shaped = [size for size in a.shape[1:] if size > 1] == [size for size in inputs if size > 1]  # (n, 1, 1) is (n,)
    if not (a.isfinite().all() and b.isfinite().all()):
        raise AdapterError(f"{label}: the scale of {path} is not a finite number.")
    if b.shape[0] != rows or not (shaped or (a.dim() == 2 and a.shape[1] == math.prod(inputs))):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise AdapterError(f"{label}: {path} has pairs of {shapes}, the base's layer is {tuple(layer.weight.shape)}.")
