"""The kernels of the UNet (attention to few keys, gated units) against torch, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from lowrank_diffusion.image.families.unet import attention, gated, norms

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_kernels_in_the_interpreter():
    """In a process of its own: Triton decides when it is imported whether it compiles or interprets."""
    code = "from tests.parity import test_unet_kernels; test_unet_kernels.interpreted()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def interpreted() -> None:
    """All that the interpreter can show (it has no bf16); called by the test above."""
    torch.cuda.device_of = lambda _: nullcontext()  # type: ignore[assignment,misc]
    attention.PROGRAMS = 8
    for shape in ((1, 300, 77, 3, 64), (2, 128, 5, 2, 16), (2, 700, 128, 2, 32)):
        check(shape, torch.float16, "cpu", 1e-3)
    check_gate(torch.float16, "cpu", 1e-3)


def check_gate(dtype: torch.dtype, device: str, bound: float) -> None:
    torch.manual_seed(0)
    both = (2 * torch.randn(3, 37, 48, device=device)).to(dtype).requires_grad_()
    upstream = torch.randn(3, 37, 24, device=device).to(dtype)
    found, wanted = gated.gate(both), gated.gate_reference(both.float())
    (one,), (other,) = (torch.autograd.grad(y, both, upstream.to(y.dtype)) for y in (found, wanted))
    assert (found.float() - wanted).abs().max() < bound * wanted.abs().max()
    assert (one.float() - other.float()).abs().max() < bound * other.abs().max().float()


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_on_a_gpu(dtype: torch.dtype):
    check_gate(dtype, "cuda", 1e-2 if dtype == torch.bfloat16 else 1e-3)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape", [(1, 1024, 77, 20, 64), (2, 4096, 77, 10, 64), (3, 100, 128, 2, 32), (4, 64, 3, 3, 128)]
)
def test_kernels_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype):
    one = check(shape, dtype, "cuda", 1e-2 if dtype == torch.bfloat16 else 2e-3)
    assert all(torch.equal(a, b) for a, b in zip(one, check(shape, dtype, "cuda", 1e-2), strict=True)), "to the bit"


def check(shape: tuple[int, ...], dtype: torch.dtype, device: str, bound: float) -> list[torch.Tensor]:
    """Output and gradients against float32, relative to the largest value. Keys and values are parts of one tensor."""
    batch, queries, keys, heads, dimension = shape
    torch.manual_seed(0)
    q = torch.randn(batch, queries, heads * dimension, dtype=dtype, device=device, requires_grad=True)
    both = torch.randn(batch, keys, 2 * heads * dimension, dtype=dtype, device=device, requires_grad=True)
    upstream = torch.randn_like(q)
    found, wanted = [], []
    for results, run, kind in ((found, attention.attend, dtype), (wanted, attention.attend_reference, torch.float32)):
        k, v = both.to(kind).chunk(2, dim=2)
        out = run(q.to(kind), k, v, heads)
        results += [out, *torch.autograd.grad(out, (q, both), upstream.to(kind))]
    for one, other in zip(found, wanted, strict=True):
        assert (one.float() - other.float()).abs().max() < bound * other.abs().max().float()
    return found


def unet(width: int = 32) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(width, width), norm_num_groups=8, cross_attention_dim=32,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def test_a_machine_without_the_kernels_keeps_diffusers_attention():
    model = unet()
    before = dict(model.attn_processors)
    attention.use_short_keys(model, torch.device("cpu"))
    assert model.attn_processors == before and before


def test_the_processor_leaves_to_diffusers_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    """On a CPU that is everything: the same numbers to the bit."""
    model = unet().eval()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 32)
    wanted = model(*inputs).sample
    monkeypatch.setattr(attention.kernels, "missing", lambda device: "")
    attention.use_short_keys(model, torch.device("cpu"))
    gated.use_gates(model, torch.device("cpu"))
    crossing = [m for m in model.modules() if isinstance(m, Attention) and m.is_cross_attention]
    assert crossing and all(isinstance(m.processor, attention.ShortKeys) for m in crossing)
    assert torch.equal(model(*inputs).sample, wanted)


def test_group_norms_are_untouched_where_they_are_exact():
    """On a CPU, which keeps the statistics in float32, and in float32: the same numbers to the bit."""
    model = unet().eval()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 32)
    wanted = model(*inputs).sample
    norms.use_float32_norms(model)
    found = [m for m in model.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert found and all(type(m) is norms.Float32GroupNorm for m in found)
    assert torch.equal(model(*inputs).sample, wanted)


@needs_cuda
def test_group_norms_in_bf16_are_rounded_once_on_a_gpu():
    """Roundings of the elements average out over a group; those of its statistics, up to 0.4 %, do not."""
    plain = torch.nn.GroupNorm(8, 64, device="cuda", dtype=torch.bfloat16)
    model = torch.nn.Sequential(torch.nn.GroupNorm(8, 64, device="cuda", dtype=torch.bfloat16))
    norms.use_float32_norms(model)
    x = torch.randn(2, 64, 32, 32, device="cuda", dtype=torch.bfloat16) * 3 + 1
    exact = torch.nn.functional.group_norm(x.double(), 8)
    ratios = []
    for norm in (plain, model):
        y = norm(x).double()
        ratios.append(((y * exact).unflatten(1, (8, 8)).flatten(2).mean(2) - 1).abs().max())
    assert ratios[1] < 5e-4 and ratios[0] > 1e-3


@needs_cuda
def test_a_unet_draws_the_same_with_it():
    model: Any = unet().eval()
    model.to("cuda", torch.bfloat16)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 32)
    moved = [value.cuda() if value.dtype == torch.int64 else value.to("cuda", torch.bfloat16) for value in inputs]
    wanted = model(*moved).sample
    attention.use_short_keys(model, torch.device("cuda"))
    gated.use_gates(model, torch.device("cuda"))
    assert (model(*moved).sample - wanted).abs().max() < 0.03
