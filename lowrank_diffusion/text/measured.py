"""A run's base on its device, with the rows that its losses are of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import adapters, singular
from ..config import Config
from ..evaluations import LayerSpectrum
from ..factors import Factors
from ..weight_noise import Pairs, weight_of
from . import metrics
from .dataset import dataset
from .encode import pad_id
from .model import Base

Progress = Callable[[str, int, int], None]
_PREFIX = "base_model.model."
"""What PEFT puts before a layer's path."""


class Measured:
    """See above.

    Args:
        cfg: The run's settings.
        most: At most so many rows, of those that are held out, or else of those that are trained on.

    Raises:
        DataError, ConfigError, ModelError: the rows or the base cannot be used.
    """

    def __init__(self, cfg: Config, device: torch.device, dtype: torch.dtype, most: int, progress: Progress):
        base = Base.of(cfg.base, device, dtype)
        progress("Reading the rows", 0, 1)
        tokenizer = base.tokenizer(cfg.text.template)
        data = dataset(cfg, tokenizer)
        self.held_out = bool(data.held_out)
        self.examples = (data.held_out or data.train)[:most]
        self._pad, self._tokens = pad_id(tokenizer), cfg.train.batch * cfg.text.length
        progress("Loading the model", 0, 1)
        self.model: Any = base.model()

    def loss(self) -> float:
        """Mean cross entropy of the rows' targets, nats a token."""
        return metrics.token_loss(self.model, self.examples, self._pad, self._tokens)

    def pairs(self, folder: Path) -> Pairs:
        """The updates of a PEFT folder's adapter by layer, whatever its kind. Raises AdapterError."""
        return pairs_of(self.model, folder)

    def layers(self, paths: Sequence[str]) -> dict[str, nn.Linear]:
        """The layers of those names, in the order of the model."""
        wanted = set(paths)
        return {path: layer for path, layer in self.model.named_modules() if path in wanted}


def pairs_of(model: Any, folder: Path) -> dict[str, Factors]:
    """The updates of a PEFT folder's adapter as plain pairs by layer; the model is left as it was.

    Raises:
        AdapterError: it cannot be read, or is for another base.
    """
    adapted = adapters.load(model, folder)
    try:
        return {
            layer.path.removeprefix(_PREFIX): Factors(*(tensor.detach().clone() for tensor in layer.factors()))
            for layer in adapters.adapted_layers(adapted)
        }
    finally:
        adapters.unload(adapted)


def updates(
    model: Any, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[LayerSpectrum]:
    """What a PEFT folder's adapter adds to the layers of ``model``, in its order. Raises AdapterError.

    ``progress``: layers done and to do; may raise to give up.
    """
    pairs, rows = pairs_of(model, folder), []
    for path, layer in ((path, layer) for path, layer in model.named_modules() if path in pairs):
        progress(len(rows), len(pairs))
        number = re.search(r"\.(\d+)\.", path)
        block = f"layer {number[1]}" if number else "around the layers"
        rows.append(singular.layer(path, block, path.rpartition(".")[2], pairs[path], weight_of(layer)))
    progress(len(rows), len(pairs))
    return rows
