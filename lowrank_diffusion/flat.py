"""Flat-LoRA (arXiv 2409.14396): train the adapter at randomly perturbed weights, to end in a flat minimum.

For one optimiser step every adapted layer acts with W + eps in place of its frozen W, where row i of eps is drawn from
N(0, (sigma_t^2 / n) |W'_i|^2 I) and W' = W + B A is the merged weight. The draw is a function of (seed, step, layer):
it is the same in every forward pass of the step, and is made again in the backward pass instead of being kept. The
base weight is only read, so it works in any precision, and an exception leaves nothing to repair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from . import seeds
from .adapters import AdaptedLayer
from .factors import merged_row_norms, row_norms_squared
from .quantize import remade_linear


@dataclass(frozen=True)
class Draw:
    """What eps of one layer at one step is regenerated from."""

    number: int
    """Seed of the layer's generator."""
    scale: Tensor
    """Standard deviation of each row of eps, (m,)."""


def sigma_at(sigma: float, step: int, steps: int) -> float:
    """Perturbation strength at ``step`` of ``steps``: a half cosine from 0 to sigma."""
    return sigma * (1 - math.cos(math.pi * step / steps)) / 2


def noise(draw: Draw, weight: Tensor) -> Tensor:
    """eps of one layer: (m, n), in float32 (float64 where the weight is), on the weight's device."""
    dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else torch.float32
    generator = torch.Generator(weight.device).manual_seed(draw.number)
    normal = torch.randn(weight.shape, generator=generator, dtype=dtype, device=weight.device)
    return normal.mul_(draw.scale.to(dtype)[:, None])


def noisy_weight(weight: Tensor, draw: Draw, dtype: torch.dtype) -> Tensor:
    """W + eps in a new tensor of ``dtype``: (m, n). The sum is rounded once."""
    return noise(draw, weight).add_(weight).to(dtype)


class Flat:
    """Flat-LoRA over the adapted layers of a model.

    Args:
        layers: what :func:`lowrank_diffusion.adapters.attach` returned.
        sigma: strength at the end of the run; 0 perturbs nothing.
        steps: T, the optimiser steps of the whole run.
        seed: the run's.
    """

    def __init__(self, layers: list[AdaptedLayer], sigma: float, steps: int, seed: int):
        self.layers, self.sigma, self.steps, self.seed = layers, sigma, steps, seed

    @cached_property
    def _norms(self) -> list[Tensor]:
        """|W_i|^2 of every layer, once: W is frozen. The fused step has its own and never asks."""
        return [row_norms_squared(layer.base_weight()) for layer in self.layers]

    @torch.no_grad()
    def draws(self, step: int) -> list[Draw]:
        """One draw per layer for ``step``, from the adapter as it is now."""
        found = []
        for layer, norms in zip(self.layers, self._norms, strict=True):
            row_norms = merged_row_norms(layer.base_weight(), norms, layer.factors())
            scale = row_norms * (sigma_at(self.sigma, step, self.steps) / math.sqrt(layer.base.in_features))
            found.append(Draw(seeds.number(self.seed, step, f"flat {layer.path}"), scale))
        return found

    @contextmanager
    def perturbed(self, step: int) -> Iterator[None]:
        """Perturb for the forward *and* backward passes of one optimiser step.

        Backward must be inside too: gradient checkpointing runs forward again there.
        """
        if sigma_at(self.sigma, step, self.steps) == 0:
            yield
            return
        with ExitStack() as stack:
            for layer, draw in zip(self.layers, self.draws(step), strict=True):
                stack.enter_context(_replaced_forward(layer, draw))
            yield


@contextmanager
def _replaced_forward(layer: AdaptedLayer, draw: Draw) -> Iterator[None]:
    base: Any = layer.base
    before = base.__dict__.get("forward")

    def forward(x: Tensor) -> Tensor:
        return remade_linear(x, base.bias, lambda dtype: noisy_weight(layer.base_weight(), draw, dtype))

    base.forward = forward
    try:
        yield
    finally:
        if before is None:
            del base.forward
        else:
            base.forward = before
