"""Checks of a diffusers folder on disk, from file names, JSON and safetensors headers; reads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..bases import MODEL_KEY, PICKLES, outsized
from ..config import Problem
from ..files import read_object
from . import headers

PIPELINE = "StableDiffusionXLPipeline"
VAE_KEY = "base.vae"
RESAVE = "Save the model again in diffusers with save_pretrained(folder, safe_serialization=True)."


@dataclass(frozen=True)
class Part:
    """A component of the pipeline: the classes it may have, and the stem of its weight files (empty: none)."""

    classes: tuple[str, ...]
    stem: str = ""


PARTS = {
    "scheduler": Part(()),
    "text_encoder": Part(("CLIPTextModel",), "model"),
    "text_encoder_2": Part(("CLIPTextModelWithProjection",), "model"),
    "tokenizer": Part(("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": Part(("CLIPTokenizer", "CLIPTokenizerFast")),
    "unet": Part(("UNet2DConditionModel",), "diffusion_pytorch_model"),
    "vae": Part(("AutoencoderKL",), "diffusion_pytorch_model"),
}


DDPM_NOISE = tuple(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE",
        "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
        "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
    )
)  # fmt: skip
"""Schedulers that differ in how they draw only: the noise that a model learns from is DDPM's with all of them."""
_OTHER_NOISE = {"use_flow_sigmas": (True,), "timestep_type": ("continuous",)}
"""Settings by which one of these draws from a model of another noise: flow matching, EDM."""
_SD_SCALING = 0.18215
"""What Stable Diffusion 1 and 2 multiply latents by, and diffusers where a configuration does not say."""


def weight_names(stem: str, variant: str | None) -> tuple[str, str]:
    """The names of one file with all weights, and of the index of several."""
    middle = f".{variant}" if variant else ""
    return f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"


def pipeline_problems(folder: Path, variant: str | None, parts: Iterable[str] = PARTS) -> Iterator[Problem]:
    """What keeps a folder from being a plain SDXL pipeline with safetensors weights."""
    if not (folder / "model_index.json").is_file():
        yield _not_a_pipeline(folder)
        return
    try:
        index = read_object(folder / "model_index.json")
    except ValueError as error:
        yield Problem(MODEL_KEY, f"{folder / 'model_index.json'} {error}", "Download it again.")
        return
    kind = index.get("_class_name")
    if kind != PIPELINE:
        yield Problem(MODEL_KEY, f"{folder} is of class {kind}, not {PIPELINE}.", "Give a plain text-to-image SDXL.")
        return
    for name in parts:
        yield from _part_problems(folder / name, name, index.get(name), variant)


def vae_problems(folder: Path) -> Iterator[Problem]:
    """What keeps a folder from being a VAE that an SDXL can use."""
    if (folder / "model_index.json").is_file():
        yield Problem(VAE_KEY, f"{folder} is a whole pipeline.", f"Give the VAE alone, such as {folder / 'vae'}.")
    elif not (folder / "config.json").is_file():
        yield Problem(
            VAE_KEY, f"{folder} has no config.json.", "Give a folder that AutoencoderKL.save_pretrained wrote."
        )
    else:
        yield from _config_problems(folder, "vae", VAE_KEY)
        yield from _weight_problems(folder, PARTS["vae"].stem, None, VAE_KEY)


