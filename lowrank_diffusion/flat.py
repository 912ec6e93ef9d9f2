"""Flat-LoRA (arXiv 2409.14396): train the adapter at randomly perturbed weights, to end in a flat minimum.

For one optimiser step every adapted layer acts with W + eps in place of its frozen W, where row i of eps is drawn from
N(0, (sigma_t^2 / n) |W'_i|^2 I) and W' = W + B A is the merged weight. The draw is a function of (seed, step, place of
the layer), see noise.py: it is the same in every forward pass of the step and in every way of running a step, and on
every device as nearly as kernels.py says. The base weight is only read, so it works in any precision, and an exception
leaves nothing to repair.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import noise, seeds
from .adapters import AdaptedLayer
from .factors import merged_row_norms, row_norms_squared
from .kernels import perturb_anywhere
from .quantize import remade_linear
from .units import Place, places_of


@dataclass(frozen=True)
class Draw:
    """What eps of one layer at one step is made from, and made again."""

    seed: int
    """As :func:`seed_of` gives it."""
    step: Tensor
    """Number of the optimiser step, (1,) int64."""
    place: Place
    scale: Tensor
    """Standard deviation of each row of eps, (m,)."""


def seed_of(seed: int) -> int:
    """The key of all perturbations of a run with ``seed``."""
    return seeds.number(seed, 0, "flat")


def sigma_at(sigma: float, step: int, steps: int) -> float:
    """Perturbation strength at ``step`` of ``steps``: a half cosine from 0 to sigma."""
    return sigma * (1 - math.cos(math.pi * step / steps)) / 2


def noisy_weight(weight: Tensor, draw: Draw, dtype: torch.dtype) -> Tensor:
    """W + eps in a new tensor of ``dtype``: (m, n). The sum is rounded once."""
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    place = draw.place
    return perturb_anywhere(weight, draw.scale, draw.seed, draw.step, place.unit, out, before=place.before)


def noisy_weights(weights: list[Tensor], draws: list[Draw]) -> list[Tensor]:
    """:func:`noisy_weight` of each, in its own type; several are drawn at once."""
    if len(weights) == 1:
        return [noisy_weight(weights[0], draws[0], weights[0].dtype)]
    scales, places = [draw.scale for draw in draws], [(draw.place.unit, draw.place.before) for draw in draws]
    return noise.perturbed_reference(weights, scales, places, draws[0].seed, draws[0].step)


class Flat:
    """Flat-LoRA over the adapted layers of a model.

    Args:
        model: what holds the layers.
        layers: what :func:`lowrank_diffusion.adapters.attach` returned.
        sigma: strength at the end of the run; 0 perturbs nothing.
        steps: T, the optimiser steps of the whole run.
        seed: the run's.
        keep: keep W + eps for the rest of the step once it is made, for as much memory as the adapted weights take;
            see :func:`.plan.keeps_noise`.
    """

    def __init__(
        self, model: nn.Module, layers: list[AdaptedLayer], sigma: float, steps: int, seed: int, keep: bool = False
    ):  # fmt: skip
        self.model, self.layers, self.sigma, self.steps, self.keep = model, layers, sigma, steps, keep
        self.seed = seed_of(seed)

    @functools.cached_property
    def _places(self) -> list[Place]:
        return places_of(self.model, self.layers)

    @functools.cached_property
    def _norms(self) -> list[Tensor]:
        """|W_i|^2 of every layer, once: W is frozen. The fused step has its own and never asks."""
        return [row_norms_squared(layer.base_weight()) for layer in self.layers]

    @torch.no_grad()
    def draws(self, step: int) -> list[Draw]:
        """One draw per layer for ``step``, from the adapter as it is now."""
        number = torch.tensor([step], device=self.layers[0].base.weight.device)
        strength = sigma_at(self.sigma, step, self.steps)
        draws = []
        for layer, norms, place in zip(self.layers, self._norms, self._places, strict=True):
            row_norms = merged_row_norms(layer.base_weight(), norms, layer.factors())
            scale = row_norms * (strength / math.sqrt(layer.base.in_features))
            draws.append(Draw(self.seed, number, place, scale))
        return draws

    @functools.cached_property
    def _batches(self) -> list[slice]:
        """Layers that are perturbed together where there is no kernel for it; one that is too large is alone."""
        most = noise.at_once(self.layers[0].base.weight.device)
        batches, start, size = [], 0, 0
        for index, layer in enumerate(self.layers):
            elements = layer.base.out_features * layer.base.in_features
            if start < index and size + elements > most:
                batches.append(slice(start, index))
                start, size = index, 0
            size += elements
        return [*batches, slice(start, len(self.layers))]

    @torch.no_grad()
    def _kept(self, draws: list[Draw]) -> list[Tensor]:
        """W + eps of every layer, in the base's type."""
        weights = [layer.base_weight() for layer in self.layers]
        return [made for part in self._batches for made in noisy_weights(weights[part], draws[part])]

    @contextmanager
    def perturbed(self, step: int) -> Iterator[None]:
        """Perturb for the forward *and* backward passes of one optimiser step.

        Backward must be inside too: gradient checkpointing runs forward again there.
        """
        if sigma_at(self.sigma, step, self.steps) == 0:
            yield
            return
        draws = self.draws(step)
        weights = self._kept(draws) if self.keep else [None] * len(draws)
        with ExitStack() as stack:
            for layer, draw, weight in zip(self.layers, draws, weights, strict=True):
                stack.enter_context(_replaced_forward(layer, draw, weight))
            yield


@contextmanager
def _replaced_forward(layer: AdaptedLayer, draw: Draw, noisy: Tensor | None) -> Iterator[None]:
    base: Any = layer.base

    def make(dtype: torch.dtype) -> Tensor:
        return noisy_weight(layer.base_weight(), draw, dtype) if noisy is None else noisy.to(dtype)

    def forward(x: Tensor) -> Tensor:
        return remade_linear(x, base.bias, make)

    with stood_in(base, forward):
        yield


@contextmanager
def stood_in(module: Any, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """``forward`` in the place of the module's own, which is given back whatever happens."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
