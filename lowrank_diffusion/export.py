"""Adapter files for other programs.

Three forms of one adapter, each named after who reads it (:data:`.runs.FORMS`) and exact up to ``export.dtype``:

``NAME-diffusers.safetensors``      ``unet.<path>.lora_A/lora_B.weight`` and ``lora_adapter_metadata``, for
                                    ``load_lora_weights``. Every kind becomes a plain pair in closed form, such as
                                    GraLoRA one of rank k*r + r_h.
``NAME-comfyui-forge.safetensors``  kohya's format, ``lora_unet_<path_>.lora_down/lora_up.weight`` and ``.alpha``, which
                                    A1111 and sd-scripts read too. Paths are those of the original code, as kohya's
                                    scripts write them. Rank and alpha are the same in all layers and alpha = rank,
                                    because readers disagree about anything else.
``NAME-peft/``                      PEFT's folder, the adapter in its native form.

Text encoders that were trained are in the same files, as ``text_encoder.``, ``text_encoder_2.``, ``lora_te1_`` and
``lora_te2_``, and in folders of their own inside PEFT's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from . import adapters
from .config import Config
from .errors import UserError
from .factors import Factors, compress, pad, relative_error
from .layer_names import Layout, unet_names
from .metadata import Facts, common_metadata
from .runs import FORMS

KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
"""What kohya's keys begin with, by the model's name in a pipeline."""
_LORA_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class Exported:
    """What was written, and how it differs from what was trained."""

    paths: list[Path]
    dtype: torch.dtype
    rounding: float
    """Largest relative error of a layer's update, by Frobenius norms."""

    @property
    def note(self) -> str:
        """For a person; empty where nothing was rounded."""
        if self.dtype == torch.float32:
            return ""
        kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}[self.dtype]
        return (
            f"The adapter's files are in {kind}, half as large as in fp32: no layer's update differs by more than "
            f"{self.rounding:.2%} from the trained one. export.dtype=fp32 keeps it whole."
        )


def export(models: dict[str, nn.Module], folder: Path, facts: Facts) -> Exported:
    """Write all three forms into ``folder``, each whole or not at all.

    Args:
        models: what was trained, by its name in a pipeline: "unet", perhaps "text_encoder" and "text_encoder_2".
        folder: made if it is not there.
        facts: for the files' metadata.

    Raises:
        OSError: where the disk does not take them; older files stay as they were.
    """
    pairs = {
        public(name, layer.path): Factors(*(t.detach().float().cpu().contiguous() for t in layer.factors()))
        for name, model in models.items()
        for layer in adapters.adapted_layers(model)
    }
    dtype = stored_as(facts.config, facts.precision)
    rounded = {layer: Factors(pair.a.to(dtype), pair.b.to(dtype)) for layer, pair in pairs.items()}
    rounding = max(relative_error(rounded[layer], pair) for layer, pair in pairs.items())
    layout = Layout.of(models["unet"].config)
    metadata = common_metadata(facts, max(pair.a.shape[0] for pair in pairs.values())) | layout.metadata()
    metadata |= {"lowrank_diffusion.rounding": f"{rounding:.2g}"}
    folder.mkdir(parents=True, exist_ok=True)
    diffusers, kohya, peft = (folder / f"{facts.name}{end}" for end in FORMS["image"])
    replace(diffusers, lambda path: save_diffusers(rounded, path, metadata))
    replace(kohya, lambda path: save_kohya(rounded, path, metadata, layout))
    replace(peft, lambda path: _save_all_peft(models, path, metadata, dtype))
    return Exported([diffusers, kohya, peft], dtype, rounding)


