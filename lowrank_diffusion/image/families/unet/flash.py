"""Self-attention through FlashAttention 4 (package flash-attn-4), where it is installed and proves to work.

On a Hopper GPU its kernels take about half the time of those that PyTorch brings, and its backward pass adds up in one
order at next to no cost. It is young: what it computes is compared with PyTorch before it is used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from . import attention

CAPABILITIES = (9, 10)
"""Major compute capabilities of GPUs whose backward pass it has in a fixed order."""
SHORTEST = 256
"""Queries; fewer are too little work for the difference to matter."""
NOT_INSTALLED = "flash-attn-4 is not installed."
ALLOWED = 0.02
"""How far from float32 attention its bf16 results may be, as a share of the largest; PyTorch's own are at 0.01."""


@torch.library.custom_op("lowrank_diffusion::flash", mutates_args=())
def flash(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D)) v for each head: q, k, v (B, T, H D) -> (B, T, H D), and its log-sum-exp (B, H, T).

    bf16 or fp16 on CUDA; elements of a token contiguous. Of FlashAttention (arXiv 2205.14135, 2307.08691).
    """
    out, lse, *_ = _package()._flash_attn_fwd(*_by_head(heads, q, k, v), return_lse=True)
    return out.flatten(2), lse


@flash.register_fake
def _(q, _k, _v, heads):
    return q.new_empty(q.shape), q.new_empty((q.shape[0], heads, q.shape[1]), dtype=torch.float32)


@torch.library.custom_op("lowrank_diffusion::flash_backward", mutates_args=())
def _flash_backward(  # noqa: PLR0913 - operators take tensors, no objects
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, the same every time."""
    given = _by_head(heads, q, k, v, out, grad)
    of_q, of_k, of_v, *_ = _package()._flash_attn_bwd(*given, lse, deterministic=True)
    return of_q.flatten(2), of_k.flatten(2), of_v.flatten(2)


@_flash_backward.register_fake
def _(_grad, q, k, v, *_others):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep_for_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.heads = inputs[3]


def _backward(ctx, grad, _grad_of_lse):
    return *_flash_backward(grad.contiguous(), *ctx.saved_tensors, ctx.heads), None


flash.register_autograd(_backward, setup_context=_keep_for_backward)


def _by_head(heads: int, *tensors: Tensor) -> list[Tensor]:
    """(B, T, H D) -> (B, T, H, D)."""
    return [tensor.unflatten(2, (heads, -1)) for tensor in tensors]


@functools.cache
def _package() -> Any:
    """Importing it takes a second, and it compiles its kernels when they are first launched."""
    return importlib.import_module("flash_attn.cute.interface")


@functools.cache
def missing(device: torch.device, dimension: int) -> str:
    """Why heads of this size cannot go through :func:`flash` here, for a person to read; empty if they can."""
    try:
        installed = importlib.util.find_spec("flash_attn.cute") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        return NOT_INSTALLED
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] not in CAPABILITIES:
        return "flash-attn-4 needs a Hopper or Blackwell GPU."
    try:
        off = _off(device, dimension)
    except Exception as error:  # a young package, and a compiler behind it
        return f"flash-attn-4 does not run here ({type(error).__name__}: {str(error)[:200]})."
    return "" if off <= ALLOWED else f"flash-attn-4 computes something else than PyTorch here (off by {off:.2g})."


def _off(device: torch.device, dimension: int) -> float:
    """The largest difference of result and gradients from float32 attention, as a share of the largest value."""
    generator = torch.Generator(device).manual_seed(0)
    given = torch.randn((4, 2, SHORTEST, 2 * dimension), generator=generator, device=device)
    *leaves, upstream = (tensor.to(torch.bfloat16) for tensor in given)
    results = []
    for leaf_type in (torch.bfloat16, torch.float32):
        q, k, v = (leaf.to(leaf_type).requires_grad_() for leaf in leaves)
        y = flash(q, k, v, 2)[0] if leaf_type == torch.bfloat16 else attention.attend_reference(q, k, v, 2)
        results.append((y.detach(), *torch.autograd.grad(y, (q, k, v), upstream.to(leaf_type))))
    pairs = zip(*results, strict=True)
    return max(float((one.float() - other).abs().max() / other.abs().max()) for one, other in pairs)


class Flash(AttnProcessor2_0):
    """Self-attention of a UNet's transformer block through :func:`flash` where it can; else as diffusers has it."""

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        fits = hidden_states.is_cuda and hidden_states.dim() == 3 and hidden_states.shape[1] >= SHORTEST
        others = kwargs.get("encoder_hidden_states"), kwargs.get("attention_mask")
        if not fits or args or any(other is not None for other in others):
            return super().__call__(attn, hidden_states, *args, **kwargs)
        layers: Any = attn
        q, k, v = layers.to_q(hidden_states), layers.to_k(hidden_states), layers.to_v(hidden_states)
        if q.dtype in (torch.bfloat16, torch.float16):
            y = flash(q, k, v, layers.heads)[0]
        else:
            y = attention.attend_reference(q, k, v, layers.heads)
        return layers.to_out[1](layers.to_out[0](y))


def use_flash(model: nn.Module, device: torch.device) -> str:
    """Let the plain self-attentions of a UNet run through :func:`flash`, those whose heads it can take here.

    Returns why it is not used although somebody has installed it for this GPU; else nothing.
    """
    why = ""
    for module in model.modules():
        if isinstance(module, Attention) and not module.is_cross_attention and attention.is_plain(module):
            lacking = missing(device, module.inner_dim // module.heads)
            if not lacking:
                module.set_processor(Flash())  # type: ignore[arg-type]
            elif device.type == "cuda" and lacking != NOT_INSTALLED:
                why = f"{lacking} Self-attention runs by PyTorch's own kernels."
    return why
