"""Frozen linear layers in 8 or 4 bits: the weights of a large model in a half or a quarter of the memory.

``8bit`` keeps every weight as an int8 and one float32 scale per row; ``nf4`` is QLoRA's 4-bit NormalFloat
(arXiv 2305.14314) with one float32 scale per 64 weights, 4.5 bits each. Only storage is quantised: a layer multiplies
by its dequantised weight, in the precision of its input. What was weighed for it:

* torchao and bitsandbytes both dequantise and multiply where there are thousands of rows, as in training. bitsandbytes
  is needed for 8-bit AdamW already, and its 4-bit kernels also run on a CPU; torchao would be one more package.
* Its ready-made layers are not used. ``Linear8bitLt`` rounds activations to int8 through float16, which overflows
  where bfloat16 does not, and it keeps every input alive beside autograd's saved tensors, so that gradient
  checkpointing saves nothing. int8 by rows is one multiplication in plain torch, on every device, so 8bit needs no
  package at all.
* The product below keeps no weight from forward to backward (plain ``linear`` would keep every dequantised one).
  Nothing in it waits for the host, so it can be compiled and captured in a CUDA graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ConfigError, Problem
from .plan import NF4_BLOCK
from .targets import UNQUANTIZED

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""What the 16 codes stand for, in units of the largest of a block: arXiv 2305.14314, appendix E."""


class _Remade(torch.autograd.Function):
    """y = x W^T + bias with W frozen, x (N, n) -> y (N, m); W is made in forward and again in backward."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor | None, make: Callable[[torch.dtype], Tensor]) -> Tensor:
        ctx.make = make
        return F.linear(x, make(x.dtype), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        return grad @ ctx.make(grad.dtype), None, None


def remade_linear(x: Tensor, bias: Tensor | None, make: Callable[[torch.dtype], Tensor]) -> Tensor:
    """x W^T + bias, (..., n) -> (..., m), for a frozen W (m, n) = ``make(dtype)`` that is not kept for backward.

    The result has autocast's dtype, or else x's. ``make`` must give the same weight every time.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    # Two dimensions only: with more, `linear` returns a view, and PEFT's GraLoRA adds to its base layer's result in
    # place, which autograd forbids on a view that was made inside a custom function.
    rows = x.reshape(-1, x.shape[-1]).to(dtype)
    y: Any = _Remade.apply(rows, None if bias is None else bias.to(dtype), make)
    return y.view(*x.shape[:-1], -1)


def dequantize(codes: Tensor, scales: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The weight (m, n) = ``shape`` in ``dtype``, a new tensor, each number rounded once.

    Args:
        codes: 8bit: (m, n) int8. nf4: (m n / 2, 1) uint8, two weights to a byte, the first in its high half.
        scales: float32; 8bit: (m, 1), what a row's integers are multiplied by. nf4: (m n / 64,), largest magnitudes.
        shape: n must be a multiple of 64 where rows of several layers stand below each other in nf4.
        dtype: float32, bf16, fp16; 8bit: any floating type.
    """
    if codes.dtype == torch.int8:
        out = torch.empty(shape, dtype=dtype, device=codes.device)
        return torch.mul(codes, scales, out=out)  # without a float32 copy
    return torch.ops.bitsandbytes.dequantize_4bit(codes, scales, NF4_BLOCK, "nf4", shape, dtype)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose weight is stored in fewer bits.

    Args:
        linear: the layer to take the place of; it is only read.
        kind: "8bit" or "nf4".
        device: where the weight is quantised, and stays.
    """

    scales: Tensor
    """As :func:`dequantize` takes them, and so is ``weight``."""

    def __init__(self, linear: nn.Linear, kind: str, device: torch.device):
        with_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, with_bias, device="meta")
        self.kind, self.dtype = kind, linear.weight.dtype
        weight = linear.weight.detach().to(device)
        packed, scales = _to_int8(weight) if kind == "8bit" else _to_nf4(weight)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scales", scales, persistent=False)
        if with_bias:
            self.bias = nn.Parameter(linear.bias.detach().to(device), requires_grad=False)

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight, (m, n), in ``dtype`` or what it had before it was quantised. A new tensor each time."""
        return dequantize(self.weight, self.scales, (self.out_features, self.in_features), dtype or self.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(..., n) -> (..., m)."""
        return remade_linear(input, self.bias, self.dequantized)

    def extra_repr(self) -> str:
        """As torch prints it, and the kind."""
        return f"{super().extra_repr()}, {self.kind}"


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (m, n) int8 and what to multiply each row by (m, 1) float32: the largest of a row becomes 127."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1, keepdim=True) / 127
    return (wide / scales.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8), scales


def _to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two weights to a byte (m n / 2, 1) uint8, and the largest magnitude of each block float32."""
    import bitsandbytes  # noqa: F401  registers the operations

    half = weight if weight.dtype in (torch.float32, torch.bfloat16, torch.float16) else weight.float()
    packed, scales = torch.ops.bitsandbytes.quantize_4bit(half.contiguous(), NF4_BLOCK, "nf4", torch.uint8)
    return packed, scales.float()


def quantize(model: nn.Module, kind: str, device: torch.device, keep: str = UNQUANTIZED) -> nn.Module:
    """Put quantised layers in the place of ``model``'s linear layers, one after the other.

    The model may wait in main memory: its layers come to ``device`` one at a time, so that the device never holds more
    than one that is not quantised. The rest of the model stays where it is, to be moved afterwards.

    Args:
        model: any model; changed in place, and frozen where it is quantised.
        kind: "8bit", "nf4", or "none", which changes nothing.
        device: where the layers go.
        keep: regular expression; layers in whose path it is found stay as they are.

    Raises:
        ConfigError: ``kind`` does not work on this device.
    """
    if kind == "none":
        return model
    linears = {path: layer for path, layer in model.named_modules() if type(layer) is nn.Linear}
    _check(kind, device)
    for path in [path for path in linears if not re.search(keep, path)]:
        parent, _, name = path.rpartition(".")
        # Nothing else may hold the layer: its weight has to go before the next one comes.
        setattr(model.get_submodule(parent), name, QuantizedLinear(linears.pop(path), kind, device))
    return model


def _check(kind: str, device: torch.device) -> None:
    """Try a small layer: whether bitsandbytes has kernels for a device shows only in using them."""
    try:
        small = QuantizedLinear(nn.Linear(NF4_BLOCK, 2, bias=False), kind, device)
        small.dequantized()
    except (ImportError, RuntimeError, NotImplementedError, OSError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        rule = f"{kind} does not work on {device.type} here: {reason}."
        hint = "Take 8bit, which needs no package." if kind == "nf4" else "Take none."
        raise ConfigError([Problem("base.quantize", rule, hint)]) from None
