"""Adapters of any program as plain pairs by layer, told by the names in the file; what is no LoRA is refused by name.

A layer's update is ``scale * up @ down`` with scale = alpha / rank of that layer; a layer without alpha has alpha =
rank. Nothing is guessed from other layers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..adapters import AdapterError
from ..factors import Factors, gralora_to_lora, stack
from ..layer_names import Layout, text_names, unet_names
from . import headers

MODELS = ("unet", "text_encoder", "text_encoder_2")
Pairs = dict[str, dict[str, Factors]]
"""By model, then by the layer's path there: A (R, n) or (R, n, h, w), B (m, R) or (m, R, 1, 1), scale inside B."""

_ROLES = {
    "down": r"[._]lora[._]down(\.weight)?|\.lora_A(\.default)?(\.weight)?|\.lora_linear_layer\.down\.weight",
    "up": r"[._]lora[._]up(\.weight)?|\.lora_B(\.default)?(\.weight)?|\.lora_linear_layer\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "gralora_A": r"\.gralora_A",
    "gralora_B": r"\.gralora_B",
    "general_A": r"\.gralora_A_general(\.weight)?",
    "general_B": r"\.gralora_B_general(\.weight)?",
}
_KEY = re.compile("(?P<layer>.+?)(?:" + "|".join(f"(?P<{role}>{form})" for role, form in _ROLES.items()) + ")")
_PREFIXES = {
    "unet": ("unet.", "lora_unet_", "lycoris_", "diffusion_model.", "model.diffusion_model."),
    "text_encoder_2": ("text_encoder_2.", "lora_te2_"),
    "text_encoder": ("text_encoder.", "lora_te1_"),
}
_METADATA = "lora_adapter_metadata"

# The first that holds names the file. Parts of tensor names, and what they mean.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoHa adapter, not a LoRA", ("hada_w",)),
    ("a LoKr adapter, not a LoRA", ("lokr_",)),
    ("an OFT or BOFT adapter, not a LoRA", ("oft_", "boft_")),
    ("an IA3 adapter, not a LoRA", ("ia3_l", ".on_input")),
    ("a GLoRA adapter, not a LoRA", (".a1.weight", ".b1.weight")),
    ("a DoRA, whose magnitudes cannot be applied exactly", ("dora_scale", "magnitude_vector")),
    ("a LoRA with biases or whole weight differences", (".diff_b", ".diff", "lora_B.bias", "lora_up.bias")),
    ("a bundle with a textual inversion embedding", ("bundle_emb.", "emb_params", "string_to_param")),
    ("an adapter of Flux, not of SDXL", ("double_blocks", "single_blocks", "single_transformer_blocks")),
    ("an adapter of Stable Diffusion 3 or another transformer", ("joint_blocks", "transformer.transformer_blocks")),
    ("an adapter of Stable Diffusion 1 or 2, not of SDXL", ("lora_te_",)),
    ("an adapter of a language model", ("model.layers.", ".gate_proj.", "transformer.h.")),
)


@dataclass(frozen=True)
class Tensors:
    """A file's tensors and what it says about them."""

    label: str
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]
    config: Mapping[str, Any]
    """PEFT's adapter_config.json; empty without one."""


def kind(names: set[str]) -> str:
    """What tensor names show that is not a LoRA of SDXL, as the end of a sentence; empty if nothing does."""
    return next((what for what, marks in _KINDS if any(mark in name for name in names for mark in marks)), "")


def check(path: Path) -> headers.Header:
    """The header of a file that looks like a LoRA of SDXL; reads no weights.

    Raises:
        AdapterError: naming what else it is.
    """
    if path.suffix.lower() != ".safetensors":
        raise AdapterError(f"{path}: only .safetensors adapters are loaded; other formats can run code of strangers.")
    try:
        header = headers.read(path)
    except headers.HeaderError as error:
        raise AdapterError(f"{path.name}: {error}") from None
    what = kind(set(header.shapes)) or ("" if headers.is_adapter(header) else headers.describe(header))
    if what:
        raise AdapterError(f"{path.name}: is {what}. Give a LoRA of an SDXL model.")
    return header


def read(path: Path, models: Mapping[str, nn.Module]) -> Pairs:
    """Every pair of a file, or of PEFT's folder with its folders of text encoders.

    Args:
        path: A .safetensors file, or a folder with adapter_config.json.
        models: The base's, by the names of ``MODELS``; pairs must fit their layers.

    Raises:
        AdapterError: not a LoRA of this base, whole and finite.
    """
    if not path.is_dir():
        config = path.parent / "adapter_config.json"
        own = path.name == "adapter_model.safetensors" and config.is_file()
        return _pairs(_load(path, _json(config) if own else {}), models, "")
    found: Pairs = {}
    for name in MODELS:
        folder = path if name == "unet" else path / name
        if folder == path or folder.is_dir():
            file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
            if not (file.is_file() and config.is_file()):
                raise AdapterError(f"{folder}: has no adapter_model.safetensors and adapter_config.json of PEFT.")
            found |= _pairs(_load(file, _json(config)), models, name)
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: is not readable as JSON ({error}).") from None
    if not isinstance(said, dict) or said.get("peft_type") not in ("LORA", "GRALORA"):
        raise AdapterError(f"{path}: describes no LoRA or GraLoRA.")
    if said.get("use_dora"):
        raise AdapterError(f"{path}: is a DoRA, which cannot be applied exactly. Give a LoRA.")
    return said


