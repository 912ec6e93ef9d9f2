"""Families of picture models. A new one is a folder here and a row in :data:`FAMILIES`. No torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...files import Unreadable, read_object
from ..headers import Header, has
from .family import Embedding as Embedding
from .family import Family as Family
from .family import Network as Network
from .family import Objective as Objective
from .family import Place as Place
from .family import Wrong as Wrong
from .sd import SD1, SD2
from .sdxl import SDXL
from .strangers import describe, words_read
from .unet.checks import advice

FAMILIES: dict[str, Family] = {family.name: family for family in (SDXL(), SD1(), SD2())}
"""By the name that a :class:`..source.Source` has."""
DEFAULT = "sdxl"
"""What a hub id is taken for that says nothing of its family, until its index is here."""
ADAPTED: tuple[str, ...] = tuple(
    dict.fromkeys(part for family in FAMILIES.values() for part in (family.denoiser, *family.encoders))
)
"""Every part of every family that adapters go to."""


def of_folder(folder: Path) -> Family | None:
    """The family of a diffusers folder, or of its index and the denoiser's config.json; None for others."""
    try:
        pipeline = read_object(folder / "model_index.json").get("_class_name")
    except Unreadable:
        return None
    return next(iter(_of_class(str(pipeline), lambda part: _config(folder / part))), None)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        return read_object(folder / "config.json")
    except Unreadable:
        return {}  # it is refused for that, whatever its family


def _of_class(pipeline: str, config: Callable[[str], Any]) -> list[Family]:
    """The families of a pipeline's class and of its denoiser's configuration; by the class alone if none has that."""
    same = [family for family in FAMILIES.values() if family.pipeline == pipeline]
    return [family for family in same if family.owns_config(config(family.denoiser))] or same


def of_name(hub_id: str) -> Family:
    """The family that a hub id's name speaks of; for estimates only, since its index says what it is."""
    named = (family for family in FAMILIES.values() if family.hub_names.search(hub_id.lower()))
    return next(named, FAMILIES[DEFAULT])


def of_file(header: Header) -> Family | None:
    """The family of a checkpoint in the original layout."""
    return next((family for family in FAMILIES.values() if family.owns_file(header)), None)


def knows(model: Any) -> bool:
    """Whether this is a pipeline of a family that is known here."""
    return any(family.pipeline == type(model).__name__ for family in FAMILIES.values())


def of_pipeline(pipeline: Any) -> Family:
    """The family of a pipeline, which may lack parts."""
    return _of_class(type(pipeline).__name__, lambda part: getattr(getattr(pipeline, part, None), "config", {}))[0]


def of_adapter_names(header: Header) -> list[Family]:
    """The families that an adapter can be for by its names and shapes; all of them if those do not tell."""
    widths, every = words_read(header), list(FAMILIES.values())
    by_width = [family for family in every if family.words_width in widths]
    return by_width or [family for family in every if has(header.shapes, family.marks)] or every


def titles() -> str:
    """The families that are known here, for a person."""
    *others, last = [family.title for family in FAMILIES.values()]
    return f"{', '.join(others)} or {last}"


def of_adapter(metadata: Any) -> Family:
    """The family that an adapter file of ours says it is for; SDXL where it does not say."""
    said = metadata.get("modelspec.architecture")
    return next((f for f in FAMILIES.values() if f.metadata["modelspec.architecture"] == said), FAMILIES[DEFAULT])


def pipelines() -> str:
    """The pipeline classes that are known here, for a person."""
    return " or ".join(dict.fromkeys(family.pipeline for family in FAMILIES.values()))


def file_problems(header: Header, vae: bool) -> list[Wrong]:
    """What keeps a checkpoint from being a whole one of a known family; ``vae``: whether it must bring a VAE."""
    family = of_file(header)
    return family.file_problems(header, vae) if family else [Wrong(f"is {describe(header)}.", advice(header))]


def prefixes(part: str) -> tuple[str, ...]:
    """What files of any family put before the names of a part's layers."""
    return tuple(dict.fromkeys(p for family in FAMILIES.values() for p in family.prefixes.get(part, ())))


def layer_names(part: str, path: str, config: Any) -> list[str]:
    """Every name of a layer in adapter files; a part of one name has the same names in all families."""
    return next(f for f in FAMILIES.values() if part in f.parts).layer_names(part, path, config)
