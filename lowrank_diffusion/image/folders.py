"""Checks of a diffusers folder on disk, from file names, JSON and safetensors headers; reads no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..bases import MODEL_KEY, PICKLES, outsized
from ..config import Problem
from ..files import read_object
from . import families, headers
from .families import Family

VAE_KEY = "base.vae"
RESAVE = "Save the model again in diffusers with save_pretrained(folder, safe_serialization=True)."


def weight_names(stem: str, variant: str | None) -> tuple[str, str]:
    """The names of one file with all weights, and of the index of several."""
    middle = f".{variant}" if variant else ""
    return f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"


def pipeline_problems(folder: Path, variant: str | None, parts: Iterable[str] | None = None) -> Iterator[Problem]:
    """What keeps a folder from being the pipeline of a known family with safetensors weights; of ``parts``, or all."""
    if not (folder / "model_index.json").is_file():
        yield _not_a_pipeline(folder)
        return
    try:
        index = read_object(folder / "model_index.json")
    except ValueError as error:
        yield Problem(MODEL_KEY, f"{folder / 'model_index.json'} {error}", "Download it again.")
        return
    family = families.of_folder(folder)
    if family is None:
        rule = f"{folder} is of class {index.get('_class_name')}, not {families.pipelines()}."
        yield Problem(MODEL_KEY, rule, "Give a plain text-to-image model of those.")
        return
    for name in family.parts if parts is None else parts:
        yield from _part_problems(family, folder / name, index.get(name), variant)


def vae_problems(folder: Path, family: Family) -> Iterator[Problem]:
    """What keeps a folder from being a VAE that a base of ``family`` can use."""
    if (folder / "model_index.json").is_file():
        yield Problem(VAE_KEY, f"{folder} is a whole pipeline.", f"Give the VAE alone, such as {folder / 'vae'}.")
    elif not (folder / "config.json").is_file():
        yield Problem(
            VAE_KEY, f"{folder} has no config.json.", "Give a folder that AutoencoderKL.save_pretrained wrote."
        )
    else:
        yield from _config_problems(family, folder, "vae", VAE_KEY)
        yield from _weight_problems(folder, family.parts["vae"].stem, None, VAE_KEY)


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
            f"Give a folder that save_pretrained of {families.pipelines()} wrote.",
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


def _part_problems(family: Family, folder: Path, entry: object, variant: str | None) -> Iterator[Problem]:
    """The problems of one component; ``entry`` is its [library, class] of model_index.json."""
    name, part, title = folder.name, family.parts[folder.name], family.title
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if kind is None:
        rule = f"{folder.parent} has no {name} in its model_index.json."
        yield Problem(MODEL_KEY, rule, f"Give a complete {title}.")
    elif part.classes and kind not in part.classes:
        yield Problem(MODEL_KEY, f"{folder} is of class {kind}, not {part.classes[0]}.", f"Give a plain {title}.")
    elif not folder.is_dir():
        yield Problem(MODEL_KEY, f"{folder} is missing.", "Download or copy the model again.")
    elif part.stem:
        yield from _config_problems(family, folder, name, MODEL_KEY)
        yield from _weight_problems(folder, part.stem, variant, MODEL_KEY)
    elif name == "scheduler":
        yield from _scheduler_problems(family, folder, str(kind))
    elif not (folder / "tokenizer.json").is_file():
        yield from _missing(folder, "vocab.json", "merges.txt")


def _missing(folder: Path, *names: str) -> Iterator[Problem]:
    for name in names:
        if not (folder / name).is_file():
            yield Problem(MODEL_KEY, f"{folder / name} is missing.", "Download or copy the model again.")


def _scheduler_problems(family: Family, folder: Path, indexed: str) -> Iterator[Problem]:
    """What tells that the model was trained on other noise than the family's, or predicts something else."""
    path = folder / "scheduler_config.json"
    if not path.is_file():
        yield from _missing(folder, path.name)
        return
    try:
        config = read_object(path)
    except ValueError as error:
        yield Problem(MODEL_KEY, f"{path} {error}", "Download or copy the model again.")
        return
    kinds = list(dict.fromkeys((indexed, str(config.get("_class_name", indexed)))))
    if said := family.scheduler_problems(kinds, config):
        rule = f"{path}: the scheduler {' and '.join(said)}, not {family.noise}."
        yield Problem(MODEL_KEY, rule, f"Give a plain {family.title}.")


def _config_problems(family: Family, folder: Path, name: str, key: str) -> Iterator[Problem]:
    """Whether the part has the architecture that the family expects of it."""
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
    classes = family.parts[name].classes
    if kinds and not set(kinds) & set(classes):
        yield Problem(key, f"{folder} is of class {kinds[0]}, not {classes[0]}.", f"Give a plain {family.title}'s.")
    elif wrong := family.config_problem(name, config, alone=key == VAE_KEY):
        yield Problem(key, f"{folder} {wrong.what}", wrong.advice)


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
        reason = (
            f"names {bad[0]!r}, which is not a .safetensors file beside it." if bad else "is not an index of weights."
        )
        yield Problem(key, f"{index} {reason}", "Download or copy the model again.")
        return
    for name in names:
        if (index.parent / name).is_file():
            yield from _header_problems(index.parent / name, key)
        else:
            yield Problem(key, f"{index.parent / name} is missing; {index.name} names it.", "Download it again.")


def _header_problems(path: Path, key: str) -> Iterator[Problem]:
    try:
        faults = headers.quantised_problems(headers.read(path))
    except headers.HeaderError as error:
        yield Problem(key, f"{path} {error}")
        return
    for looks, advice in faults:
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
