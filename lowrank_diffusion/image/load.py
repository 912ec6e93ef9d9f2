"""Load a base model, whole or component by component, from safetensors only and offline unless it is a hub id.

Components are made one by one and of known classes, so a model's index cannot name code of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .. import paths
from ..bases import MODEL_KEY, ModelError
from ..config import Problem
from ..files import read_object
from ..loading import explained, no_progress_bar
from . import headers, hub
from .folders import PARTS, VAE_KEY
from .source import Source, locate, vae_problems

_MODELS: dict[str, Any] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}
_PREFIXES: dict[str, str | tuple[str, ...]] = {
    "text_encoder": headers.TEXT_ENCODER,
    "text_encoder_2": headers.TEXT_ENCODER_2,
    "unet": headers.UNET,
    "vae": headers.VAE,
}
BROKEN = "Is it a plain SDXL? If so, download or copy it again."


def load_pipeline(
    source: Source, dtype: torch.dtype, vae: str | None = None, config: Path = paths.SDXL_CONFIG
) -> StableDiffusionXLPipeline:
    """The whole pipeline on the CPU, models in eval mode; the VAE in float32 whatever ``dtype``.

    Args:
        source: From ``resolve``.
        dtype: Of the UNet and the text encoders.
        vae: Folder, file or hub id of another VAE.
        config: Component configs for a single file, which brings none.

    Raises:
        ModelError: A component is missing, broken or of another architecture, or the hub does not give it.
    """
    source = _local(source, [name for name in PARTS if name != "vae" or vae is None])
    parts = {name: load_part(source, name, dtype, vae, config) for name in PARTS}
    root = Path(source.path) if source.kind == "folder" else config
    with explained(source.label, MODEL_KEY, BROKEN):
        zeros = read_object(root / "model_index.json").get("force_zeros_for_empty_prompt", True)
        # No watermark: pictures must not depend on whether some optional package is installed.
        return StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


def load_part(
    source: Source, name: str, dtype: torch.dtype, vae: str | None = None, config: Path = paths.SDXL_CONFIG
) -> Any:
    """One component (a name of ``folders.PARTS``), without reading the weights of the others.

    ``dtype`` is that of the UNet and the text encoders; the VAE is always float32. The other arguments and what
    is raised are those of ``load_pipeline``.
    """
    if name == "vae" and vae is not None:
        return _other_vae(vae, config)
    source = _local(source, [name])
    root = Path(source.path) if source.kind == "folder" else config
    dtype = torch.float32 if name == "vae" else dtype
    with explained(f"{source.label}: its {name}", MODEL_KEY, BROKEN):
        if name == "scheduler":
            return _scheduler(source, root)
        if name not in _MODELS:
            return CLIPTokenizer.from_pretrained(str(root), subfolder=name, local_files_only=True)
        if source.kind == "file":
            return _aligned(_from_file(Path(source.path), name, dtype, config))
        return _aligned(_from_folder(root, name, dtype, source.variant))


def load_config(source: Source, name: str, config: Path = paths.SDXL_CONFIG) -> dict[str, Any]:
    """The configuration of one component, without its weights. Raises ModelError."""
    source = _local(source, [name])
    with explained(f"{source.label}: {name}/config.json", MODEL_KEY, BROKEN):
        return read_object((Path(source.path) if source.kind == "folder" else config) / name / "config.json")


def _local(source: Source, parts: list[str]) -> Source:
    """The same model on this disk."""
    if source.kind != "hub":
        return source
    return replace(source, kind="folder", path=str(hub.fetch_pipeline(source, parts)))


def _from_folder(folder: Path, name: str, dtype: torch.dtype, variant: str | None, subfolder: bool = True) -> Any:
    """A model in diffusers' layout; every weight must be there, none is made up."""
    # Without a dtype transformers would take the config's.
    with no_progress_bar():
        model, info = _MODELS[name].from_pretrained(
            str(folder),
            subfolder=name if subfolder else "",
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    wrong = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{len(wrong)} weights are missing or of another shape: {', '.join(wrong[:3])}")
    return model


def _from_file(path: Path, name: str, dtype: torch.dtype, config: Path, alone: bool = False) -> Any:
    """A model in the original layout; only its own tensors are read, and each of its weights must be there.

    ``alone``: the file holds nothing else, so that names may go without the prefix, and may be diffusers' own.
    """
    kind = _MODELS[name]
    if name in ("unet", "vae"):
        facts = kind.load_config(str(config), subfolder=name, local_files_only=True)
        with init_empty_weights():
            model = kind.from_config(facts)
    else:
        facts = kind.config_class.from_pretrained(str(config), subfolder=name, local_files_only=True)
        with init_empty_weights():
            model = kind(facts)
    prefix = "" if alone else _PREFIXES[name]
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}
    tensors = _converted(name, model, tensors)
    wanted = model.state_dict()
    _compare(wanted, tensors)
    # Checkpoints that other tools saved carry extras, such as a projection that the first text encoder never uses.
    model.load_state_dict({key: tensors[key].to(dtype) for key in wanted}, assign=True)
    return model.eval()


