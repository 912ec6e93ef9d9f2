"""The loss of a model under Gaussian weight noise: what rises late stands in a flat minimum (arXiv 2409.14396).

Letters: W (m, n) a layer's frozen weight, B A its adapter's update, W' = W + B A. Row i of the noise is drawn from
N(0, (sigma^2 / n) |W'_i|^2 I), as in Flat-LoRA, but sigma is constant. The standard normals below it are a function of
(seed, draw, layer) alone (noise.py): every sigma and every model that is compared gets the same ones.

No base weight is written: while a loss is measured, each layer's ``forward`` is stood in for by one that reads W + eps,
a tensor of its own (of a quantised layer, made anew at every call), and given back afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import seeds
from .factors import Factors, merged_row_norms, row_norms_squared
from .flat import Draw, noisy_weight, stood_in
from .quantize import QuantizedLinear
from .units import Place

Pairs = Mapping[str, Factors]
"""By the layer's path; a layer without one has no update."""


@dataclass(frozen=True)
class Noise:
    """What is measured."""

    sigmas: tuple[float, ...]
    """Each once."""
    draws: int
    """At each of them; without noise all draws are one."""
    seed: int = 0


@torch.no_grad()
def losses(
    layers: Mapping[str, nn.Linear],
    models: Mapping[str, Pairs],
    loss: Callable[[], float],
    noise: Noise,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[list[float]]]:
    """The loss of every model at every sigma and draw, by the model's name.

    Args:
        layers: The layers that carry noise, by path; the same for all models.
        models: The updates of each model by its name; the base's are empty.
        loss: Measures the model that the layers are in, as it is now.
        noise: Strengths and draws.
        progress: Losses measured and to be measured; may raise to give up.
    """
    each = [(sigma, draw) for sigma in noise.sigmas for draw in range(noise.draws if sigma else 1)]
    curves: dict[str, list[list[float]]] = {}
    for number, (name, pairs) in enumerate(models.items()):
        measured: dict[float, list[float]] = {sigma: [] for sigma in noise.sigmas}
        for done, (sigma, draw) in enumerate(each):
            progress(number * len(each) + done, len(models) * len(each))
            with acting(layers, pairs, sigma, draw, noise.seed):
                measured[sigma].append(loss())
        curves[name] = list(measured.values())
    progress(len(models) * len(each), len(models) * len(each))
    return curves


@contextmanager
def acting(layers: Mapping[str, nn.Linear], pairs: Pairs, sigma: float, draw: int, seed: int) -> Iterator[None]:
    """Inside, every layer acts with W + eps + B A; afterwards the layers are as they were."""
    key = seeds.number(seed, 0, "weight noise")
    with ExitStack() as stack:
        for number, (path, layer) in enumerate(layers.items()):
            pair, device = pairs.get(path), layer.weight.device
            if pair is not None:
                pair = Factors(pair.a.to(device), pair.b.to(device))
            eps = None
            if sigma:
                scale = _row_norms(weight_of(layer), pair) * (sigma / math.sqrt(layer.in_features))
                eps = Draw(key, torch.tensor([draw], device=device), Place(number, 0), scale)
            if pair is not None or eps is not None:
                stack.enter_context(_replaced(layer, pair, eps))
        yield


def weight_of(layer: nn.Linear) -> Tensor:
    """W, (m, n); a quantised one in full precision."""
    return layer.dequantized() if isinstance(layer, QuantizedLinear) else layer.weight


@contextmanager
def _replaced(layer: nn.Linear, pair: Factors | None, eps: Draw | None) -> Iterator[None]:
    base: Any = layer
    own = base.forward
    kept = _noisy(layer, eps) if eps and not isinstance(layer, QuantizedLinear) else None

    def forward(x: Tensor) -> Tensor:
        y = own(x) if eps is None else linear(x, (_noisy(layer, eps) if kept is None else kept).to(x.dtype), layer.bias)
        if pair is None:
            return y
        return y + linear(linear(x.to(pair.a.dtype), pair.a), pair.b).to(y.dtype)

    with stood_in(base, forward):
        yield


def _row_norms(weight: Tensor, pair: Factors | None) -> Tensor:
    """|W'_i|, (m,)."""
    squared = row_norms_squared(weight)
    return squared.sqrt() if pair is None else merged_row_norms(weight, squared, pair)


def _noisy(layer: nn.Linear, draw: Draw) -> Tensor:
    weight = weight_of(layer)
    return noisy_weight(weight, draw, weight.dtype)
