"""Which parts of a model run compiled code.

Not the whole model: what it repeats is compiled once and used everywhere, in seconds instead of minutes. Compiled code
is kept between runs, where supervisor.py says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def compiled(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """(module, attribute to set while it shall run compiled, the compiled method) for all that ``model`` repeats."""
    torch._dynamo.config.recompile_limit = 64  # resnets come in many shapes
    return [
        (module, place, torch.compile(_shaped(getattr(module, name), name), dynamic=False))
        for module, name, place in repeated(model)
    ]


def _shaped(method: Any, name: str) -> Any:
    """The method, or one that leaves a stack of blocks in the layout in which convolutions run."""
    if name != OUT:
        return method
    return lambda *args, **kwargs: method(*args, **kwargs).contiguous(memory_format=torch.channels_last)


OUT = "_get_output_for_continuous_inputs"
LAST_NORM = "conv_norm_out"
"""A convolutional model's only norm outside such parts. Uncompiled it turns the layout around, twice."""
METHODS = {"Transformer2DModel": ("_operate_on_continuous_inputs", OUT)}
"""Ways into and out of a stack of blocks: a norm, a turned layout and a projection, by the names of their classes."""


def repeated(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(module, method, attribute that replaces it) of what a model repeats: compiled once, used everywhere."""
    blocks = getattr(model, "_repeated_blocks", None) or getattr(model, "_no_split_modules", None) or ()
    for path, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("ResnetBlock2D", *blocks) or path.rpartition(".")[2] == LAST_NORM:
            yield module, "_call_impl", "_compiled_call_impl"
        for name in METHODS.get(kind, ()):
            if hasattr(module, name):
                yield module, name, name
