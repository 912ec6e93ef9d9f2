"""The kinds of adapters there are: a row for each, and the values of ``adapter.kind`` are these rows."""

from __future__ import annotations

from .gralora import GraLora
from .kind import Kind
from .lokr import LoKr
from .lora import Lora

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Lora(), GraLora(), LoKr())}
"""By name, in the order in which a person is offered them."""


def foreign(kind: str) -> list[str]:
    """The settings of :class:`.settings.AdapterConfig` that only other kinds have."""
    return [field for other in KINDS.values() if other.name != kind for field in other.fields]
