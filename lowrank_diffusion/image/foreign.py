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
from safetensors import safe_open
from torch import Tensor, nn

from ..config import AdapterConfig
from ..errors import AdapterError
from ..factors import Factors, gralora_to_lora, stack
from ..files import Unreadable, read_object
from ..layer_names import Layout, text_names, unet_names
from ..loading import reading
from . import adapter_files

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
    "text_encoder_2": ("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."),
    "text_encoder": ("text_encoder.", "lora_te1_", "text_encoders.clip_l.transformer."),
}
_METADATA = "lora_adapter_metadata"
MOST_EXPRESSIONS = 64
"""So many regular expressions of a stranger's alphas are tried on each layer; people write a handful."""

_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""What diffusers called a text encoder's projections before it used PEFT."""
_VARIANTS = (
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config", "layer_replication", "target_parameters", "lora_bias", "modules_to_save",
    "trainable_token_indices",
)  # fmt: skip
"""PEFT's settings by which its pairs alone are not the whole adapter."""
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that change the base's weights too, so that the pairs alone mean something else."""


@dataclass(frozen=True)
class Tensors:
    """A file's tensors and what it says about them."""

    label: str
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]
    config: Mapping[str, Any]
    """PEFT's adapter_config.json; empty without one."""


def read(path: Path, models: Mapping[str, nn.Module]) -> Pairs:
    """Every pair of a file, or of PEFT's folder with its folders of text encoders.

    Args:
        path: A .safetensors file, or a folder with adapter_config.json.
        models: The base's, by the names of ``MODELS``; pairs must fit their layers.

    Raises:
        AdapterError: not a LoRA of this base, whole and finite.
    """
    if not path.is_dir() and path.name == adapter_files.WEIGHTS and (path.parent / adapter_files.CONFIG).is_file():
        path = path.parent  # of which it is a part
    if not path.is_dir():
        return _pairs(_load(path), models, "")
    plain = path / adapter_files.DIFFUSERS_DEFAULT
    if plain.is_file() and not (path / adapter_files.CONFIG).is_file():
        return _pairs(_load(plain), models, "")
    if path.name in MODELS[1:]:
        return _pairs(_of_folder(path), models, path.name)
    found: Pairs = {}
    for name in MODELS:
        folder = path if name == "unet" else path / name
        if folder == path or folder.is_dir():
            found |= _pairs(_of_folder(folder), models, name)
    return found


def _of_folder(folder: Path) -> Tensors:
    """One model's adapter as PEFT keeps it."""
    file, config = folder / adapter_files.WEIGHTS, folder / adapter_files.CONFIG
    if not (file.is_file() and config.is_file()):
        raise AdapterError(f"{folder}: has no {adapter_files.WEIGHTS} and {adapter_files.CONFIG} of PEFT.")
    return _load(file, _config(config))


def _config(path: Path) -> dict[str, Any]:
    """What PEFT says of an adapter. Raises AdapterError for what pairs with one scale cannot say."""
    try:
        said = read_object(path)
    except Unreadable as error:
        raise AdapterError(f"{path}: {error}") from None
    if said.get("peft_type") not in ("LORA", "GRALORA"):
        raise AdapterError(f"{path}: is of the type {str(said.get('peft_type'))[:40]!r}, not LORA or GRALORA.")
    if said.get("use_dora"):
        raise AdapterError(f"{path}: is a DoRA, whose magnitudes cannot be applied exactly. Give a LoRA.")
    variant = next((name for name in _VARIANTS if said.get(name)), "")
    if variant:
        rule = f"has {variant} set, so that its pairs are not the whole adapter; that is not supported"
        raise AdapterError(f"{path}: {rule}. Give a plain LoRA.")
    begun = str(said.get("init_lora_weights", "")).lower()
    if begun.startswith(_OTHER_BASES):
        rule = f"began as {begun[:20]}, which changes the base too, so that its pairs do not fit the base you have"
        raise AdapterError(f"{path}: {rule}. Convert it to a plain LoRA where it was made.")
    return said


