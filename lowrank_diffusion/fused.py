"""Adapted layers as the fast step runs them: one low-rank product per layer, in the base's precision.

A LoRA, a GraLoRA and a hybrid are all exactly a plain pair A (R, n), B (m, R) with the scaling in B (factors.py), so
one forward serves them: y = x W^T + b + (x A^T) B^T. Layers of one shape form a group whose trainable tensors, working
pairs, gradients and base weights are stacks with the layer as first dimension. Making the working pairs of a step, and
bringing their gradients back, is then a handful of kernels per group, not some per layer, and no layer casts anything.

The stacks replace the storage of what PEFT and the model hold: their parameters become views, with the same bits.
Letters as in factors.py; L is the number of layers of a group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .adapters import NAME, AdaptedLayer
from .factors import row_norms_squared


class FusedLinear(nn.Module):
    """Stands in for an adapted layer while the fast step runs. It owns nothing: all tensors are the group's."""

    def __init__(self, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor):
        super().__init__()
        # In a tuple: neither parameters nor buffers, so the model's state dict never knows.
        self.tensors = (weight, bias, a, b)

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """(..., n) -> (..., m)."""
        weight, bias, a, b = self.tensors
        rows = x.reshape(-1, x.shape[-1])
        y = torch.addmm(F.linear(rows, weight, bias), rows @ a.T, b.T)
        return y.view(*x.shape[:-1], -1)


