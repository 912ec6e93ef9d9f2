"""Adapter files for other programs.

Three forms of one adapter, each exact:

``NAME.safetensors``        ``unet.<path>.lora_A/lora_B.weight`` and ``lora_adapter_metadata``: diffusers'
                            ``load_lora_weights``. GraLoRA becomes a plain pair of rank k*r + r_h in closed form.
``NAME-kohya.safetensors``  ``lora_unet_<path_>.lora_down/lora_up.weight`` and ``.alpha``: ComfyUI, Forge, A1111,
                            sd-scripts. Paths are those of the original code, as kohya's scripts write them. Rank and
                            alpha are the same in all layers and alpha = rank, because readers disagree about anything
                            else.
``NAME-peft/``              PEFT's folder, the adapter in its native form.

Text encoders that were trained are in the same files, as ``text_encoder.``, ``text_encoder_2.``, ``lora_te1_`` and
``lora_te2_``, and in folders of their own inside PEFT's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from . import adapters
from .config import Config
from .errors import UserError
from .factors import Factors, compress, pad
from .layer_names import Layout, unet_names

KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
"""What kohya's keys begin with, by the model's name in a pipeline."""
_LORA_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class Facts:
    """What an adapter file says about where it comes from."""

    name: str
    config: Config
    base: str
    """Name of the base, for people."""
    prediction: str
    pictures: int
    resolution: int
    step: int
    loss: float | None = None
    started: float = 0.0


def export(models: dict[str, nn.Module], folder: Path, facts: Facts) -> list[Path]:
    """Write all three forms into ``folder``, each whole or not at all; returns their paths.

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
    layout = Layout.of(models["unet"].config)
    metadata = common_metadata(facts, pairs) | layout.metadata()
    folder.mkdir(parents=True, exist_ok=True)
    diffusers, kohya, peft = (
        folder / f"{facts.name}.safetensors",
        folder / f"{facts.name}-kohya.safetensors",
        folder / f"{facts.name}-peft",
    )
    replace(diffusers, lambda path: save_diffusers(pairs, path, metadata))
    replace(kohya, lambda path: save_kohya(pairs, path, metadata, layout))
    replace(peft, lambda path: _save_all_peft(models, path, metadata))
    return [diffusers, kohya, peft]


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
        tensors[f"{key}.alpha"] = whole.a.new_tensor(float(rank))
    data = save(tensors)  # without metadata: kohya's hashes leave it out, so that editing it keeps them
    header = int.from_bytes(data[:8], "little") + 8
    hashes = {
        "sshs_model_hash": hashlib.sha256(data[header:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8],
    }
    write_tensors(tensors, path, {**metadata, **hashes})


def _save_all_peft(models: dict[str, nn.Module], folder: Path, metadata: dict[str, str]) -> None:
    """The UNet's folder, and in it those of the text encoders."""
    for name, model in models.items():
        save_peft(model, folder if name == "unet" else folder / name, metadata)


def save_peft(model: nn.Module, folder: Path, metadata: dict[str, str], about: dict[str, str] | None = None) -> None:
    """The folder that ``peft.PeftModel.from_pretrained`` reads; ``about`` adds fields to its adapter_config.json."""
    folder.mkdir(parents=True)
    tensors, config = adapters.native(model)
    config |= about or {}
    write_tensors(tensors, folder / "adapter_model.safetensors", metadata)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def common_metadata(facts: Facts, pairs: dict[str, Factors]) -> dict[str, str]:
    """modelspec 1.0.1, the ss_* fields other programs look for, and every setting of the run. All values are texts."""
    cfg = facts.config
    rank = str(max(pair.a.shape[0] for pair in pairs.values()))
    side = f"{facts.resolution}x{facts.resolution}"
    v = facts.prediction == "v_prediction"
    fields = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": facts.name,
        "modelspec.resolution": side,
        "modelspec.prediction_type": "v" if v else "epsilon",
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "modelspec.trigger_phrase": cfg.data.trigger,
        "modelspec.usage_hint": cfg.data.prompt,
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_network_args": json.dumps({}),
        "ss_output_name": facts.name,
        "ss_sd_model_name": facts.base,
        "ss_learning_rate": str(cfg.optimizer.lr),
        "ss_unet_lr": str(cfg.optimizer.lr),
        "ss_text_encoder_lr": "" if cfg.adapter.text_encoders == "none" else str(cfg.optimizer.lr_of_text_encoders),
        "ss_optimizer": cfg.optimizer.name,
        "ss_lr_scheduler": cfg.optimizer.schedule,
        "ss_steps": str(facts.step),
        "ss_max_train_steps": str(cfg.train.steps),
        "ss_num_train_images": str(facts.pictures),
        "ss_seed": str(cfg.seed),
        "ss_resolution": f"({facts.resolution}, {facts.resolution})",
        "ss_total_batch_size": str(cfg.train.batch * cfg.train.accumulate),
        "ss_min_snr_gamma": str(cfg.loss.min_snr or None),
        "ss_noise_offset": str(cfg.loss.noise_offset or None),
        "ss_prior_loss_weight": str(cfg.prior.weight or None),
        "ss_tag_frequency": json.dumps({"img": {cfg.data.trigger: facts.pictures}} if cfg.data.trigger else {}),
        "ss_training_started_at": str(facts.started),
        "lowrank_diffusion.settings": json.dumps(shareable(cfg.dotted()), ensure_ascii=False),
        "lowrank_diffusion.step": str(facts.step),
        "lowrank_diffusion.loss": str(facts.loss),
    }
    if v:
        fields["ss_v_parameterization"] = "True"
    return {key: value for key, value in fields.items() if value != ""}


def shareable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for files that people pass on: of a path on this machine only the last name is kept."""
    return {key: _last_name(value) for key, value in settings.items()}


def _last_name(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_last_name(item) for item in value]
    local = isinstance(value, str) and (value.startswith(("/", "~", "./", "../", "\\")) or value[1:3] in (":\\", ":/"))
    if not local:
        return value
    rest, _, last = value.replace("\\", "/").rstrip("/").rpartition("/")
    return "" if rest.lower().endswith(("/home", "/users")) else last  # a home folder is called as its owner


def compress_file(path: Path, folder: Path, rank: int) -> list[Path]:
    """The adapter of a diffusers file at a smaller rank, the closest there is: a diffusers and a kohya file.

    Args:
        path: A ``NAME.safetensors`` written by :func:`export`.
        folder: Where ``NAME-rRANK.safetensors`` and its kohya twin go.
        rank: At least 1; a larger rank than the adapter's changes nothing.
    """
    if rank < 1:
        raise UserError(f"--rank: must be at least 1, got {rank}.")
    with safe_open(path, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key not in ("format", _LORA_METADATA)}
    tensors = load_file(path)
    layers = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    pairs = {
        layer: compress(Factors(tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]), rank)
        for layer in layers
    }
    own = str(max(pair.a.shape[0] for pair in pairs.values()))
    metadata |= {"ss_network_dim": own, "ss_network_alpha": own, "lowrank_diffusion.compressed_to": own}
    name = f"{path.stem}-r{rank}"
    diffusers, kohya = folder / f"{name}.safetensors", folder / f"{name}-kohya.safetensors"
    replace(diffusers, lambda target: save_diffusers(pairs, target, metadata))
    layout = Layout.of_metadata(metadata)
    replace(kohya, lambda target: save_kohya(pairs, target, metadata, layout))
    return [diffusers, kohya]
