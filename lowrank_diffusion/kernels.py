"""Flat-LoRA's noise in Triton: what noise.py defines, in one launch.

The kernel shares all random bits with the definition, and agrees to about 1e-4 in eps because the GPU's fast logarithm,
sine and cosine are used. Each repeats itself exactly on one kind of device.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from . import devices
from .noise import GROUP, MASK, ROUNDS, perturb_reference
from .plan import NF4_BLOCK
from .quantize import NF4_LEVELS

TILE, WARPS = 2048, 4
"""Elements and warps per program. They set the speed and never a value."""
LARGEST = 2**31 - 2**16
"""Elements of one matrix that 32-bit numbers can count, with room for a last tile that reaches over the end."""

tl: Any = None
"""``triton.language`` once the kernel is first used: Triton is missing on many machines and not free to import."""


@functools.cache
def missing(device: torch.device) -> str:
    """Why ``perturb`` cannot run on this device, for a person to read; empty if it can."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "The fused kernel needs an NVIDIA GPU; PyTorch finds none."
    if lacking := devices.no_kernel(device.type):
        return lacking
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "The fused kernel needs a GPU of compute capability 7.0 or more."
    return ""


def perturb(  # noqa: PLR0913
    weight: Tensor, scale: Tensor, seed: int, step: Tensor, layer: int | Tensor, out: Tensor,
    scales: Tensor | None = None, before: int = 0,
) -> Tensor:  # fmt: skip
    """Write ``weight + scale[..., None] * eps`` into ``out`` in one launch; the sum is rounded once, from float32.

    Nothing is read back from the GPU and no value of ``step`` is baked in, so a captured CUDA graph draws new noise at
    every replay after ``step`` was changed in place.

    Args:
        weight: (m, n), or a stack (L, m, n) of matrices whose layers count up from ``layer``; float32, bf16 or fp16.
            With ``scales`` one matrix, quantised: see :func:`.quantize.dequantize`, which is then part of the launch.
        scale: standard deviation of every row, (m,) or (L, m), float32.
        seed: 64 bits; a captured graph keeps it.
        step: the optimiser step, one int64 element on the weight's device.
        layer: number of the first matrix, below 2^31: one int64 element on the weight's device, or an int.
        out: of the matrix's shape, of any of these types. It must not overlap ``weight``.
        scales: of a quantised weight.
        before: elements that stand before ``weight`` in the matrix whose lower part it is; a multiple of GROUP.

    Raises:
        ValueError: shapes, types, devices or memory layouts other than these, or 2^31 elements in one matrix.
    """
    _check(weight, scale, step, out, scales, before)
    rows, columns = out.shape[-2:]
    if out.numel() == 0:
        return out
    grid = (-(-rows * columns // TILE), out.numel() // (rows * columns))
    layer = layer if isinstance(layer, Tensor) else torch.full_like(step, layer)
    numbers = (_signed(seed), _signed(seed >> 32), columns, rows, before // GROUP, rows * columns)
    bits = 0 if scales is None else 8 if weight.dtype == torch.int8 else 4
    levels = _levels(weight.device) if bits == 4 else scale  # an address that is not used
    with torch.cuda.device_of(weight):
        _compiled()[grid](
            weight, scale if scales is None else scales, levels, scale, out, step, layer, *numbers,
            TILE=TILE, ROUNDS=ROUNDS, WHOLE=columns % GROUP == 0, FAST=_speaks_ptx(weight), BITS=bits,
            BLOCK=NF4_BLOCK, num_warps=WARPS,
        )  # fmt: skip
    return out


@functools.cache
def _levels(device: torch.device) -> Tensor:
    return torch.tensor(NF4_LEVELS, device=device)


def perturb_anywhere(weight: Tensor, *others: Any, before: int = 0) -> Tensor:
    """:func:`perturb` where it runs, else its definition."""
    fits = weight.dtype != torch.float64 and weight.is_contiguous() and before % GROUP == 0
    there = fits and not missing(weight.device)
    return (perturb if there else perturb_reference)(weight, *others, before=before)


def _signed(word: int) -> int:
    """The low 32 bits as a signed number: Triton then gives every seed the same type."""
    return ((word & MASK) ^ 2**31) - 2**31


def _speaks_ptx(weight: Tensor) -> bool:
    """Whether inline PTX can be used: not on AMD, nor in Triton's interpreter."""
    return weight.is_cuda and torch.version.hip is None


def _check(
    weight: Tensor, scale: Tensor, step: Tensor, out: Tensor, scales: Tensor | None, before: int
) -> None:  # fmt: skip
    kinds = torch.float32, torch.bfloat16, torch.float16
    if scales is not None:
        _check_quantized(weight, scales, out)
        weight = out  # which has the shape and the type that the matrix would have
    rules = {
        f"weight {tuple(weight.shape)} is not (m, n) or (L, m, n)": weight.dim() in {2, 3},
        f"out {tuple(out.shape)} has another shape than weight {tuple(weight.shape)}": out.shape == weight.shape,
        f"scale {tuple(scale.shape)} is not weight's {tuple(weight.shape[:-1])}": scale.shape == weight.shape[:-1],
        f"weight {weight.dtype} or out {out.dtype} is not one of {kinds}": weight.dtype in kinds and out.dtype in kinds,
        f"scale is {scale.dtype}, not torch.float32": scale.dtype == torch.float32,
        f"step is not one int64 but {step.numel()} of {step.dtype}": step.numel() == 1 and step.dtype == torch.int64,
        "weight, scale, step and out are not on one device": len({t.device for t in (weight, scale, step, out)}) == 1,
        "weight, scale or out is not contiguous": all(t.is_contiguous() for t in (weight, scale, out)),
        f"a matrix has more than {LARGEST} elements": before + weight.shape[-2:].numel() <= LARGEST,
        f"before is {before}, no multiple of {GROUP}": before % GROUP == 0,
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if broken:
        raise ValueError("; ".join(broken))


def _check_quantized(weight: Tensor, scales: Tensor, out: Tensor) -> None:
    size, codes = out.numel(), weight.numel() * (2 if weight.dtype == torch.uint8 else 1)
    blocks = size // NF4_BLOCK if weight.dtype == torch.uint8 else out.shape[0]
    rules = {
        f"out {tuple(out.shape)} is not one matrix": out.dim() == 2,
        f"weight is {weight.dtype}, neither int8 nor packed uint8": weight.dtype in {torch.int8, torch.uint8},
        f"weight has {codes} codes, not {size}": codes == size,
        f"scales are {scales.numel()} of {scales.dtype}, not {blocks} of torch.float32": (
            scales.dtype == torch.float32 and scales.numel() == blocks
        ),
        "weight or scales is not contiguous": weight.is_contiguous() and scales.is_contiguous(),
        "weight and scales are not on out's device": weight.device == scales.device == out.device,
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if broken:
        raise ValueError("; ".join(broken))


@functools.cache
def _compiled() -> Any:
    """The kernel, compiled by Triton when it is first launched with each set of types."""
    global tl
    tl = importlib.import_module("triton.language")
    return importlib.import_module("triton").jit(
        _perturb, do_not_specialize=["key_a", "key_b", "columns", "rows", "before"]
    )


def _perturb(  # noqa: PLR0913, PLR0915 - a kernel has no object to take its arguments from, and no parts
    weight, scales, levels, scale, out, step, layer, key_a, key_b, columns, rows, before, size,
    TILE: tl.constexpr, ROUNDS: tl.constexpr, WHOLE: tl.constexpr, FAST: tl.constexpr,  # pyright: ignore
    BITS: tl.constexpr, BLOCK: tl.constexpr,  # pyright: ignore
):  # fmt: skip
    """One program: TILE neighbouring elements of one matrix. Triton source, see ``perturb`` and the module.

    ``before`` counts groups. WHOLE: rows are whole groups, so that a group has one scale. FAST: PTX for logarithm,
    root, sine and cosine, where Triton's own, exact to the last bits, would make the kernel five times as long. BITS:
    of a quantised weight, or 0.
    """
    matrix = tl.program_id(1)
    start = matrix.to(tl.int64) * size
    element = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = element < size
    if BITS == 0:
        value = tl.load(weight + start + element, mask=inside, eviction_policy="evict_first").to(tl.float32)
    elif BITS == 8:
        row = element.to(tl.uint32) // columns.to(tl.uint32)
        value = tl.load(weight + element, mask=inside).to(tl.float32) * tl.load(scales + row, mask=inside)
    else:
        pair = tl.load(weight + element // 2, mask=inside, other=0).to(tl.int32)
        code = tl.where(element % 2 == 0, pair >> 4, pair & 15)  # the first of two weights in the high half
        value = tl.load(levels + code) * tl.load(scales + element // BLOCK, mask=inside)
    group = (tl.program_id(0) * (TILE // 8) + tl.arange(0, TILE // 8)).to(tl.uint32)
    if WHOLE:
        spread = tl.load(scale + matrix * rows + group // (columns // 8).to(tl.uint32), mask=group * 8 < size)
        for _ in tl.static_range(3):
            spread = tl.interleave(spread, spread)
    else:
        spread = tl.load(scale + matrix * rows + element.to(tl.uint32) // columns.to(tl.uint32), mask=inside)

    now = tl.load(step).to(tl.uint64)
    key_a, key_b = key_a.to(tl.uint32), key_b.to(tl.uint32)
    first = tl.load(layer).to(tl.int32)
    a, b = group + before.to(tl.uint32), (first + matrix).to(tl.uint32)
    c, d = now.to(tl.uint32), (now >> 32).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        left, right = a.to(tl.uint64) * 0xD2511F53, c.to(tl.uint64) * 0xCD9E8D57
        a, c = (right >> 32).to(tl.uint32) ^ b ^ key_a, (left >> 32).to(tl.uint32) ^ d ^ key_b
        b, d = right.to(tl.uint32), left.to(tl.uint32)
        key_a, key_b = key_a + 0x9E3779B9, key_b + 0xBB67AE85
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))

    # 2^23 + 16 bits is a float whose low bits are those bits. Taking 2^23 - 1/2 off again is exact, and spares the GPU
    # the conversion from integers, which it does slowly.
    low = (((words & 0xFFFF) | 0x4B000000).to(tl.float32, bitcast=True) - 8388607.5) * (1 / 65536)
    angle = (((words >> 16) | 0x4B000000).to(tl.float32, bitcast=True) - 8388607.5) * (6.283185307179586 / 65536)
    if FAST:
        log = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [low], tl.float32, True, 1)
        square = log * -1.3862943611198906
        radius = tl.inline_asm_elementwise("sqrt.approx.ftz.f32 $0, $1;", "=f,f", [square], tl.float32, True, 1)
        cosine = tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", [angle], tl.float32, True, 1)
        sine = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", [angle], tl.float32, True, 1)
    else:
        radius = tl.sqrt(tl.log2(low) * -1.3862943611198906)
        cosine, sine = tl.cos(angle), tl.sin(angle)
    eps = tl.interleave(radius * cosine, radius * sine)
    # An explicit fused sum, so that no compiler setting or variant of this kernel rounds differently.
    tl.store(out + start + element, tl.fma(spread, eps, value).to(out.dtype.element_ty), mask=inside)
