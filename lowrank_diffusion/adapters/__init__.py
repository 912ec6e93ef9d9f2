"""Adapters of every kind: what they are (without torch), and how they come onto a model (``layers``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .layers import NAME as NAME
    from .layers import AdaptedLayer as AdaptedLayer
    from .layers import AdapterError as AdapterError
    from .layers import adapted_layers as adapted_layers
    from .layers import attach as attach
    from .layers import check_sizes as check_sizes
    from .layers import disabled as disabled
    from .layers import load as load
    from .layers import matching_layers as matching_layers
    from .layers import native as native
    from .layers import trainable as trainable
    from .layers import unload as unload

_OF_LAYERS = {
    "NAME", "AdaptedLayer", "AdapterError", "adapted_layers", "attach", "check_sizes", "disabled", "load",
    "matching_layers", "native", "trainable", "unload",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """What needs torch, which the page and the command line start without, when it is first asked for."""
    if name not in _OF_LAYERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".layers", __name__), name)