class _Redrawn(torch.autograd.Function):
    """y = x (W + eps)^T + bias, rows (N, n) -> (N, m); W + eps is made in forward and again in backward."""

    @staticmethod
    def forward(ctx, rows: Tensor, bias: Tensor | None, group: Group, index: int) -> Tensor:
        ctx.group, ctx.index = group, index
        return F.linear(rows, group.redraw(index), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return grad @ ctx.group.redraw(ctx.index), None, None, None


class RedrawnLinear(nn.Module):
    """The same with a perturbation that is not kept."""

    def __init__(self, group: Group, index: int, bias: Tensor | None, a: Tensor, b: Tensor):
        super().__init__()
        self.where, self.tensors = (group, index), (bias, a, b)

    @torch.compiler.disable  # the layer number would make every layer a program of its own
    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:  # type: ignore[override]
        """(..., n) -> (..., m)."""
        bias, a, b = self.tensors
        rows = x.reshape(-1, x.shape[-1])
        y: Any = _Redrawn.apply(rows, bias, *self.where)
        return torch.addmm(y, rows @ a.T, b.T).view(*x.shape[:-1], -1)


def obstacle(layers: list[AdaptedLayer]) -> str:
    """Why these layers cannot be fused; empty if they can."""
    for layer in layers:
        base: Any = layer.base
        if type(base) is not nn.Linear or not base.weight.is_floating_point():
            return f"{layer.path} is a {type(base).__name__}, not a plain linear layer"
        dropout: Any = getattr(layer.module, "lora_dropout", None) or getattr(layer.module, "gralora_dropout", None)
        if dropout and not isinstance(dropout[NAME], nn.Identity):
            return "adapter.dropout draws a mask at every layer"
    return ""


class Group:
    """Layers of one shape and kind.

    Args:
        layers: all with the same weight shape, dtype and adapter settings.
        dtype: of the working pairs; the base's.
        first: number of the first layer in the model's order of groups, which keys its perturbation.
        noise: "none"; "kept": perturbed weights stay from forward to backward, in a stack of their own; "redrawn":
            they are made twice, in one place that all layers share.
    """

    def __init__(self, layers: list[AdaptedLayer], dtype: torch.dtype, first: int, noise: str):
        self.layers, self.first = layers, first
        module: Any = layers[0].module
        self.scaling = float(module.scaling[NAME])
        self.kind = _kind(layers[0])
        self.names = _NAMES[self.kind[0]] + (_GENERAL if self.kind[0] == "gralora" and self.kind[2] else ())
        self.masters = [self._stacked(name) for name in self.names]
        self.grads = [torch.zeros_like(master) for master in self.masters]
        for stack, name in zip(self.grads, self.names, strict=True):
            for index, layer in enumerate(layers):
                self._parameter(layer, name).grad = stack[index]
        m, n = layers[0].base.weight.shape
        rank = self._rank()
        count = len(layers)
        self.a = self.masters[0].new_zeros((count, rank, n), dtype=dtype)
        self.b = self.masters[0].new_zeros((count, m, rank), dtype=dtype)
        # Leaves of autograd, one pair per layer, that share the stacks' storage.
        pairs = zip(self.a, self.b, strict=True)
        self.leaves = [(a.detach().requires_grad_(), b.detach().requires_grad_()) for a, b in pairs]
        wide = torch.promote_types(dtype, torch.float32)
        self.grad_a, self.grad_b = torch.zeros_like(self.a, dtype=wide), torch.zeros_like(self.b, dtype=wide)
        self.noise = noise
        if noise != "none":
            self._stack_base()

    def _parameter(self, layer: AdaptedLayer, name: str) -> Any:
        found: Any = getattr(layer.module, name)[NAME]
        return found.weight if isinstance(found, nn.Linear) else found

    def _stacked(self, name: str) -> Tensor:
        """All layers' parameters of one name in one tensor (L, ...), which they become views of."""
        parameters = [self._parameter(layer, name) for layer in self.layers]
        stack = torch.stack([parameter.detach() for parameter in parameters])
        for parameter, part in zip(parameters, stack, strict=True):
            parameter.data = part
        return stack

    def _stack_base(self) -> None:
        """W (L, m, n), |W_i|^2 (L, m), the standard deviation of every row of eps (L, m) and room for W + eps."""
        bases = [layer.base for layer in self.layers]
        self.weight = torch.stack([base.weight.detach() for base in bases])
        for base, part in zip(bases, self.weight, strict=True):
            base.weight.data = part
        self.norms = torch.stack([row_norms_squared(part) for part in self.weight])
        self.scale = torch.zeros_like(self.norms, dtype=torch.float32)
        self.draw: tuple[int, Tensor] = (0, torch.zeros((), dtype=torch.int64, device=self.weight.device))
        self.noisy = self.weight.clone() if self.noise == "kept" else torch.empty_like(self.weight[0])

    def _rank(self) -> int:
        kind, rank, hybrid, k = self.kind
        return k * rank + hybrid if kind == "gralora" else rank

    @torch.no_grad()
    def refresh(self) -> None:
        """Working pairs from the trainable tensors; the zeros of GraLoRA's pattern were written once and stay."""
        if self.kind[0] == "lora":
            self.a.copy_(self.masters[0])
            self.b.copy_(self.masters[1] * self.scaling if self.scaling != 1 else self.masters[1])
            return
        for view, master, factor in self._pattern(self.a, self.b, self.masters):
            view.copy_(master * factor if factor != 1 else master)

    @torch.no_grad()
    def collect(self, divisor: Tensor) -> None:
        """Gradients of the trainable tensors from those of the working pairs, divided by ``divisor`` ()."""
        self.grad_a.div_(divisor)
        self.grad_b.div_(divisor)
        if self.kind[0] == "lora":
            self.grads[0].copy_(self.grad_a)
            self.grads[1].copy_(self.grad_b * self.scaling if self.scaling != 1 else self.grad_b)
            return
        for view, grad, factor in self._pattern(self.grad_a, self.grad_b, self.grads):
            grad.copy_(view * factor if factor != 1 else view)

    def _pattern(self, a: Tensor, b: Tensor, stored: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, float]]:
        """(part of a pair, the same numbers as stored, factor) with equal shapes: gralora_to_lora, as views.

        Rank index (i, j, t) of output block i, input block j; see :func:`lowrank_diffusion.factors.gralora_to_lora`.
        """
        _, rank, hybrid, k = self.kind
        t, count = rank // k, len(self.layers)
        columns, rows = a.shape[2] // k, b.shape[1] // k
        blocks_a, blocks_b = a[:, : k * rank], b[:, :, : k * rank]
        # (L, i, j, t, J, c), of which J = j is not zero -> (L, i, t, c, j)
        inside = blocks_a.view(count, k, k, t, k, columns).diagonal(dim1=2, dim2=4)
        yield inside, stored[0].view(count, k, columns, k, t).permute(0, 3, 4, 2, 1), 1.0
        # (L, I, o, i, j, t), of which I = i is not zero -> (L, o, j, t, i)
        inside = blocks_b.unflatten(2, (k, k, t)).unflatten(1, (k, rows)).diagonal(dim1=1, dim2=3)
        yield inside, stored[1].view(count, k, k, t, rows).permute(0, 4, 2, 3, 1), self.scaling
        if hybrid:
            yield a[:, k * rank :], stored[2], 1.0
            yield b[:, :, k * rank :], stored[3], self.scaling

    @torch.no_grad()
    def gather(self) -> None:
        """Add what one backward pass left on the leaves to the window's sum, and clear the leaves."""
        self.grad_a.add_(torch.stack([a.grad for a, _ in self.leaves]))  # type: ignore[misc]
        self.grad_b.add_(torch.stack([b.grad for _, b in self.leaves]))  # type: ignore[misc]
        for a, b in self.leaves:
            a.grad = b.grad = None

    @torch.no_grad()
    def perturb(self, sigma: Tensor, seed: int, step: Tensor) -> None:
        """Begin the perturbation of a step (methods: flat.py); ``sigma`` () and ``step`` (1,) live on the device."""
        if self.noise == "none":
            return
        b = self.b.to(self.norms.dtype)
        cross = ((self.weight @ self.a.mT).to(b.dtype) * b).sum(dim=2)
        gram = self.a.to(b.dtype) @ self.a.to(b.dtype).mT
        own = ((b @ gram) * b).sum(dim=2)
        merged = (self.norms + 2 * cross + own).clamp_min(0).sqrt()
        self.scale.copy_(merged * (sigma / math.sqrt(self.weight.shape[2])))
        self.draw = (seed, step)
        if self.noise == "kept":
            _perturb(self.weight, self.scale, seed, step, self.first, self.noisy)

    @torch.no_grad()
    def redraw(self, index: int) -> Tensor:
        """W + eps of one layer, in the shared place."""
        seed, step = self.draw
        return _perturb(self.weight[index], self.scale[index], seed, step, self.first + index, self.noisy)

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """(path, stand-in) of every layer."""
        for index, (layer, (a, b)) in enumerate(zip(self.layers, self.leaves, strict=True)):
            bias = layer.base.bias
            if self.noise == "redrawn":
                yield layer.path, RedrawnLinear(self, index, bias, a, b)
            else:
                weight = self.noisy[index] if self.noise == "kept" else layer.base.weight.detach()
                yield layer.path, FusedLinear(weight, bias, a, b)


