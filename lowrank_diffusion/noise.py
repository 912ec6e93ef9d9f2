"""Gaussian weight noise whose every element is a function of (seed, step, layer, place in the matrix) and nothing else.

Elements are numbered row by row, e = i * n + j. Eight of them, a group g = e // 8, come from one call of the
counter-based generator Philox-4x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the
64-bit seed as its key and (g, layer, low word of step, high word of step) as its counter. Word w of the four becomes
elements 2w and 2w + 1 of the group by the Box-Muller transform: its low 16 bits are the radius, its high 16 the angle,

    r = sqrt(-2 ln((low + 1/2) / 2^16)),  t = 2 pi (high + 1/2) / 2^16,  (r cos t, r sin t).

On this grid the mean and the skewness are exactly 0, the variance is 1 - 5e-6, and no value is beyond 4.86. This is the
definition, in plain torch, on any device; kernels.py has it in Triton.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .quantize import dequantize

ROUNDS = 7
"""Seven rounds of Philox-4x32 pass all of BigCrush, table 2 of the paper; its default of ten is a margin for safety."""
GROUP = 8
"""Elements per Philox call. Eight neighbours, so that a GPU thread reads and writes 16 bytes of bf16 at once."""
MASK = 2**32 - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85


def at_once(device: torch.device) -> int:
    """Elements, about, to draw together: what a CPU's caches hold, or what keeps a GPU busier than its launches do.

    Drawing takes some 25 bytes of temporary tensors for each.
    """
    return 2**20 if device.type == "cpu" else 2**22


def perturb_reference(  # noqa: PLR0913
    weight: Tensor, scale: Tensor, seed: int, step: Tensor, layer: int | Tensor, out: Tensor,
    scales: Tensor | None = None, before: int = 0,
) -> Tensor:  # fmt: skip
    """What :func:`.kernels.perturb` computes, in plain torch on any device.

    float64 is summed in float64, and ``before`` may be any number. Temporary tensors are those of :func:`at_once`.
    """
    if scales is not None:
        weight = dequantize(weight, scales, tuple(out.shape), torch.promote_types(out.dtype, torch.float32))
    columns = weight.shape[-1]
    rows = max(1, at_once(weight.device) // max(1, columns))
    stacked = weight.dim() == 3
    for index, whole in enumerate(zip(weight, scale, out, strict=True) if stacked else [(weight, scale, out)]):
        for place, (some, row_scale, target) in enumerate(zip(*(t.split(rows) for t in whole), strict=True)):
            start = before + place * rows * columns
            eps = normals_reference(tuple(some.shape), seed, step, layer + index, weight.device, start)
            target.copy_(_sum(some, row_scale, eps))
    return out


def perturbed_reference(
    weights: Sequence[Tensor], scales: Sequence[Tensor], places: Sequence[tuple[int, int]], seed: int, step: Tensor
) -> list[Tensor]:
    """What :func:`perturb_reference` makes of several matrices (m, n), each in its own type.

    One draw for all of them: a draw for each would cost small matrices more than their numbers do.

    Args:
        weights, scales, seed, step: as in :func:`perturb_reference`, for each matrix.
        places: (layer, before) of each matrix.
    """
    groups = [_groups(w.shape, before, w.device) for w, (_, before) in zip(weights, places, strict=True)]
    layers = [torch.full_like(group, layer) for group, (layer, _) in zip(groups, places, strict=True)]
    numbers = _normals(torch.cat(groups), torch.cat(layers), seed, step).split([GROUP * len(g) for g in groups])
    return [
        _sum(weight, scale, own[before % GROUP :][: weight.numel()].view(weight.shape)).to(weight.dtype)
        for weight, scale, own, (_, before) in zip(weights, scales, numbers, places, strict=True)
    ]


def _sum(weight: Tensor, scale: Tensor, eps: Tensor) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.addcmul(weight.to(wide), scale.to(wide)[:, None], eps.to(wide))


def normals_reference(
    shape: tuple[int, ...], seed: int, step: Tensor | int, layer: int | Tensor, device: torch.device | str = "cpu",
    before: int = 0,
) -> Tensor:  # fmt: skip
    """eps of one matrix without its scale: standard normals of ``shape`` (m, n), float32."""
    numbers = _normals(_groups(shape, before, device), layer, seed, step)
    return numbers[before % GROUP :][: math.prod(shape)].view(shape)


def _groups(shape: tuple[int, ...], before: int, device: torch.device | str) -> Tensor:
    return torch.arange(before // GROUP, -(-(before + math.prod(shape)) // GROUP), device=device)


def _normals(groups: Tensor, layers: Tensor | int, seed: int, step: Tensor | int) -> Tensor:
    """All numbers of the groups (G,), in one vector."""
    words = torch.stack(philox((groups, layers, step & MASK, step >> 32), (seed, seed >> 32)), dim=1).flatten()
    radius = _centred(words & 0xFFFF).log_().mul_(-2).sqrt_()
    angle = _centred(words >> 16).mul_(2 * math.pi)
    pairs = torch.empty(words.numel(), 2, device=groups.device)
    torch.mul(radius, angle.cos(), out=pairs[:, 0])
    torch.mul(radius, angle.sin_(), out=pairs[:, 1])
    return pairs.flatten()


def philox(
    counter: tuple[Tensor, Tensor | int, Tensor | int, Tensor | int], key: tuple[int, int], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox-4x32: four random 32-bit words for every counter, as int64 tensors.

    Tensors among the counter words broadcast; all words are taken modulo 2^32. A product of two words wraps around in
    int64, which changes none of its 64 bits. Nothing is copied from the CPU, so that a CUDA graph can capture it.
    """
    first = counter[0]
    a, b, c, d = (x & MASK if isinstance(x, Tensor) else torch.full_like(first, x & MASK) for x in counter)
    for number in range(rounds):
        key_a, key_b = ((word + number * weyl) & MASK for word, weyl in zip(key, _WEYL, strict=True))
        left, right = (word * factor for word, factor in zip((a, c), _MULTIPLIERS, strict=True))
        a, b, c, d = (right >> 32 & MASK) ^ b ^ key_a, right & MASK, (left >> 32 & MASK) ^ d ^ key_b, left & MASK
    return a, b, c, d


def _centred(bits: Tensor) -> Tensor:
    """16-bit numbers to the middles of 2^16 equal parts of (0, 1), exactly, float32."""
    return bits.to(torch.float32).add_(0.5).mul_(2**-16)
