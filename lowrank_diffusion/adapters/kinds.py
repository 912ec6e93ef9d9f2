"""The kinds of adapters there are: a row for each, and the values of ``adapter.kind`` are these rows."""

from __future__ import annotations

from .gralora import GraLora
from .kind import Kind
from .lokr import LoKr
from .lora import Lora

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Lora(), GraLora(), LoKr())}
"""By name, in the order in which a person is offered them."""