def _aligned(model: Any) -> Any:
    """Copy weights that lie in the mapped file to where torch would have put them, one at a time.

    A file puts them at any multiple of eight bytes. Some kernels then round otherwise, so that the same weights in two
    files would not draw quite the same picture.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
    return model


def _converted(name: str, model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that the library's own class has for them."""
    if name == "unet":
        return convert_ldm_unet_checkpoint(tensors, model.config)
    if name == "vae":
        own = {key.removeprefix("vae.").removeprefix("first_stage_model."): tensor for key, tensor in tensors.items()}
        return own if any(".down_blocks." in key for key in own) else convert_ldm_vae_checkpoint(own, model.config)
    if name == "text_encoder_2":
        found = convert_open_clip_checkpoint(model, tensors, prefix=headers.TEXT_ENCODER_2)
    else:
        found = convert_ldm_clip_checkpoint(tensors)
    # Whether transformers keeps the text model in an attribute differs between its releases and its classes.
    wrapped = hasattr(model, "text_model")
    return {key if wrapped else key.removeprefix("text_model."): tensor for key, tensor in found.items()}


def _compare(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Refuse weights of which some are missing, of another shape, or no floating-point numbers."""
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name].shape != found[name].shape:
            problems.append(f"{name} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}")
        elif wanted[name].is_floating_point() and not found[name].is_floating_point():
            problems.append(f"{name} is of whole numbers ({found[name].dtype})")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{'; '.join(problems[:3])}{more}")


def _other_vae(vae: str, config: Path) -> AutoencoderKL:
    """The VAE of ``base.vae``, in float32; one file is of SDXL's configuration, which it does not bring."""
    located = locate(vae, VAE_KEY)
    if isinstance(located, Problem):
        raise ModelError([located])
    if problems := [] if located.kind == "hub" else list(vae_problems(vae)):
        raise ModelError(problems)
    folder = hub.fetch_vae(vae) if located.kind == "hub" else Path(located.path)
    with explained(vae, VAE_KEY, BROKEN):
        if located.kind == "file":
            return _aligned(_from_file(folder, "vae", torch.float32, config, alone=True))
        return _aligned(_from_folder(folder, "vae", torch.float32, None, subfolder=False))


def _scheduler(source: Source, root: Path) -> SchedulerMixin:
    """The scheduler that the model names, predicting what the person or the checkpoint says."""
    facts = read_object(root / "scheduler" / "scheduler_config.json")
    kind = str(facts.get("_class_name"))
    found: Any = getattr(diffusers, kind, None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        raise ValueError(f"diffusers has no scheduler {kind!r}")
    if source.kind == "file":
        facts |= _noise_facts(headers.read(Path(source.path)))
    if source.prediction is not None:
        facts["prediction_type"] = source.prediction
    return getattr(diffusers, kind).from_config(facts)


def _noise_facts(header: headers.Header) -> dict[str, Any]:
    """What an SDXL checkpoint says of its noise: the marks v_pred and ztsnr, or modelspec's prediction type."""
    if "v_pred" not in header.shapes and headers.prediction(header) != "v_prediction":
        return {}
    facts: dict[str, Any] = {"prediction_type": "v_prediction"}
    if "ztsnr" in header.shapes:  # trained to zero terminal SNR: sampling has to start from there
        facts |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return facts