def _perturb(weight: Tensor, scale: Tensor, seed: int, step: Tensor, layer: int, out: Tensor) -> Tensor:
    run = kernels.perturb_reference if kernels.available(weight.device) else kernels.perturb
    return run(weight, scale, seed, step, layer, out)


_NAMES = {"lora": ("lora_A", "lora_B"), "gralora": ("gralora_A", "gralora_B")}
_GENERAL = ("gralora_A_general", "gralora_B_general")


def _kind(layer: AdaptedLayer) -> tuple[str, int, int, int]:
    """(kind, rank, hybrid rank, k)."""
    module: Any = layer.module
    if hasattr(module, "lora_A"):
        return "lora", module.lora_A[NAME].weight.shape[0], 0, 1
    k, _, rank = module.gralora_A[NAME].shape
    return "gralora", rank, int(module.hybrid_r[NAME]), k


class Fused:
    """All adapted layers of a model.

    Args:
        model: the model that holds the layers.
        layers: what :func:`lowrank_diffusion.adapters.attach` returned; see :func:`obstacle` for what they must be.
        dtype: of the base, and so of all products.
        noise: see :class:`Group`.
    """

    def __init__(self, model: nn.Module, layers: list[AdaptedLayer], dtype: torch.dtype, noise: str):
        self.model = model
        shapes: dict[Any, list[AdaptedLayer]] = defaultdict(list)
        for layer in layers:
            weight = layer.base.weight
            shapes[(*weight.shape, weight.dtype, _kind(layer))].append(layer)
        self.groups: list[Group] = []
        first = 0
        for members in shapes.values():
            self.groups.append(Group(members, dtype, first, noise))
            first += len(members)
        self._stand_ins = dict(pair for group in self.groups for pair in group.modules())

    @contextmanager
    def active(self) -> Iterator[None]:
        """The stand-ins in the layers' places, inside the context."""
        before = {path: self.model.get_submodule(path) for path in self._stand_ins}
        try:
            self._place(self._stand_ins)
            yield
        finally:
            self._place(before)

    def _place(self, modules: dict[str, Any]) -> None:
        for path, module in modules.items():
            parent, _, name = path.rpartition(".")
            self.model.get_submodule(parent)._modules[name] = module

    def masters(self) -> list[Tensor]:
        """The trainable tensors, as stacks."""
        return [master for group in self.groups for master in group.masters]

    def grads(self) -> list[Tensor]:
        """Their gradients, in the same order."""
        return [grad for group in self.groups for grad in group.grads]
