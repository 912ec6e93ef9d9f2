"""Which adapted layers can be fused, and which of them read the same input, and so can be one product."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from torch import nn

from .adapters import NAME, AdaptedLayer
from .quantize import QuantizedLinear
from .targets import SHARED


def obstacle(layers: list[AdaptedLayer]) -> str:
    """Why these layers cannot be fused, whatever the settings; empty if they can."""
    for layer in layers:
        if type(layer.base) not in (nn.Linear, QuantizedLinear):
            return f"{layer.path} is a {type(layer.base).__name__}, not a plain linear layer"
    return ""


def kind_of(layer: AdaptedLayer) -> tuple[Any, ...]:
    """What layers of one product have in common: the kind of adapter, the rank of its plain pair, and its shape."""
    return layer.kind.name, *layer.kind.shape(layer.module, NAME)


def units_of(model: nn.Module, layers: list[AdaptedLayer]) -> list[list[AdaptedLayer]]:
    """``layers`` in units, by their names: siblings of :data:`SHARED` with inputs of one width and the same adapter."""
    found: dict[Any, list[AdaptedLayer]] = defaultdict(list)
    for layer in layers:
        parent, _, name = layer.path.rpartition(".")
        family = next((names for names in SHARED if name in names), None)
        # In cross-attention the queries come from somewhere else.
        if family is None or (name == "to_q" and getattr(model.get_submodule(parent), "is_cross_attention", False)):
            found[layer.path].append(layer)
        else:
            found[parent, family, layer.base.in_features, layer.base.weight.dtype, kind_of(layer)].append(layer)
    for key, unit in found.items():
        if isinstance(key, tuple):
            unit.sort(key=lambda layer, names=key[1]: names.index(layer.path.rpartition(".")[2]))
    return list(found.values())


def groups_of(model: nn.Module, layers: list[AdaptedLayer]) -> list[list[list[AdaptedLayer]]]:
    """Units of one shape together. Their order numbers the units, and so decides how each is perturbed."""
    found: dict[Any, list[list[AdaptedLayer]]] = defaultdict(list)
    for unit in units_of(model, layers):
        bases = [layer.base for layer in unit]
        sides = ((base.out_features, base.in_features) for base in bases)
        found[(*sides, bases[0].weight.dtype, kind_of(unit[0]))].append(unit)
    return list(found.values())


@dataclass(frozen=True)
class Place:
    """Where a layer's weight stands among those of all units; its perturbation is a function of it."""

    unit: int
    """Number of its unit."""
    before: int
    """Elements of the unit's weight that stand before its own."""


def places_of(model: nn.Module, layers: list[AdaptedLayer]) -> list[Place]:
    """The place of every layer, in the order of ``layers``."""
    found: dict[str, Place] = {}
    for number, unit in enumerate(unit for group in groups_of(model, layers) for unit in group):
        before = 0
        for layer in unit:
            found[layer.path] = Place(number, before)
            before += layer.base.out_features * layer.base.in_features
    return [found[layer.path] for layer in layers]
