"""Models on the hub: fetch exactly the files that a component needs, and say plainly what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from ..bases import MODEL_KEY, ModelError
from ..config import Problem
from ..hub import explained
from . import families, folders
from .families import Family
from .folders import VAE_KEY
from .source import Source

_CONFIGS = ("*.json", "*.txt")
MISSING = ("has no model_index.json.", "Download its .safetensors file and give that, or another id.")


def identify(source: Source) -> Family:
    """The family of a hub model, from its index and the configuration of its denoiser, which are downloaded.

    Raises:
        ModelError: The hub cannot be reached, or the model is not there, not open to us or of no known family.
    """
    with explained(source.path, source.revision, MODEL_KEY, MISSING):
        folder = Path(hf_hub_download(source.path, "model_index.json", revision=source.revision)).parent
    family = families.of_folder(folder)
    if family is None:
        _refuse(folders.pipeline_problems(folder, source.variant, ()), folder, source.path)
        raise ModelError([Problem(MODEL_KEY, f"{source.path} is of no known family.", "Give another id.")])
    folder = _fetch(source.path, source.revision, ["model_index.json", f"{family.denoiser}/config.json"], MODEL_KEY)
    return families.of_folder(folder) or family


def fetch_pipeline(source: Source, parts: Iterable[str]) -> Path:
    """The local folder with these components of a hub model: downloaded where the hub's cache lacks them.

    The index comes first and alone, so that a model of another kind is refused before gigabytes of it arrive.

    Raises:
        ModelError: as :func:`identify`, and where a component is not a plain one.
    """
    family = source.family if source.family_name else identify(source)
    wanted = ["model_index.json", f"{family.denoiser}/config.json"]
    for name in parts:
        stem = family.parts[name].stem
        files = _weights(stem, source.variant) if stem else _CONFIGS
        wanted += [f"{name}/{file}" for file in ("*config.json", *files)]
    folder = _fetch(source.path, source.revision, wanted, MODEL_KEY)
    _refuse(folders.pipeline_problems(folder, source.variant, parts), folder, source.path)
    return folder


def fetch_vae(hub_id: str, family: Family) -> Path:
    """The local folder of a VAE on the hub. Raises ModelError."""
    folder = _fetch(hub_id, None, ["config.json", *_weights(family.parts["vae"].stem, None)], VAE_KEY)
    _refuse(folders.vae_problems(folder, family), folder, hub_id)
    return folder


def _weights(stem: str, variant: str | None) -> tuple[str, ...]:
    """Patterns of the weight files of one variant and of no other."""
    middle = f".{variant}" if variant else ""
    return (*folders.weight_names(stem, variant), f"{stem}{middle}-*-of-?????.safetensors")


def _fetch(hub_id: str, revision: str | None, wanted: list[str], key: str) -> Path:
    with explained(hub_id, revision, key, MISSING):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))


def _refuse(problems: Iterator[Problem], folder: Path, hub_id: str) -> None:
    """Raise what is wrong, under the name that the person gave and not that of a folder in the hub's cache."""
    if refused := list(problems):
        raise ModelError([replace(problem, rule=problem.rule.replace(str(folder), hub_id)) for problem in refused])
