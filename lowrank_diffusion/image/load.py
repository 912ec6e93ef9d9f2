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
from diffusers import ConfigMixin, SchedulerMixin
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTokenizer

from ..bases import MODEL_KEY, ModelError
from ..config import Problem
from ..files import read_object
from ..loading import explained, no_progress_bar
from . import headers, hub
from .families import Family
from .folders import VAE_KEY
from .source import Source, locate, vae_problems


def broken(family: Family) -> str:
    """What to do with a model that cannot be loaded."""
    return f"Is it a plain {family.title}? If so, download or copy it again."


def identified(source: Source) -> Source:
    """The same with its family, which for a hub id its index tells. Raises ModelError."""
    known = source.kind != "hub" or source.family_name
    return source if known else replace(source, family_name=hub.identify(source).name)


def load_pipeline(source: Source, dtype: torch.dtype, vae: str | None = None, config: Path | None = None) -> Any:
    """The whole pipeline on the CPU, models in eval mode; the VAE in float32 whatever ``dtype``.

    Args:
        source: From ``resolve``.
        dtype: Of the denoiser and the text encoders.
        vae: Folder, file or hub id of another VAE.
        config: Component configurations for one file, which brings none; its family's by default.

    Raises:
        ModelError: A component is missing, broken or of another architecture, or the hub does not give it.
    """
    source = identified(source)
    source = _local(source, [name for name in source.family.parts if name != "vae" or vae is None])
    parts = {name: load_part(source, name, dtype, vae, config) for name in source.family.parts}
    with explained(source.label, MODEL_KEY, broken(source.family)):
        index = read_object(_config(source, "", config) / "model_index.json")
        return source.family.network().pipeline(parts, index)


def load_part(
    source: Source, name: str, dtype: torch.dtype, vae: str | None = None, config: Path | None = None
) -> Any:  # fmt: skip
    """One component (a name of its family's ``parts``), without reading the weights of the others.

    ``dtype`` is that of the denoiser and the text encoders; the VAE is always float32. The other arguments and what
    is raised are those of ``load_pipeline``.
    """
    source = identified(source)
    if name == "vae" and vae is not None:
        return _other_vae(vae, source.family, config)
    source = _local(source, [name])
    place = _config(source, name, config)
    dtype = torch.float32 if name == "vae" else dtype
    with explained(f"{source.label}: its {name}", MODEL_KEY, broken(source.family)):
        if name == "scheduler":
            return _scheduler(source, place)
        if name in source.family.tokenizers:
            return CLIPTokenizer.from_pretrained(str(place), local_files_only=True)
        if source.kind == "file":
            return _aligned(_from_file(Path(source.path), source.family, name, dtype, place))
        return _aligned(_from_folder(place, source.family, name, dtype, source.variant))


def load_config(source: Source, name: str) -> dict[str, Any]:
    """The configuration of one component, without its weights. Raises ModelError."""
    source = _local(identified(source), [name])
    with explained(f"{source.label}: {name}/config.json", MODEL_KEY, broken(source.family)):
        return read_object(source.config(name) / "config.json")


def _config(source: Source, name: str, config: Path | None) -> Path:
    """The folder with one component's configuration."""
    return config / name if config and source.kind == "file" else source.config(name)


def _local(source: Source, parts: list[str]) -> Source:
    """The same model on this disk."""
    if source.kind != "hub":
        return source
    return replace(source, kind="folder", path=str(hub.fetch_pipeline(source, parts)))


def _from_folder(folder: Path, family: Family, name: str, dtype: torch.dtype, variant: str | None) -> Any:
    """A model in diffusers' layout; every weight must be there, none is made up."""
    # Without a dtype transformers would take the config's.
    with no_progress_bar():
        model, info = (
            family.network()
            .classes[name]
            .from_pretrained(
                str(folder),
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        )
    wrong = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
    if wrong:
        raise ValueError(f"{len(wrong)} weights are missing or of another shape: {', '.join(wrong[:3])}")
    return model


def _from_file(
    path: Path, family: Family, name: str, dtype: torch.dtype, config: Path, alone: bool = False
) -> Any:  # fmt: skip
    """A model in the original layout; only its own tensors are read, and each of its weights must be there.

    ``config`` is the folder with its configuration. ``alone``: the file holds nothing else, so that names may go
    without the prefix, and may be diffusers' own.
    """
    model = empty(family, name, config)
    prefix = "" if alone else family.file_prefix(name)
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}
    tensors = family.network().converted(name, model, tensors)
    wanted = model.state_dict()
    _compare(wanted, tensors)
    # Checkpoints that other tools saved carry extras, such as a projection that the first text encoder never uses.
    model.load_state_dict({key: tensors[key].to(dtype) for key in wanted}, assign=True)
    return model.eval()


def empty(family: Family, name: str, config: Path) -> Any:
    """A model without its weights; ``config`` is the folder with its configuration."""
    kind: Any = family.network().classes[name]
    if issubclass(kind, ConfigMixin):
        with init_empty_weights():
            return kind.from_config(kind.load_config(str(config), local_files_only=True))  # type: ignore[arg-type]
    facts = kind.config_class.from_pretrained(str(config), local_files_only=True)
    with init_empty_weights():
        return kind(facts)


def _aligned(model: Any) -> Any:
    """Copy weights that lie in the mapped file to where torch would have put them, one at a time.

    A file puts them at any multiple of eight bytes. Some kernels then round otherwise, so that the same weights in two
    files would not draw quite the same picture.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
    return model


def _compare(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Refuse weights if some are missing, have another shape, or are not floating-point numbers."""
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - given.keys())]
    for name in sorted(wanted.keys() & given.keys()):
        if wanted[name].shape != given[name].shape:
            problems.append(f"{name} is {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}")
        elif wanted[name].is_floating_point() and not given[name].is_floating_point():
            problems.append(f"{name} is of whole numbers ({given[name].dtype})")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{'; '.join(problems[:3])}{more}")


def _other_vae(vae: str, family: Family, config: Path | None) -> Any:
    """The VAE of ``base.vae``, in float32; one file is of the family's configuration, which it does not bring."""
    located = locate(vae, VAE_KEY)
    if isinstance(located, Problem):
        raise ModelError([located])
    if problems := [] if located.kind == "hub" else list(vae_problems(vae, family)):
        raise ModelError(problems)
    folder = hub.fetch_vae(vae, family) if located.kind == "hub" else Path(located.path)
    with explained(vae, VAE_KEY, broken(family)):
        if located.kind == "file":
            place = config / "vae" if config else family.config("vae")
            return _aligned(_from_file(folder, family, "vae", torch.float32, place, alone=True))
        return _aligned(_from_folder(folder, family, "vae", torch.float32, None))


def _scheduler(source: Source, folder: Path) -> SchedulerMixin:
    """The scheduler that the model names, predicting what the person or the checkpoint says."""
    facts = read_object(folder / "scheduler_config.json")
    kind = str(facts.get("_class_name"))
    scheduler: Any = getattr(diffusers, kind, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise ValueError(f"diffusers has no scheduler {kind!r}")
    if source.kind == "file":
        facts |= source.family.scheduler_facts(headers.read(Path(source.path)))
    if source.prediction is not None:
        facts["prediction_type"] = source.prediction
    return getattr(diffusers, kind).from_config(facts)
