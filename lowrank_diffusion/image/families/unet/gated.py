"""The gated unit of a transformer block's feed-forward layer, y = u * gelu(g) with (u, g) = x W^T + b, in one pass.

The gradients of both halves lie side by side, and a compiler that puts two results into one tensor computes both of
them at every place. Here one program writes each half where it belongs.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from .... import kernels

TILE = 1024
"""Elements per program; it sets the speed only."""

tl: Any = None
"""``triton.language`` once a kernel is first used."""


@torch.library.custom_op("lowrank_diffusion::gate", mutates_args=())
def gate(both: Tensor) -> Tensor:
    """u * gelu(g), rows (..., 2 C) -> (..., C), with the exact gelu; bf16 or fp16 on CUDA, contiguous."""
    out = both.new_empty((*both.shape[:-1], both.shape[-1] // 2))
    with torch.cuda.device_of(both):
        _compiled()[0][(-(-out.numel() // TILE),)](both, out, out.numel(), out.shape[-1], TILE=TILE)
    return out


@gate.register_fake
def _(both):
    return both.new_empty((*both.shape[:-1], both.shape[-1] // 2))


@torch.library.custom_op("lowrank_diffusion::gate_backward", mutates_args=())
def _gate_backward(grad: Tensor, both: Tensor) -> Tensor:
    """Gradient of ``both``."""
    out = torch.empty_like(both)
    with torch.cuda.device_of(both):
        _compiled()[1][(-(-grad.numel() // TILE),)](grad, both, out, grad.numel(), grad.shape[-1], TILE=TILE)
    return out


@_gate_backward.register_fake
def _(_grad, both):
    return torch.empty_like(both)


def _keep_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return _gate_backward(grad.contiguous(), *ctx.saved_tensors)


gate.register_autograd(_backward, setup_context=_keep_for_backward)


def gate_reference(both: Tensor) -> Tensor:
    """What :func:`gate` computes, on any device and in any precision."""
    value, opening = both.chunk(2, dim=-1)
    return value * F.gelu(opening)


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """Both kernels, compiled by Triton when they are first launched with each set of types."""
    global tl
    tl = importlib.import_module("triton.language")
    jit = importlib.import_module("triton").jit
    return jit(_forward_kernel), jit(_backward_kernel)


def _forward_kernel(both, out, size, width, TILE: tl.constexpr):  # pyright: ignore
    """One program: TILE results. Triton source."""
    index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = index < size
    place = index // width * (2 * width) + index % width
    value = tl.load(both + place, mask=inside).to(tl.float32)
    opening = tl.load(both + place + width, mask=inside).to(tl.float32)
    opened = opening * 0.5 * (1 + tl.erf(opening * 0.7071067811865476))
    tl.store(out + index, (value * opened).to(out.dtype.element_ty), mask=inside)


def _backward_kernel(grad, both, out, size, width, TILE: tl.constexpr):  # pyright: ignore
    """One program: the gradients of TILE values and of their gates. Triton source."""
    index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = index < size
    place = index // width * (2 * width) + index % width
    incoming = tl.load(grad + index, mask=inside).to(tl.float32)
    value = tl.load(both + place, mask=inside).to(tl.float32)
    opening = tl.load(both + place + width, mask=inside).to(tl.float32)
    below = 0.5 * (1 + tl.erf(opening * 0.7071067811865476))  # the normal distribution's, and its density
    density = tl.exp(-0.5 * opening * opening) * 0.3989422804014327
    tl.store(out + place, (incoming * opening * below).to(out.dtype.element_ty), mask=inside)
    of_opening = incoming * value * (below + opening * density)
    tl.store(out + place + width, of_opening.to(out.dtype.element_ty), mask=inside)


class Gated(GEGLU):
    """A gated unit that runs through :func:`gate` where it can."""

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """(..., n) -> (..., C)."""
        both = self.proj(hidden_states)
        return gate(both) if both.is_cuda and both.dtype in (torch.bfloat16, torch.float16) else gate_reference(both)


def use_gates(model: nn.Module, device: torch.device) -> None:
    """Make the gated units of a UNet :class:`Gated`, where there is a kernel.

    By their class: a method of its own in every module would make the compiler see a different program in each.
    """
    if kernels.missing(device):
        return
    for module in model.modules():
        if type(module) is GEGLU:
            module.__class__ = Gated