def _own_config(label: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The same of a file of PEFT's without its folder, which our own headers say. Raises AdapterError."""
    try:
        settings = json.loads(metadata["lowrank_diffusion.settings"])
        own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("adapter.")}
        adapter = AdapterConfig(**own)
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError):
        rule = f"is PEFT's file, whose strength stands in the {adapter_files.CONFIG} beside it"
        raise AdapterError(f"{label}: {rule}. Give the folder to generate --adapter, or another form of it.") from None
    if adapter.text_encoders != "none":
        rule = "is a part of PEFT's folder: the text encoders are in others"
        raise AdapterError(f"{label}: {rule}. Give the folder, or the run's file for diffusers.")
    alpha = adapter.scaling * adapter.total_rank
    return {"r": adapter.rank, "alpha": alpha, "lora_alpha": alpha, "hybrid_r": adapter.hybrid_rank}


def _load(path: Path, config: dict[str, Any] | None = None) -> Tensors:
    header = adapter_files.check(path).header
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
    if config is None and any(key.startswith("base_model.model.") for key in tensors):
        config = _own_config(path.name, header.metadata)
    return Tensors(path.name, {key: tensor.float() for key, tensor in tensors.items()}, header.metadata, config or {})


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
        place = _place(key, layers, default or "unet")
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
        layer = layers[model][path][1]
        try:
            pair = _pair(file, model, path, group)
        except (ValueError, RuntimeError, KeyError, TypeError, IndexError, ArithmeticError, AttributeError) as error:
            if isinstance(error, AdapterError):
                raise
            rule = f"what it says of {path} makes no pair ({type(error).__name__}: {str(error)[:200]})"
            raise AdapterError(f"{file.label}: {rule}. Download or export it again.") from None
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
                name, model = name.removeprefix(prefix).removeprefix("base_model.model."), other
    name = re.sub(r"\.processor\.(to_\w+)$", r".\1", name).removesuffix("_lora")
    if model != "unet":
        name = re.sub(r"(?<=self_attn\.)to_\w+$", lambda found: _OLD_TEXT.get(found[0], found[0]), name)
    for form in (name, f"{name}.0", name.replace("_lora.", ".")):
        if form in layers.get(model, {}):
            return model, layers[model][form][0], role
    return None


def _pair(file: Tensors, model: str, path: str, group: dict[str, Tensor]) -> Factors:
    """One layer's pair with its scale inside B."""
    config = file.config or _stated(file, model)
    if config.get("use_dora"):
        raise AdapterError(f"{file.label}: is a DoRA, whose magnitudes cannot be applied exactly. Give a LoRA.")
    if {"gralora_A", "gralora_B"} <= group.keys() <= {"gralora_A", "gralora_B", "general_A", "general_B"}:
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
        alpha = _stated_alpha(config, path)
    return Factors(down, up * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))


def _stated_alpha(config: Mapping[str, Any], path: str) -> float:
    """PEFT's alpha of a layer: of the first pattern that is the end of its path, or an expression for it."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    names, expressions = (path, f"text_model.{path}"), 0
    for pattern, alpha in patterns.items():
        if re.fullmatch(r"[\w.]*", pattern):
            found = any(name == pattern or name.endswith(f".{pattern}") for name in names)
        else:
            expressions += 1
            found = expressions <= MOST_EXPRESSIONS and any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)
        if found:
            return float(alpha)
    return float(config.get("lora_alpha", 8))


def _stated(file: Tensors, model: str) -> dict[str, Any]:
    """What diffusers' header says of a model's pairs."""
    try:
        said = json.loads(file.metadata.get(_METADATA, "{}"))
        return {key.partition(".")[2]: value for key, value in said.items() if key.startswith(f"{model}.")}
    except (ValueError, AttributeError, RecursionError):
        raise AdapterError(f"{file.label}: its {_METADATA} is no JSON object.") from None


def _fits(label: str, path: str, pair: Factors, layer: Any) -> None:
    rows, inputs = layer.weight.shape[0], tuple(layer.weight.shape[1:])
    a, b = pair
    shaped = [size for size in a.shape[1:] if size > 1] == [size for size in inputs if size > 1]  # (n, 1, 1) is (n,)
    sound = a.dim() >= 2 and b.dim() >= 2 and a.shape[0] > 0 and b.shape[0] == rows
    sound = sound and (shaped or (a.dim() == 2 and a.shape[1] == math.prod(inputs)))
    if sound and not (a.isfinite().all() and b.isfinite().all()):
        raise AdapterError(f"{label}: the scale of {path} is no finite number.")
    if not sound or b[0].numel() != a.shape[0]:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise AdapterError(f"{label}: {path} has pairs of {shapes}, the base's layer is {tuple(layer.weight.shape)}.")