def _not_a_pipeline(folder: Path) -> Problem:
    """A folder without model_index.json: say what it looks like instead."""
    names = sorted(path.name for path in folder.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if {"adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"} & set(names):
        looks, advice = "holds an adapter, not a base model.", "Give it in the adapter field, and its base here."
    elif "snapshots" in names:
        looks, advice = "is an entry of the hub's cache.", "Give the hub id, or the folder inside its snapshots."
    elif "config.json" in names:
        looks, advice = (
            _bare_model(folder),
            "Give the folder of the whole pipeline, the one with model_index.json.",
        )
    elif len(weights) == 1:
        looks, advice = "is not a diffusers folder.", f"Give the file in it: {folder / weights[0]}"
    elif weights:
        looks, advice = (
            f"holds {len(weights)} .safetensors files ({', '.join(weights[:3])}{', ...' * (len(weights) > 3)}).",
            "Give one of them.",
        )
    elif pickles:
        looks, advice = f"holds only pickle checkpoints ({pickles[0]}), which could run any code.", RESAVE
    elif not names:
        looks, advice = "is empty.", "Give a diffusers folder or a .safetensors file."
    else:
        looks, advice = (
            "has no model_index.json.",
            "Give a folder that StableDiffusionXLPipeline.save_pretrained wrote.",
        )
    return Problem(MODEL_KEY, f"{folder} {looks}", advice)


def _bare_model(folder: Path) -> str:
    """What a folder with a lone config.json is."""
    try:
        config = read_object(folder / "config.json")
    except ValueError as error:
        return f"has no model_index.json, and its config.json {error}"
    kind = config.get("_class_name") or ", ".join(config.get("architectures") or ()) or config.get("model_type")
    return f"is one component ({kind or 'of unknown class'}), not a whole pipeline."


def _part_problems(folder: Path, name: str, entry: object, variant: str | None) -> Iterator[Problem]:
    """The problems of one component; ``entry`` is its [library, class] of model_index.json."""
    part = PARTS[name]
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if kind is None:
        yield Problem(MODEL_KEY, f"{folder.parent} has no {name} in its model_index.json.", "Give a complete SDXL.")
    elif part.classes and kind not in part.classes:
        yield Problem(MODEL_KEY, f"{folder} is of class {kind}, not {part.classes[0]}.", "Give a plain SDXL.")
    elif not folder.is_dir():
        yield Problem(MODEL_KEY, f"{folder} is missing.", "Download or copy the model again.")
    elif part.stem:
        yield from _config_problems(folder, name, MODEL_KEY)
        yield from _weight_problems(folder, part.stem, variant, MODEL_KEY)
    elif name == "scheduler":
        yield from _scheduler_problems(folder, str(kind))
    elif not (folder / "tokenizer.json").is_file():
        yield from _missing(folder, "vocab.json", "merges.txt")


def _missing(folder: Path, *names: str) -> Iterator[Problem]:
    for name in names:
        if not (folder / name).is_file():
            yield Problem(MODEL_KEY, f"{folder / name} is missing.", "Download or copy the model again.")


def _scheduler_problems(folder: Path, indexed: str) -> Iterator[Problem]:
    """What tells that the model was trained on noise that is not DDPM's, or predicts neither it nor v."""
    path = folder / "scheduler_config.json"
    if not path.is_file():
        yield from _missing(folder, path.name)
        return
    try:
        facts = read_object(path)
    except ValueError as error:
        yield Problem(MODEL_KEY, f"{path} {error}", "Download or copy the model again.")
        return
    kinds = dict.fromkeys((indexed, str(facts.get("_class_name", indexed))))
    said = [f"is {kind[:60]}" for kind in kinds if kind not in DDPM_NOISE]
    said += [f"has {key}={facts[key]}" for key, odd in _OTHER_NOISE.items() if facts.get(key) in odd]
    said += [f"has {key}" for key in ("sigma_data",) if facts.get(key) is not None]
    prediction = facts.get("prediction_type", "epsilon")
    said += [f"has prediction_type={str(prediction)[:60]}"] if prediction not in ("epsilon", "v_prediction") else []
    if said:
        rule = f"{path}: the scheduler {' and '.join(said)}, not DDPM's noise with epsilon or v_prediction."
        yield Problem(MODEL_KEY, rule, "Give a plain SDXL.")


def _config_problems(folder: Path, name: str, key: str) -> Iterator[Problem]:
    """Is this the architecture that an SDXL has there?"""
    path = folder / "config.json"
    try:
        config = read_object(path)
    except ValueError as error:
        yield Problem(key, f"{path} {error}", "Download or copy the model again.")
        return
    if large := outsized(config):
        yield Problem(key, f"{path} is not that of a model: {large}.", "Download or copy the model again.")
        return
    if config.get("quantization_config"):
        rule = f"{path} has a quantization_config: its weights are quantised already, which is not supported."
        yield Problem(key, rule, "Give the fp16 or bf16 weights of the same model; base.quantize makes them small.")
        return
    kinds = [config["_class_name"]] if "_class_name" in config else config.get("architectures") or []
    if kinds and not set(kinds) & set(PARTS[name].classes):
        yield Problem(key, f"{folder} is of class {kinds[0]}, not {PARTS[name].classes[0]}.", "Give a plain SDXL's.")
    elif name == "unet" and (config.get("in_channels", 4) != 4 or config.get("addition_embed_type") != "text_time"):
        facts = f"in_channels={config.get('in_channels', 4)}, addition_embed_type={config.get('addition_embed_type')}"
        yield Problem(key, f"{folder} is not the UNet of a text-to-image SDXL ({facts}).", "Give a plain SDXL.")
    elif name == "vae" and config.get("latent_channels", 4) != 4:
        yield Problem(
            key, f"{folder} makes {config['latent_channels']} latent channels, SDXL has 4.", "Give an SDXL VAE."
        )
    elif key == VAE_KEY and config.get("scaling_factor", _SD_SCALING) == _SD_SCALING:
        rule = f"{folder} scales latents by {_SD_SCALING}, as Stable Diffusion 1 and 2 do, not SDXL."
        yield Problem(key, rule, "Give an SDXL VAE.")


def _weight_problems(folder: Path, stem: str, variant: str | None, key: str) -> Iterator[Problem]:
    """Are the weights there, whole, and safetensors?"""
    single, index = weight_names(stem, variant)
    if (folder / single).is_file():
        yield from _header_problems(folder / single, key)
    elif (folder / index).is_file():
        yield from _shard_problems(folder / index, key)
    else:
        yield _no_weights(folder, stem, variant, key)


def _shard_problems(index: Path, key: str) -> Iterator[Problem]:
    """An index and the files that it names."""
    try:
        names = sorted(set(read_object(index).get("weight_map", {}).values()))
        bad = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    except (ValueError, TypeError, AttributeError):
        names, bad = [], []
    if bad or not names:
        reason = f"names {bad[0]!r}, which is no .safetensors file beside it." if bad else "is not an index of weights."
        yield Problem(key, f"{index} {reason}", "Download or copy the model again.")
        return
    for name in names:
        if (index.parent / name).is_file():
            yield from _header_problems(index.parent / name, key)
        else:
            yield Problem(key, f"{index.parent / name} is missing; {index.name} names it.", "Download it again.")


def _header_problems(path: Path, key: str) -> Iterator[Problem]:
    try:
        found = headers.quantised_problems(headers.read(path))
    except headers.HeaderError as error:
        yield Problem(key, f"{path} {error}")
        return
    for looks, advice in found:
        yield Problem(key, f"{path} {looks}", advice)


def _no_weights(folder: Path, stem: str, variant: str | None, key: str) -> Problem:
    """Say which weights are there instead."""
    names = sorted(path.name for path in folder.iterdir())
    variants = {match[1] or "" for name in names if (match := _VARIANT.fullmatch(name.removeprefix(stem)))}
    pickles = [name for name in names if name.endswith(PICKLES)]
    wanted = f"{folder} has no {weight_names(stem, variant)[0]}"
    if variants:
        have = sorted(variants)[0]
        rule = f"{wanted}, only {f'the variant {have}' if have else 'weights without a variant'}."
        if key == VAE_KEY:
            return Problem(key, rule, f"Rename the file to {weight_names(stem, None)[0]}.")
        return Problem("base.variant", rule, f"Set base.variant={have}." if have else "Leave base.variant empty.")
    if pickles:
        return Problem(key, f"{folder / pickles[0]} is a pickle, which could run any code: refused.", RESAVE)
    return Problem(key, f"{wanted}.", "Download or copy the model again.")


# What follows the stem: ".fp16.safetensors", ".safetensors.index.fp16.json", or the same without a variant.
_VARIANT = re.compile(r"(?:\.(?!safetensors)([\w-]+))?\.safetensors|\.safetensors\.index(?:\.([\w-]+))?\.json")