def _load(path: Path, config: dict[str, Any]) -> Tensors:
    header = check(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in header.shapes}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path.name}: cannot be read: {error}.") from None
    broken = [key for key, tensor in tensors.items() if not tensor.is_floating_point()]
    broken += [key for key, tensor in tensors.items() if key not in broken and not tensor.float().isfinite().all()]
    if broken:
        raise AdapterError(f"{path.name}: {broken[0]} is not of finite numbers ({len(broken)} such tensors).")
    if not config and any(key.startswith("base_model.model.") for key in tensors):
        raise AdapterError(f"{path.name}: is a file of PEFT; its strength is in the adapter_config.json beside it.")
    return Tensors(path.name, {key: tensor.float() for key, tensor in tensors.items()}, header.metadata, config)


def _layers(models: Mapping[str, nn.Module]) -> dict[str, dict[str, tuple[str, Any]]]:
    """By model and any name of a layer: its path and the layer itself, adapted or not."""
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    for model, module in models.items():
        layout = Layout.of(module.config) if model == "unet" else Layout()
        names = found.setdefault(model, {})
        linears = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        for full, layer in linears.items():
            path = full.removesuffix(".base_layer")
            known = unet_names(path, layout) if model == "unet" else text_names(path)
            names.update(dict.fromkeys(known if ".lora_" not in full else (), (path, layer)))
    return found


def _pairs(file: Tensors, models: Mapping[str, nn.Module], default: str) -> Pairs:
    layers = _layers(models)
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in file.tensors.items():
        place = _place(key, layers, default or ("unet" if file.config else ""))
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
    found: Pairs = {}
    for (model, path), group in groups.items():
        layer = next(layer for own, layer in layers[model].values() if own == path)
        pair = _pair(file, model, path, group)
        _fits(file.label, path, pair, layer)
        found.setdefault(model, {})[path] = pair
    return found


def _place(key: str, layers: Mapping[str, Mapping[str, Any]], default: str) -> tuple[str, str, str] | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    role = next(role for role in _ROLES if match[role] is not None)
    name, model = match["layer"].removeprefix("base_model.model."), default
    for other, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                name, model = name.removeprefix(prefix), other
    name = re.sub(r"\.processor\.(to_\w+)$", r".\1", name).removesuffix("_lora")
    for form in (name, f"{name}.0", name.replace("_lora.", ".")):
        if form in layers.get(model, {}):
            return model, layers[model][form][0], role
    return None


def _pair(file: Tensors, model: str, path: str, group: dict[str, Tensor]) -> Factors:
    """One layer's pair with its scale inside B."""
    config = file.config or _stated(file, model)
    if "gralora_A" in group and "gralora_B" in group and file.config:
        scale = config["alpha"] / (config["r"] + config.get("hybrid_r", 0))
        pair = gralora_to_lora(group["gralora_A"], group["gralora_B"], scale)
        if "general_A" in group:
            pair = stack(pair, Factors(group["general_A"], group["general_B"] * scale))
        return pair
    if not {"down", "up"} <= group.keys() <= {"down", "up", "mid", "alpha"}:
        raise AdapterError(f"{file.label}: the layer {path} has {', '.join(sorted(group))}, not a down and an up.")
    down, up, rank = group["down"], group["up"], group["down"].shape[0]
    if "mid" in group:  # down, then a convolution, then up: both first are linear, so they are one
        down = torch.einsum("rshw,sn->rnhw", group["mid"], down.flatten(1))
    alpha = float(group["alpha"]) if "alpha" in group else float(rank)
    if config and "alpha" not in group:
        pattern = config.get("alpha_pattern") or {}
        alpha = float(pattern.get(get_pattern_key(list(pattern), path), config.get("lora_alpha", 8)))
    return Factors(down, up * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))


def _stated(file: Tensors, model: str) -> dict[str, Any]:
    """What diffusers' header says of a model's pairs."""
    try:
        said = json.loads(file.metadata.get(_METADATA, "{}"))
        return {key.partition(".")[2]: value for key, value in said.items() if key.startswith(f"{model}.")}
    except (ValueError, AttributeError):
        raise AdapterError(f"{file.label}: its {_METADATA} is not JSON.") from None


def _fits(label: str, path: str, pair: Factors, layer: Any) -> None:
    rows, inputs = layer.weight.shape[0], tuple(layer.weight.shape[1:])
    a, b = pair
    sound = a.dim() >= 2 and b.dim() >= 2 and a[0].numel() == math.prod(inputs) and b.shape[0] == rows
    if not sound or b[0].numel() != a.shape[0]:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise AdapterError(f"{label}: {path} has pairs of {shapes}, the base's layer is {tuple(layer.weight.shape)}.")
