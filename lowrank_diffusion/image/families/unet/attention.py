"""Attention to few keys, such as the 77 tokens of a prompt.

Kernels for long sequences give the keys' gradients to one program per block of keys, so that with a single block a few
programs walk over all queries while the rest of a GPU waits. Here programs share the queries: each takes a stretch of
them, with all keys at hand, and leaves partial gradients of keys and values, which are added up in one order. Nothing
is kept between forward and backward but the inputs.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from .... import kernels

LONGEST = 128
"""Keys that one program can hold."""
ROWS, WARPS = 128, 8
"""Queries at a time and warps per program; they set the speed only."""
PROGRAMS = 160
"""Of a backward pass, about: enough to fill a large GPU, few enough that partial gradients stay small."""

tl: Any = None
"""``triton.language`` once a kernel is first used."""


@torch.library.custom_op("lowrank_diffusion::attend", mutates_args=())
def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for each head: q (B, T, H D), k and v (B, S, H D) -> (B, T, H D).

    bf16 or fp16 on CUDA, S at most :data:`LONGEST`, D a power of two from 16 to 128; elements of a token contiguous.
    """
    batch, queries, width = q.shape
    out = q.new_empty(q.shape)
    grid = (-(-queries // ROWS), batch * heads)
    with torch.cuda.device_of(q):
        _compiled()[0][grid](q, k, v, out, *_strides(q, k, v), queries, k.shape[1], heads, **_constants(width // heads))
    return out


@attend.register_fake
def _(q, _k, _v, _heads):
    return q.new_empty(q.shape)


@torch.library.custom_op("lowrank_diffusion::attend_backward", mutates_args=())
def _attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Gradients of q, and of k and v in one tensor (2, B, S, H D)."""
    batch, queries, width = q.shape
    keys = k.shape[1]
    tiles = -(-queries // ROWS)
    each = -(-tiles // max(1, min(tiles, round(PROGRAMS / (batch * heads)))))  # tiles of a program
    parts = -(-tiles // each)
    of_q = q.new_empty(q.shape)
    partial = torch.empty((2, parts, batch, keys, width), dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        _compiled()[1][parts, batch * heads](
            grad,
            q,
            k,
            v,
            of_q,
            partial,
            *_strides(q, k, v),
            queries,
            keys,
            heads,
            EACH=each,
            **_constants(width // heads),
        )
    return of_q, partial.sum(dim=1).to(q.dtype)


@_attend_backward.register_fake
def _(_grad, q, k, _v, _heads):
    return q.new_empty(q.shape), k.new_empty((2, *k.shape))


def _keep_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.heads = inputs[3]


def _backward(ctx, grad):
    of_q, of_keys = _attend_backward(grad.contiguous(), *ctx.saved_tensors, ctx.heads)
    return of_q, of_keys[0], of_keys[1], None


attend.register_autograd(_backward, setup_context=_keep_for_backward)


def _strides(q: Tensor, k: Tensor, v: Tensor) -> list[int]:
    return [stride for tensor in (q, k, v) for stride in tensor.stride()[:2]]


def _constants(dimension: int) -> dict[str, int]:
    return {"D": dimension, "KEYS": LONGEST, "ROWS": ROWS, "num_warps": WARPS}


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """Both kernels, compiled by Triton when they are first launched with each set of types."""
    global tl
    tl = importlib.import_module("triton.language")
    jit = importlib.import_module("triton").jit
    return jit(_forward_kernel), jit(_backward_kernel)


def _forward_kernel(  # noqa: PLR0913 - a kernel has no object to take its arguments from
    q, k, v, out, q_batch, q_row, k_batch, k_row, v_batch, v_row, queries, keys, heads,
    D: tl.constexpr, KEYS: tl.constexpr, ROWS: tl.constexpr,  # pyright: ignore
):  # fmt: skip
    """One program: ROWS queries of one head. Triton source."""
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    key, column = tl.arange(0, KEYS), head * D + tl.arange(0, D)
    there, known = row[:, None] < queries, key[:, None] < keys
    of_q = tl.load(q + batch * q_batch + row[:, None] * q_row + column[None, :], mask=there, other=0.0)
    of_k = tl.load(k + batch * k_batch + key[:, None] * k_row + column[None, :], mask=known, other=0.0)
    of_v = tl.load(v + batch * v_batch + key[:, None] * v_row + column[None, :], mask=known, other=0.0)
    # in powers of two: 1 / ln 2 goes into the scale
    scores = tl.dot(of_q, tl.trans(of_k)) * (1.4426950408889634 / (D**0.5))
    scores = tl.where(key[None, :] < keys, scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    weights = weights / tl.sum(weights, axis=1)[:, None]
    result = tl.dot(weights.to(of_v.dtype), of_v)
    place = out + (batch * queries + row[:, None]) * (heads * D) + column[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=there)


def _backward_kernel(  # noqa: PLR0913
    grad, q, k, v, of_q, partial, q_batch, q_row, k_batch, k_row, v_batch, v_row, queries, keys, heads,
    EACH: tl.constexpr, D: tl.constexpr, KEYS: tl.constexpr, ROWS: tl.constexpr,  # pyright: ignore
):  # fmt: skip
    """One program: EACH times ROWS queries of one head, and their part of the gradients of its keys and values."""
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    key, column = tl.arange(0, KEYS), head * D + tl.arange(0, D)
    known = key[:, None] < keys
    key_tile = tl.load(k + batch * k_batch + key[:, None] * k_row + column[None, :], mask=known, other=0.0)
    value_tile = tl.load(v + batch * v_batch + key[:, None] * v_row + column[None, :], mask=known, other=0.0)
    sum_k, sum_v = tl.zeros((KEYS, D), tl.float32), tl.zeros((KEYS, D), tl.float32)
    for tile in range(EACH):
        row = (tl.program_id(0) * EACH + tile) * ROWS + tl.arange(0, ROWS)
        there = row[:, None] < queries
        flat = (batch * queries + row[:, None]) * (heads * D) + column[None, :]
        queried = tl.load(q + batch * q_batch + row[:, None] * q_row + column[None, :], mask=there, other=0.0)
        incoming = tl.load(grad + flat, mask=there, other=0.0)
        scores = tl.dot(queried, tl.trans(key_tile)) * (1.4426950408889634 / (D**0.5))
        scores = tl.where(key[None, :] < keys, scores, float("-inf"))
        weights = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
        weights = weights / tl.sum(weights, axis=1)[:, None]
        sum_v += tl.dot(tl.trans(weights.to(incoming.dtype)), incoming)
        of_weights = tl.dot(incoming, tl.trans(value_tile))
        shared = tl.sum(weights * of_weights, axis=1)
        of_scores = (weights * (of_weights - shared[:, None]) / (D**0.5)).to(queried.dtype)
        tl.store(of_q + flat, tl.dot(of_scores, key_tile).to(of_q.dtype.element_ty), mask=there)
        sum_k += tl.dot(tl.trans(of_scores), queried)
    size = tl.num_programs(1) // heads * keys * heads * D
    place = (tl.program_id(0) * size + (batch * keys + key[:, None]) * (heads * D)) + column[None, :]
    tl.store(partial + place, sum_k, mask=known)
    tl.store(partial + tl.num_programs(0) * size + place, sum_v, mask=known)


def attend_reference(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """What :func:`attend` computes, on any device and in any precision."""
    q, k, v = (tensor.unflatten(2, (heads, -1)).transpose(1, 2) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ShortKeys(AttnProcessor2_0):
    """Attention of a UNet's transformer block through :func:`attend` where it can; else as diffusers has it."""

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        context = kwargs.get("encoder_hidden_states")
        fits = (
            context is not None and hidden_states.is_cuda and hidden_states.dim() == 3 and context.shape[1] <= LONGEST
        )
        if not fits or args or kwargs.get("attention_mask") is not None:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        layers: Any = attn
        q, k, v = layers.to_q(hidden_states), layers.to_k(context), layers.to_v(context)
        if q.dtype not in (torch.bfloat16, torch.float16):
            y = attend_reference(q, k, v, layers.heads)
        else:  # autocast does not reach the operator
            y = attend(q, k.to(q.dtype), v.to(q.dtype), layers.heads)
        return layers.to_out[1](layers.to_out[0](y))


def use_short_keys(model: nn.Module, device: torch.device) -> None:
    """Let the cross-attentions of a UNet that are plain and have heads of a fitting size run through :func:`attend`."""
    if kernels.missing(device):
        return
    for module in model.modules():
        if isinstance(module, Attention) and module.is_cross_attention and _fits(module) and is_plain(module):
            module.set_processor(ShortKeys())  # type: ignore[arg-type]


def _fits(attn: Attention) -> bool:
    return attn.inner_dim // attn.heads in (16, 32, 64, 128)


def is_plain(attn: Attention) -> bool:
    """Whether an attention is nothing but its four projections and a softmax."""
    parts = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k)
    unusual = attn.norm_cross or attn.residual_connection or attn.rescale_output_factor != 1
    return type(attn.processor) is AttnProcessor2_0 and all(part is None for part in parts) and not unusual
