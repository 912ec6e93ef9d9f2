"""The layers of a picture model that a run adapts, from the configurations of its base alone: no torch, no weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..adapters.settings import size_problems, unmatched
from ..bases import MODEL_KEY
from ..config import Config, Problem
from ..files import read_object
from ..loading import explained
from ..plan import Layer
from ..targets import UNQUANTIZED, matching
from .families.outline import Outline
from .source import Source

_AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class Architecture:
    """A base as its configurations describe it."""

    denoiser: Mapping[str, Any]
    """The denoiser's config.json."""
    outline: Outline
    """What it says of the layers."""
    encoders: Mapping[str, Mapping[str, Any]]
    """The config.json of each text encoder."""


def architecture(source: Source) -> Architecture:
    """What a base consists of; of a hub id what its family does, as far as that is known. Raises ModelError."""
    with explained(f"{source.label}: its configuration", MODEL_KEY, _AGAIN):
        names = (source.family.denoiser, *source.family.encoders)
        configs = {name: read_object(source.config(name) / "config.json") for name in names}
        denoiser = configs.pop(source.family.denoiser)
        return Architecture(denoiser, source.family.outline(denoiser), configs)


def layers(cfg: Config, source: Source, base: Architecture) -> list[Layer]:
    """The layers that ``cfg`` adapts, those of the denoiser first. Raises ModelError."""
    chosen, _ = matching(base.outline.linears, cfg.adapter.targets)
    stored = quantized(cfg, base.outline)

    def layer(path: str, m: int, n: int) -> Layer:
        rank = cfg.adapter.method.size(cfg.adapter, m, n).rank
        packed = path in stored
        storage = cfg.base.quantize if packed else ""
        return Layer(path, m, n, (cfg.adapter.kind, rank), storage, packed, apart=path in base.outline.apart)

    inside = [layer(path, *sides) for path, sides in base.outline.linears.items() if path in chosen]
    return inside + [layer(path, *sides) for path, sides in _of_encoders(cfg, source, base).items()]


def quantized(cfg: Config, outline: Outline) -> set[str]:
    """The linear layers of the denoiser that ``base.quantize`` keeps in fewer bits."""
    if cfg.base.quantize == "none":
        return set()
    return {path for path in outline.linears if not re.search(UNQUANTIZED, path)}


def _of_encoders(cfg: Config, source: Source, base: Architecture) -> dict[str, tuple[int, int]]:
    """The adapted layers of the text encoders and their sides (m, n). Raises ModelError."""
    with explained(f"{source.label}: its configuration", MODEL_KEY, _AGAIN):
        return dict(_sides(cfg, source, base))


def _sides(cfg: Config, source: Source, base: Architecture) -> Iterator[tuple[str, tuple[int, int]]]:
    if cfg.adapter.text_encoders == "none":
        return
    for name, config in base.encoders.items():
        width, wide = config["hidden_size"], config["intermediate_size"]
        sides = {"fc1": (wide, width), "fc2": (width, wide)}
        for path in source.family.encoder_layers(name, config["num_hidden_layers"], cfg.adapter.text_encoders):
            yield f"{name}.{path}", sides.get(path.rpartition(".")[2], (width, width))


def problems(cfg: Config, source: Source) -> list[Problem]:
    """What is wrong with the adapter's settings for the layers of this base. Raises ModelError.

    Of a hub id nothing is said: its configuration is not here.
    """
    if source.kind == "hub":
        return []
    base = architecture(source)
    _, missing = matching(base.outline.linears, cfg.adapter.targets)
    sides = {layer.path: (layer.m, layer.n) for layer in layers(cfg, source, base)}
    return unmatched(base.outline.linears, missing) + size_problems(cfg.adapter, sides)
