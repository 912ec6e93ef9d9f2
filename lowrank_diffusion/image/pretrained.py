"""Finding a model of transformers that looks at pictures: a folder or a hub id, safetensors only, of a known kind."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from .. import bases, tensor_files
from ..bases import ModelError
from ..config import Problem
from ..files import MB, Unreadable, read_object
from ..hub import explained as hub_explained

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Wanted:
    """What kind of model is asked for, and how errors speak of it."""

    key: str
    """The option that names it."""
    kinds: Collection[str]
    """Types of transformers' models."""
    accepted: str
    """What can be given, as a sentence."""

    def problem(self, rule: str, advice: str = "") -> ModelError:
        """An error about the model."""
        return ModelError([Problem(self.key, rule, advice or self.accepted)])


def find(where: str, wanted: Wanted) -> Path:
    """The folder of a model: one on this disk, or one of the hub, fetched if it is not here.

    Raises:
        ModelError: There is none, it is of another kind, or it has no safetensors.
    """
    place = bases.find(where, wanted.key, wanted.accepted)
    if isinstance(place, Problem):
        raise ModelError([place])
    if place.kind == "file":
        raise wanted.problem(f"{place.path} is one file.")
    folder = Path(place.path) if place.kind == "folder" else _fetch(place.path, wanted)
    kind(folder, where, wanted)
    if not any(folder.glob("*.safetensors")):
        raise wanted.problem(f"{where} has no .safetensors files.", "Save it with save_pretrained.")
    return folder


def _fetch(hub_id: str, wanted: Wanted) -> Path:
    """The configuration comes first, so that another kind is refused before its weights arrive."""
    with hub_explained(hub_id, None, wanted.key, ("has no config.json.", wanted.accepted)):
        kind(Path(hf_hub_download(hub_id, "config.json")).parent, hub_id, wanted)
        return Path(snapshot_download(hub_id, allow_patterns=list(_FILES)))


def kind(folder: Path, where: str, wanted: Wanted) -> str:
    """The type of the model in a folder, once its files are sound and it is of a kind that is wanted.

    Raises:
        ModelError: it is not.
    """
    try:
        config = read_object(folder / "config.json", MB)
        model_type = str(config["model_type"])
        for weights in folder.glob("*.safetensors"):
            tensor_files.read(weights)
    except (Unreadable, KeyError):
        raise wanted.problem(f"{where} has no config.json that names a model_type.") from None
    except tensor_files.HeaderError as error:
        raise ModelError([Problem(wanted.key, f"{where}: its weights' file {error}")]) from None
    if model_type not in wanted.kinds:
        raise wanted.problem(f"{where} is a {model_type[:40]}, which is not known here.")
    if reason := bases.outsized(config):
        raise wanted.problem(f"{where} has a config.json of no model: {reason}.", "Download it again.")
    return model_type
