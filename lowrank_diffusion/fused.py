"""Adapted layers as the fast step runs them: one low-rank product per input, in the base's precision.

An adapter of any kind is exactly a plain pair A (R, n), B (m, R) with the scaling in B (factors.py), so one forward
serves them all: y = x W^T + b + (x A^T) B^T. Layers that read the same input (queries, keys and values) are one
unit: their weights and A stand below each other, and B has a block for each layer, so that they are one product too.
Units of one shape form a group, whose trainable tensors, working pairs, gradients and base weights are stacks with the
unit as first dimension. Making the working pairs of a step, and bringing their gradients back, is then a handful of
kernels per group, not some per layer, and no layer casts anything.

The stacks replace the storage of what PEFT and the model hold: their parameters become views, with the same bits.
Letters as in factors.py; L is the number of units of a group, P that of layers in a unit, M the sum of their m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import NAME, AdaptedLayer
from .factors import row_norms_squared
from .kernels import perturb_anywhere
from .products import FusedLinear, Unit
from .quantize import QuantizedLinear, dequantize
from .units import groups_of


class Group:
    """Units of one shape and kind.

    Args:
        units: lists of layers, all with the same shapes, dtype and adapter settings.
        dtype: of the working pairs; the base's.
        first: number of the first unit in the model's order of groups, which keys its perturbation.
        noise: "none"; "kept": perturbed weights stay from forward to backward, in a stack of their own, and so they
            cannot where the base is quantised; "redrawn": they are made twice, one unit at a time.
        seed: of the perturbation.
        step: number of the optimiser step, (1,) int64 on the device, which the caller changes in place.
    """

    def __init__(
        self, units: list[list[AdaptedLayer]], dtype: torch.dtype, first: int, noise: str, seed: int, step: Tensor
    ):
        self.units, self.noise, self.seed, self.step = units, noise, seed, step
        self.layers = [layer for unit in units for layer in unit]
        module: Any = self.layers[0].module
        self.scaling = float(module.scaling[NAME])
        self.kind, self.rank = self.layers[0].kind, self.layers[0].kind.shape(module, NAME)[0]
        self.heights, self.width = [layer.base.out_features for layer in units[0]], units[0][0].base.in_features
        places = [(part, name) for part in range(len(self.heights)) for name in self.kind.trained(module, NAME)]
        self.masters = [self._stacked(part, name) for part, name in places]
        self.grads = [torch.zeros_like(master) for master in self.masters]
        for stack, (part, name) in zip(self.grads, places, strict=True):
            for unit, view in zip(units, stack, strict=True):
                self._parameter(unit[part], name).grad = view
        self._make_pairs(dtype)
        self._stack_base(first)

    def _stacked(self, part: int, name: str) -> Tensor:
        """One parameter of the units' layers ``part`` in one tensor (L, ...), which they become views of."""
        parameters = [self._parameter(unit[part], name) for unit in self.units]
        stack = torch.stack([parameter.detach() for parameter in parameters])  # L of (...) -> (L, ...)
        for parameter, view in zip(parameters, stack, strict=True):
            parameter.data = view
        return stack

    def _parameter(self, layer: AdaptedLayer, name: str) -> Any:
        return self.kind.trained(layer.module, NAME)[name]

    def _make_pairs(self, dtype: torch.dtype) -> None:
        """A (L, P R, n), B (L, M, P R) with zeros outside its blocks, and their gradients."""
        count, width = len(self.units), len(self.heights) * self.rank
        self.a = self.masters[0].new_zeros((count, width, self.width), dtype=dtype)  # (L, P R, n)
        self.b = self.masters[0].new_zeros((count, sum(self.heights), width), dtype=dtype)  # (L, M, P R)
        # Leaves of autograd, one pair (P R, n), (M, P R) per unit, that share the stacks' storage.
        pairs = zip(self.a, self.b, strict=True)
        self.leaves = [(a.detach().requires_grad_(), b.detach().requires_grad_()) for a, b in pairs]
        wide = torch.promote_types(dtype, torch.float32)
        self.grad_a, self.grad_b = torch.zeros_like(self.a, dtype=wide), torch.zeros_like(self.b, dtype=wide)

    def _stack_base(self, first: int) -> None:
        """W (L, M, n); with noise |W_i|^2 (L, M), the standard deviations of eps (L, M), and room for W + eps."""
        self.weight = self._below_each_other("weight")
        self.scales = self._below_each_other("scales") if isinstance(self.layers[0].base, QuantizedLinear) else None
        self.biases = [_bias(unit) for unit in self.units]
        if self.noise == "none":
            return
        self.norms = torch.stack([row_norms_squared(weight) for weight in self._weights()])  # L of (M,) -> (L, M)
        self.scale = torch.zeros_like(self.norms, dtype=torch.float32)
        self.numbers = torch.arange(first, first + len(self.units), device=self.weight.device)  # (L,)
        self.noisy = self.weight.clone() if self.noise == "kept" else self.weight

    def _below_each_other(self, name: str) -> Tensor:
        """One tensor of all bases, (L, ...), those of a unit below each other; they become views of it.

        Quantised weights can be stacked as they are: their scales belong to rows, or to blocks of whole rows.
        """
        lengths = [getattr(layer.base, name).shape[0] for layer in self.units[0]]
        like = getattr(self.layers[0].base, name)
        stack = like.new_empty((len(self.units), sum(lengths), *like.shape[1:]))  # (L, M, ...)
        for unit, whole in zip(self.units, stack, strict=True):  # (M, ...)
            for layer, part in zip(unit, whole.split(lengths), strict=True):  # (m, ...)
                held = getattr(layer.base, name)
                part.copy_(held)
                held.data = part  # and what held it is free
        return stack

    def _weights(self) -> Iterator[Tensor]:
        """W (M, n) of every unit, one after the other, in a floating type."""
        shape = sum(self.heights), self.width
        for index, weight in enumerate(self.weight):
            yield weight if self.scales is None else dequantize(weight, self.scales[index], shape, self.a.dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Working pairs from the trainable tensors; zeros were written once and stay."""
        for pair, trained in self._each_part(self.a, self.b):
            self.kind.refresh(*pair, self.masters[trained], self.scaling)

    @torch.no_grad()
    def collect(self, divisor: Tensor) -> None:
        """Gradients of the trainable tensors from those of the working pairs, divided by ``divisor`` ()."""
        self.grad_a.div_(divisor)
        self.grad_b.div_(divisor)
        for pair, trained in self._each_part(self.grad_a, self.grad_b):
            self.kind.collect(*pair, self.masters[trained], self.grads[trained], self.scaling)

    def _each_part(self, a: Tensor, b: Tensor) -> Iterator[tuple[tuple[Tensor, Tensor], slice]]:
        """A (L, R, n) and B (L, m, R) of each layer of the units, and which trainable tensors are theirs."""
        each = len(self.masters) // len(self.heights)
        for part, (rows, columns) in enumerate(self._parts()):
            yield (a[:, columns], b[:, rows, columns]), slice(part * each, (part + 1) * each)  # (L, R, n), (L, m, R)

    @torch.no_grad()
    def gather(self) -> None:
        """Add what one backward pass left on the leaves to the window's sum, and clear the leaves."""
        self.grad_a.add_(torch.stack([a.grad for a, _ in self.leaves]))  # type: ignore[misc]  # -> (L, P R, n)
        self.grad_b.add_(torch.stack([b.grad for _, b in self.leaves]))  # type: ignore[misc]  # -> (L, M, P R)
        for a, b in self.leaves:
            a.grad = b.grad = None

    @torch.no_grad()
    def perturb(self, sigma: Tensor) -> None:
        """Begin the perturbation of a step (methods: flat.py); ``sigma`` () lives on the device."""
        if self.noise == "none":
            return
        merged = self._merged_row_norms()  # (L, M)
        self.scale.copy_(merged * (sigma / math.sqrt(self.width)))
        if self.noise == "kept":
            # All units in one launch: (L, M, n), scaled by (L, M), into (L, M, n).
            perturb_anywhere(self.weight, self.scale, self.seed, self.step, self.numbers[:1], self.noisy)

    def _merged_row_norms(self) -> Tensor:
        """Norms of the rows of W + B A, (L, M), without forming it: see :func:`.factors.merged_row_norms`.

        Layer by layer of the units: the zeros of B between its blocks are then neither multiplied nor written.
        """
        squares = []
        for (rows, columns), against in zip(self._parts(), self._weights_times_a(), strict=True):
            b = self.b[:, rows, columns].to(self.norms.dtype)  # (L, m, R)
            a = self.a[:, columns].to(self.norms.dtype)  # (L, R, n)
            # (2 W A^T + B A A^T) * B, summed over R: (L, m, R) -> (L, m)
            change = torch.baddbmm(against.to(b.dtype), b, a @ a.mT, beta=2).mul_(b).sum(dim=2)
            squares.append(self.norms[:, rows] + change)
        return torch.cat(squares, dim=1).clamp_min_(0).sqrt_()  # P of (L, m) -> (L, M)

    def _weights_times_a(self) -> list[Tensor]:
        """W A^T (L, m, R) of each layer of the units; a quantised weight is made once for all of its unit."""
        parts = self._parts()
        if self.scales is None:
            return [self.weight[:, rows] @ self.a[:, columns].mT for rows, columns in parts]  # (L, m, n) (L, n, R)
        # Of each unit (m, n) (n, R), then L of them -> (L, m, R).
        products = [[w[r] @ a[c].mT for r, c in parts] for w, a in zip(self._weights(), self.a, strict=True)]
        return [torch.stack(of_part) for of_part in zip(*products, strict=True)]

    def _parts(self) -> list[tuple[slice, slice]]:
        """Of each layer of a unit its rows of W and B, and its columns of B, which are its rows of A."""
        ends = enumerate(accumulate(self.heights))
        rank = self.rank
        return [(slice(end - self.heights[i], end), slice(i * rank, (i + 1) * rank)) for i, end in ends]

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """(path, stand-in) of every layer."""
        for index, (layers, pair, bias) in enumerate(zip(self.units, self.leaves, self.biases, strict=True)):
            weight = self.noisy[index] if self.noise == "kept" else self.weight[index]  # (M, n)
            draw = (None, 0, None, None)
            if self.noise == "redrawn":
                draw = (self.scale[index], self.seed, self.step, self.numbers[index : index + 1])  # (M,), -, (1,), (1,)
            scales = None if self.scales is None else self.scales[index]
            unit = Unit(self.heights, self.rank, (weight, scales, bias, *pair, *draw))
            for part, layer in enumerate(layers):
                yield layer.path, FusedLinear(unit, part)


def _bias(layers: list[AdaptedLayer]) -> Tensor | None:
    """The biases of a unit below each other (M,), zero where a layer has none; None if none has one."""
    if all(layer.base.bias is None for layer in layers):
        return None
    like = next(layer.base.bias for layer in layers if layer.base.bias is not None)
    biases = [(layer.base.bias, layer.base.out_features) for layer in layers]
    # P of (m,) -> (M,)
    return torch.cat([like.new_zeros(height) if bias is None else bias.detach() for bias, height in biases])


def _slot(model: nn.Module, path: str) -> tuple[dict[str, Any], str]:
    """Where a module is kept: its parent's table, and its name there."""
    parent, _, name = path.rpartition(".")
    return model.get_submodule(parent)._modules, name


class Fused:
    """All adapted layers of a model.

    Args:
        model: the model that holds the layers.
        layers: what :func:`lowrank_diffusion.adapters.attach` returned; in the order of the model; see :mod:`.plan`.
        dtype: of the base, and so of all products.
        noise, seed, step: see :class:`Group`; ``step`` may be left out without noise.
    """

    def __init__(
        self, model: nn.Module, layers: list[AdaptedLayer], dtype: torch.dtype, noise: str = "none", seed: int = 0,
        step: Tensor | None = None,
    ):  # fmt: skip
        self.model = model
        step = torch.zeros(1, dtype=torch.int64) if step is None else step
        self.groups: list[Group] = []
        first = 0
        for members in groups_of(model, layers):
            self.groups.append(Group(members, dtype, first, noise, seed, step))
            first += len(members)
        places = dict(pair for group in self.groups for pair in group.modules())
        self._places = [(*_slot(model, path), stand_in) for path, stand_in in places.items()]

    @contextmanager
    def active(self) -> Iterator[None]:
        """The stand-ins in the layers' places, inside the context."""
        before = [siblings[name] for siblings, name, _ in self._places]
        try:
            for siblings, name, stand_in in self._places:
                siblings[name] = stand_in
            yield
        finally:
            for (siblings, name, _), layer in zip(self._places, before, strict=True):
                siblings[name] = layer

    def masters(self) -> list[Tensor]:
        """The trainable tensors, as stacks."""
        return [master for group in self.groups for master in group.masters]

    def grads(self) -> list[Tensor]:
        """Their gradients, in the same order."""
        return [grad for group in self.groups for grad in group.grads]
