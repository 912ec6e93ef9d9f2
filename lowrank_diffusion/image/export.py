"""Adapter files for other programs.

Three forms of one adapter, each named after who reads it (:data:`.runs.FORMS`) and exact up to ``export.dtype``:

``NAME-diffusers.safetensors``      ``<part>.<path>.lora_A/lora_B.weight`` and ``lora_adapter_metadata``, for
                                    ``load_lora_weights``. Every kind becomes a plain pair in closed form, such as
                                    GraLoRA one of rank k*r + r_h.
``NAME-comfyui-forge.safetensors``  kohya's format, ``lora_unet_<path_>.lora_down/lora_up.weight`` and ``.alpha``, which
                                    A1111 and sd-scripts read too. Paths are what kohya's scripts write for the base's
                                    family. Rank and alpha are the same in all layers and alpha = rank, because
                                    readers disagree about anything else.
``NAME-peft/``                      PEFT's folder, the adapter in its native form.

Text encoders that were trained are in the same files, under names that begin with their own, and in folders of their
own inside PEFT's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from .. import adapters
from ..errors import UserError
from ..export import Exported, replace, save_peft, stored_as, write_tensors
from ..factors import Factors, compress, pad, relative_error
from ..metadata import Facts, common_metadata
from ..runs import FORMS
from . import families
from .families import Family

_LORA_METADATA = "lora_adapter_metadata"


def export(family: Family, models: dict[str, nn.Module], folder: Path, facts: Facts) -> Exported:
    """Write all three forms into ``folder``, each whole or not at all.

    Args:
        family: of the base.
        models: what was trained, by its name in a pipeline: the denoiser, perhaps the text encoders.
        folder: made if it is not there.
        facts: for the files' metadata.

    Raises:
        OSError: where the disk does not take them; older files stay as they were.
    """
    pairs = {
        family.public_name(name, layer.path): Factors(*(t.detach().float().cpu().contiguous() for t in layer.factors()))
        for name, model in models.items()
        for layer in adapters.adapted_layers(model)
    }
    dtype = stored_as(facts.config, facts.precision)
    rounded = {layer: Factors(pair.a.to(dtype), pair.b.to(dtype)) for layer, pair in pairs.items()}
    rounding = max(relative_error(rounded[layer], pair) for layer, pair in pairs.items())
    layout: Any = family.layout(models[family.denoiser].config)
    metadata = common_metadata(facts, max(pair.a.shape[0] for pair in pairs.values()))
    metadata |= dict(family.metadata) | layout.metadata()
    metadata |= {"lowrank_diffusion.rounding": f"{rounding:.2g}"}
    folder.mkdir(parents=True, exist_ok=True)
    diffusers, kohya, peft = (folder / f"{facts.name}{end}" for end in FORMS["image"])
    replace(diffusers, lambda path: save_diffusers(rounded, path, metadata))
    replace(kohya, lambda path: save_kohya(rounded, path, metadata, family, layout))
    replace(peft, lambda path: _save_all_peft(models, family.denoiser, path, metadata, dtype))
    return Exported([diffusers, kohya, peft], dtype, rounding)


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


def save_kohya(
    pairs: dict[str, Factors], path: Path, metadata: dict[str, str], family: Family, layout: Any
) -> None:  # fmt: skip
    """The file that ComfyUI, Forge, A1111 and sd-scripts read, with the hashes by which they know a file."""
    rank = max(pair.a.shape[0] for pair in pairs.values())
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        model, _, place = layer.partition(".")
        whole, key = pad(pair, rank), family.kohya_name(model, place, layout)
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


def _save_all_peft(
    models: dict[str, nn.Module], denoiser: str, folder: Path, metadata: dict[str, str], dtype: torch.dtype
) -> None:  # fmt: skip
    """The denoiser's folder, and in it those of the text encoders."""
    for name, model in models.items():
        save_peft(model, folder if name == denoiser else folder / name, metadata, dtype)


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
    family = families.of_adapter(metadata)
    layout = family.layout_of(metadata)
    replace(kohya, lambda target: save_kohya(pairs, target, metadata, family, layout))
    return [diffusers, kohya]
