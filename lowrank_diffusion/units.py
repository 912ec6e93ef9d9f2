"""The adapted layers of a model as :mod:`.plan` sees them, and the units and groups that it makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from . import plan
from .adapters import NAME, AdaptedLayer
from .quantize import QuantizedLinear


def described(model: nn.Module, layers: Iterable[AdaptedLayer]) -> list[plan.Layer]:
    """The facts of ``layers``, in their order."""
    return [_described(model, layer) for layer in layers]


def _described(model: nn.Module, layer: AdaptedLayer) -> plan.Layer:
    base: Any = layer.base
    parent, _, name = layer.path.rpartition(".")
    # In cross-attention the queries come from somewhere else.
    apart = name == "to_q" and bool(getattr(model.get_submodule(parent), "is_cross_attention", False))
    plain = type(base) in (nn.Linear, QuantizedLinear)
    return plan.Layer(
        path=layer.path,
        m=getattr(base, "out_features", 0),
        n=getattr(base, "in_features", 0),  # what is not linear may have none, and is not fused
        adapter=(layer.kind.name, *layer.kind.shape(layer.module, NAME)),
        storage=str(base.weight.dtype),
        quantized=isinstance(base, QuantizedLinear),
        apart=apart,
        other_class="" if plain else type(base).__name__,
    )


def groups_of(model: nn.Module, layers: list[AdaptedLayer]) -> list[list[list[AdaptedLayer]]]:
    """:func:`.plan.groups_of` of the layers themselves."""
    by_path = {layer.path: layer for layer in layers}
    groups = plan.groups_of(described(model, layers))
    return [[[by_path[layer.path] for layer in unit] for unit in group] for group in groups]


@dataclass(frozen=True)
class Place:
    """Where a layer's weight stands among those of all units; its perturbation is a function of it."""

    unit: int
    """Number of its unit."""
    before: int
    """Elements of the unit's weight that stand before its own."""


def places_of(model: nn.Module, layers: list[AdaptedLayer]) -> list[Place]:
    """The place of every layer, in the order of ``layers``."""
    places: dict[str, Place] = {}
    units = (unit for group in plan.groups_of(described(model, layers)) for unit in group)
    for number, unit in enumerate(units):
        before = 0
        for layer in unit:
            places[layer.path] = Place(number, before)
            before += layer.m * layer.n
    return [places[layer.path] for layer in layers]
