"""The product of an adapted layer, y = x (W + eps)^T + bias + (x A^T) B^T, as one operator, and layers that share it.

One operator to autograd and to the compiler, which would both copy the first product to add the second one, and run the
noise's kernel as a program of its own for every layer. Letters as in factors.py; N is the number of rows of x.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import perturb_anywhere
from .quantize import dequantize


@torch.library.custom_op("lowrank_diffusion::fused_linear", mutates_args=())
def fused_linear(  # noqa: PLR0913 - operators take tensors, no objects
    x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None, a: Tensor, b: Tensor,
    scale: Tensor | None, seed: int, step: Tensor | None, layer: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """y = x (W + eps)^T + bias + h B^T and h = x A^T, for rows x (N, n), W (m, n), A (R, n), B (m, R).

    With ``scales`` the weight is quantised (see :func:`.quantize.dequantize`), and W is made again in the backward
    pass. So is eps: ``scale`` (m,), ``seed``, ``step`` (1,) and ``layer`` (1,) say what it is, see
    :func:`.kernels.perturb`. Without ``scale`` there is none.
    """
    h = x @ a.T
    y = F.linear(x, made(x, a, b, weight, scales, scale, seed, step, layer), bias)
    return y.addmm_(h, b.T), h


@fused_linear.register_fake
def _(x, _weight, _scales, _bias, a, b, *_noise):
    return x.new_empty(x.shape[0], b.shape[0]), x.new_empty(x.shape[0], a.shape[0])


@torch.library.custom_op("lowrank_diffusion::fused_linear_backward", mutates_args=())
def _fused_linear_backward(  # noqa: PLR0913
    grad: Tensor, x: Tensor, h: Tensor, weight: Tensor, scales: Tensor | None, a: Tensor, b: Tensor, passing: bool,
    scale: Tensor | None, seed: int, step: Tensor | None, layer: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x (empty unless ``passing``), A and B."""
    if not passing:
        low = grad @ b
        return grad.new_empty(0), low.T @ x, grad.T @ h
    low, of_a, of_b = grad.new_empty(len(grad), len(a)), torch.empty_like(a), torch.empty_like(b)
    with _Beside(grad.device) as beside:
        with beside.stream(0):
            torch.mm(grad, b, out=low)
            ready = beside.mark()
            torch.mm(low.T, x, out=of_a)
        with beside.stream(1):
            torch.mm(grad.T, h, out=of_b)
        onward = grad @ made(x, a, b, weight, scales, scale, seed, step, layer)
        beside.wait(ready)
        onward.addmm_(low, a)
    return onward, of_a, of_b


