"""The updates of an adapter file of any program, layer by layer: what they are made of, and where they sit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import singular
from ..errors import AdapterError
from ..evaluations import LayerSpectrum
from . import adapter_files, families, foreign
from .families import Family
from .foreign import Pairs
from .load import empty
from .model import Base

Progress = Callable[[int, int], None]


def of_base(path: Path, base: Base, progress: Progress = lambda done, total: None) -> list[LayerSpectrum]:
    """The updates of an adapter beside the weights that they change.

    Args:
        path: As :func:`.foreign.read` takes it.
        base: Its denoiser is loaded, and the text encoders.
        progress: Layers done and to do; may raise to give up.

    Raises:
        AdapterError, ModelError: not an adapter of this base, or the base cannot be loaded.
    """
    names = (base.family.denoiser, *base.family.encoders)
    models = {name: base.part(name) for name in names}
    return _layers(foreign.read(path, models, base.family), models, base.family, progress)


def alone(path: Path, progress: Progress = lambda done, total: None) -> list[LayerSpectrum]:
    """The same without a base, for an adapter of a real model of a family. Raises AdapterError."""
    every = adapter_files.check(path).families if path.is_file() else list(families.FAMILIES.values())
    refusals = []
    for family in every:
        names = (family.denoiser, *family.encoders)
        models = {name: empty(family, name, family.config(name)) for name in names}
        try:
            return _layers(foreign.read(path, models, family), models, family, progress)
        except AdapterError as error:
            refusals.append(str(error))
    raise AdapterError(f"{refusals[0]} If it is for another base, give that with --base.")


def _layers(pairs: Pairs, models: Mapping[str, Any], family: Family, progress: Progress) -> list[LayerSpectrum]:
    """In the order from the models' inputs to their outputs."""
    places = {}
    for name, own in pairs.items():
        for number, (full, module) in enumerate(models[name].named_modules()):
            path = full.removesuffix(".base_layer")
            if path in own:
                place = family.place(name, path)
                places[name, path] = (place.order, number, place, module.weight)
    rows = []
    for done, ((name, path), (_, _, place, weight)) in enumerate(sorted(places.items(), key=lambda item: item[1][:2])):
        progress(done, len(places))
        rows.append(singular.layer(f"{name}.{path}", place.block, place.kind, pairs[name][path], weight))
    progress(len(places), len(places))
    return rows