def stored_as(cfg: Config, precision: str) -> torch.dtype:
    """In which type an adapter's files hold it; ``precision`` is that of the frozen base, such as "bfloat16".

    ``auto`` is fp16 for whatever was trained in half precision: it rounds eight times more finely than bf16, and the
    numbers of an adapter are far inside its range.
    """
    auto = torch.float32 if precision == "float32" else torch.float16
    return {"auto": auto, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[cfg.export.dtype]


def public(name: str, path: str) -> str:
    """A layer's name in files. Text encoders keep their ``text_model``, which newer transformers leave out."""
    if name == "unet":
        return f"{name}.{path}"
    return f"{name}.text_model.{path.removeprefix('text_model.')}"


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Put what ``write`` makes in the place of ``path`` in one move, so that no half-written file is ever seen."""
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        write(partial)
        if path.is_dir():
            _remove(path)
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file. Raises OSError (``safetensors.save_file`` hides a full disk in an error of its own)."""
    path.write_bytes(save(tensors, metadata={"format": "pt", **metadata}))


def save_diffusers(pairs: dict[str, Factors], path: Path, metadata: dict[str, str]) -> None:
    """The file for ``load_lora_weights``. No ``.alpha`` keys: diffusers refuses them among these names."""
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        tensors[f"{layer}.lora_A.weight"] = pair.a
        tensors[f"{layer}.lora_B.weight"] = pair.b
    facts: dict[str, Any] = {}
    for model in dict.fromkeys(layer.split(".")[0] for layer in pairs):
        own = {layer.partition(".")[2]: pair for layer, pair in pairs.items() if layer.startswith(f"{model}.")}
        facts |= {f"{model}.{field}": value for field, value in _lora_metadata(own).items()}
    write_tensors(tensors, path, {**metadata, _LORA_METADATA: json.dumps(facts, sort_keys=True)})


def _lora_metadata(pairs: dict[str, Factors]) -> dict[str, Any]:
    """Only the fields a reader needs: diffusers passes all of them to PEFT, and an older PEFT refuses unknown ones.

    Layers of text encoders go without ``text_model``: PEFT looks for the ends of names, and has them with and without.
    """
    ranks = {layer.removeprefix("text_model."): pair.a.shape[0] for layer, pair in pairs.items()}
    rank = max(ranks.values())
    odd = {layer: own for layer, own in ranks.items() if own != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": sorted(ranks),
    }


def save_kohya(pairs: dict[str, Factors], path: Path, metadata: dict[str, str], layout: Layout) -> None:
    """The file that ComfyUI, Forge, A1111 and sd-scripts read, with the hashes by which they know a file."""
    rank = max(pair.a.shape[0] for pair in pairs.values())
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        model, _, place = layer.partition(".")
        name = unet_names(place, layout)[1] if model == "unet" else place.replace(".", "_")
        whole, key = pad(pair, rank), f"{KOHYA[model]}_{name}"
        tensors[f"{key}.lora_down.weight"] = whole.a.contiguous()
        tensors[f"{key}.lora_up.weight"] = whole.b.contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))  # bf16 has no 257
    # As kohya's scripts make them: with no metadata but theirs, so that editing a title or a picture keeps them.
    data = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    header = int.from_bytes(data[:8], "little") + 8
    hashes = {
        "sshs_model_hash": hashlib.sha256(data[header:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8],
    }
    write_tensors(tensors, path, {**metadata, **hashes})


def _save_all_peft(models: dict[str, nn.Module], folder: Path, metadata: dict[str, str], dtype: torch.dtype) -> None:
    """The UNet's folder, and in it those of the text encoders."""
    for name, model in models.items():
        save_peft(model, folder if name == "unet" else folder / name, metadata, dtype)


def save_peft(
    model: nn.Module, folder: Path, metadata: dict[str, str], dtype: torch.dtype, about: dict[str, str] | None = None
) -> None:
    """The folder that ``peft.PeftModel.from_pretrained`` reads; ``about`` adds fields to its adapter_config.json."""
    folder.mkdir(parents=True)
    tensors, config = adapters.native(model)
    config |= about or {}
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    write_tensors(rounded, folder / "adapter_model.safetensors", metadata)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def compress_file(path: Path, folder: Path, rank: int) -> list[Path]:
    """The adapter of a diffusers file at a smaller rank, the closest there is: a diffusers and a kohya file.

    Args:
        path: A ``NAME-diffusers.safetensors`` written by :func:`export`.
        folder: Where ``NAME-rRANK-diffusers.safetensors`` and its twin for ComfyUI and Forge go.
        rank: At least 1; a larger rank than the adapter's changes nothing.
    """
    if rank < 1:
        raise UserError(f"--rank: must be at least 1, got {rank}.")
    with safe_open(path, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key not in ("format", _LORA_METADATA)}
    tensors = load_file(path)
    layers = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    kind = tensors[f"{layers[0]}.lora_A.weight"].dtype
    whole = {layer: Factors(*(tensors[f"{layer}.lora_{side}.weight"].float() for side in "AB")) for layer in layers}
    smaller = {layer: compress(pair, rank) for layer, pair in whole.items()}
    pairs = {layer: Factors(pair.a.to(kind), pair.b.to(kind)) for layer, pair in smaller.items()}
    own = str(max(pair.a.shape[0] for pair in pairs.values()))
    metadata |= {"ss_network_dim": own, "ss_network_alpha": own, "lowrank_diffusion.compressed_to": own}
    name = f"{path.name.removesuffix(FORMS['image'][0]).removesuffix('.safetensors')}-r{rank}"
    diffusers, kohya = (folder / f"{name}{end}" for end in FORMS["image"][:2])
    replace(diffusers, lambda target: save_diffusers(pairs, target, metadata))
    layout = Layout.of_metadata(metadata)
    replace(kohya, lambda target: save_kohya(pairs, target, metadata, layout))
    return [diffusers, kohya]