class _Beside:
    """Streams for small products, of some 5 us each at batch 1, to run beside a large one; all are joined at the end.

    What is done on them goes into tensors that were made before: their memory is the main stream's. On a CPU there is
    one stream, and nothing to wait for.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.streams = _streams(device) if device.type == "cuda" else ()

    def __enter__(self) -> _Beside:
        for stream in self.streams:
            stream.wait_stream(torch.cuda.current_stream(self.device))
        return self

    def __exit__(self, *_error: object) -> None:
        for stream in self.streams:
            torch.cuda.current_stream(self.device).wait_stream(stream)

    def stream(self, number: int) -> AbstractContextManager[object]:
        """What is done inside runs on this stream."""
        return torch.cuda.stream(self.streams[number]) if self.streams else nullcontext()

    def mark(self) -> Any:
        """What has been asked of the stream so far."""
        return torch.cuda.current_stream(self.device).record_event() if self.streams else None

    def wait(self, mark: Any) -> None:
        """Go on when that is done."""
        if mark is not None:
            torch.cuda.current_stream(self.device).wait_event(mark)


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


@_fused_linear_backward.register_fake
def _(_grad, x, _h, _weight, _scales, a, b, passing, *_noise):
    return torch.empty_like(x) if passing else x.new_empty(0), torch.empty_like(a), torch.empty_like(b)


def _keep_for_backward(ctx, inputs, output):
    x, weight, scales, _, a, b, scale, seed, step, layer = inputs
    ctx.save_for_backward(x, output[1], weight, scales, a, b, scale, step, layer)
    ctx.seed = seed


def _backward(ctx, grad, _grad_of_h):
    x, h, weight, scales, a, b, scale, step, layer = ctx.saved_tensors
    passing = ctx.needs_input_grad[0]
    onward, of_a, of_b = _fused_linear_backward(
        grad.contiguous(), x, h, weight, scales, a, b, passing, scale, ctx.seed, step, layer
    )
    return onward if passing else None, None, None, None, of_a, of_b, None, None, None, None


fused_linear.register_autograd(_backward, setup_context=_keep_for_backward)


def made(  # noqa: PLR0913
    x: Tensor, a: Tensor, b: Tensor, weight: Tensor, scales: Tensor | None,
    scale: Tensor | None, seed: int, step: Tensor | None, layer: Tensor | None,
) -> Tensor:  # fmt: skip
    """W + eps as the product with ``x`` takes it: W itself, or a tensor of its own. Its shape is that of B A."""
    shape = b.shape[0], a.shape[1]
    if scale is None or step is None or layer is None:
        return weight if scales is None else dequantize(weight, scales, shape, x.dtype)
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    return perturb_anywhere(weight, scale, seed, step, layer, out, scales)


class Unit:
    """Layers that are expected to be called with one and the same input: the first call computes all of them.

    It owns nothing: all tensors are the group's.
    """

    def __init__(self, heights: list[int], rank: int, tensors: tuple[Any, ...]):
        self.heights, self.rank, self.tensors = heights, rank, tensors
        self.source: Tensor | None = None
        self.results: list[Tensor] = []

    def output(self, index: int, x: Tensor) -> Tensor:
        """What layer ``index`` makes of ``x``: (..., n) -> (..., m)."""
        if index == 0:
            y = _apply(x, *self.tensors)
            if len(self.heights) == 1:
                return y
            self.source, self.results = x, list(y.split(self.heights, dim=-1))
        elif self.source is not x:
            return self._alone(index, x)
        result = self.results[index]
        if index == len(self.heights) - 1:
            self.source, self.results = None, []
        return result

    def _alone(self, index: int, x: Tensor) -> Tensor:
        """A layer that was called with something else after all."""
        self.source, self.results = None, []
        weight, scales, bias, a, b, scale, seed, step, layer = self.tensors
        rows = slice(sum(self.heights[:index]), sum(self.heights[: index + 1]))
        if scale is not None or scales is not None:  # noise and codes have their places in the whole unit
            return _apply(x, *self.tensors)[..., rows]
        columns = slice(index * self.rank, (index + 1) * self.rank)
        part = weight[rows], None, None if bias is None else bias[rows], a[columns], b[rows, columns]
        return _apply(x, *part, scale, seed, step, layer)


def _apply(x: Tensor, *tensors: Any) -> Tensor:
    y, _ = fused_linear(x.reshape(-1, x.shape[-1]), *tensors)
    return y.view(*x.shape[:-1], -1)


class FusedLinear(nn.Module):
    """Stands in for an adapted layer while the fast step runs."""

    def __init__(self, unit: Unit, index: int):
        super().__init__()
        self.unit, self.index = unit, index
        # As nn.Linear: pipelines ask a model's layers for them.
        self.in_features, self.out_features = unit.tensors[3].shape[-1], unit.heights[index]

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """(..., n) -> (..., m)."""
        return self.unit.output(self.index, x)


def fused_alone(weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> FusedLinear:
    """What stands in for one layer that shares its input with none, without noise."""
    return FusedLinear(Unit([weight.shape[0]], a.shape[0], (weight, None, bias, a, b, None, 0, None, None)), 0)
