"""Self-attention through flash-attn-4: with the package on a GPU that it runs on, with a stand-in for it anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from lowrank_diffusion.image.families.unet import attention, flash

from .test_unet_kernels import unet

CPU, GPU = torch.device("cpu"), torch.device("cuda")
missing = flash.missing(GPU, 64) if torch.cuda.is_available() else "there is no GPU"
needs_package = pytest.mark.skipif(bool(missing), reason=missing or "-")


def package(wrong: float = 0.0) -> SimpleNamespace:
    """What the package computes, by the formulas of arXiv 2205.14135: its two functions, their arguments, layouts."""

    def weights(q: Tensor, k: Tensor) -> Tensor:
        return torch.einsum("bthd,bshd->bhts", q.float(), k.float()) / q.shape[-1] ** 0.5

    def forward(q: Tensor, k: Tensor, v: Tensor, return_lse: bool) -> tuple[Tensor, Tensor, None]:
        assert return_lse
        scores = weights(q, k)
        out = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v.float())
        return out.to(q.dtype).contiguous(), scores.logsumexp(-1), None

    def backward(
        q: Tensor, k: Tensor, v: Tensor, out: Tensor, grad: Tensor, lse: Tensor, deterministic: bool
    ) -> tuple[Tensor, ...]:
        assert deterministic and out.shape == grad.shape == q.shape
        p = (weights(q, k) - lse[..., None]).exp()
        given = grad.float() * (1 + wrong)
        of_p = torch.einsum("bthd,bshd->bhts", given, v.float())
        of_scores = p * (of_p - (given * out.float()).sum(-1).transpose(1, 2)[..., None]) / q.shape[-1] ** 0.5
        of_q = torch.einsum("bhts,bshd->bthd", of_scores, k.float())
        of_k = torch.einsum("bhts,bthd->bshd", of_scores, q.float())
        of_v = torch.einsum("bhts,bthd->bshd", p, given)
        return tuple(tensor.to(q.dtype).contiguous() for tensor in (of_q, of_k, of_v))

    return SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)


@pytest.fixture
def stands_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Take a stand-in for the package."""
    yield lambda wrong=0.0: monkeypatch.setattr(flash, "_package", lambda: package(wrong))


def test_layouts_and_gradients_are_those_of_attention(stands_in: Any):
    stands_in()
    torch.manual_seed(0)
    both = torch.randn(2, 40, 3 * 48, dtype=torch.float64)
    upstream = torch.randn(2, 40, 48, dtype=torch.float64)
    results = []
    for way in (lambda q, k, v: flash.flash(q, k, v, 3)[0], lambda q, k, v: attention.attend_reference(q, k, v, 3)):
        given = both.clone().requires_grad_()
        y = way(*given.split(48, dim=2))
        results.append((y, *torch.autograd.grad(y, given, upstream)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    q, k, v = both.split(48, dim=2)
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(flash.flash, (q.float(), k.float(), v.float(), 3), test_utils=checks)


def test_it_is_tried_before_it_is_used(stands_in: Any):
    stands_in()
    assert flash._off(CPU, 64) < flash.ALLOWED
    stands_in(wrong=0.1)
    assert flash._off(CPU, 64) > flash.ALLOWED


def test_why_it_is_missing_is_said():
    assert "flash-attn-4" in flash.missing(CPU, 64)


def test_a_unet_without_it_keeps_diffusers_attention():
    model = unet()
    before = dict(model.attn_processors)
    assert flash.use_flash(model, CPU) == ""
    assert model.attn_processors == before and before


def test_what_is_installed_and_not_used_is_told(monkeypatch: pytest.MonkeyPatch):
    model, reason = unet(), "flash-attn-4 does not run here (ImportError: no cutlass)."
    before = dict(model.attn_processors)
    monkeypatch.setattr(flash, "missing", lambda device, dimension: reason)
    assert flash.use_flash(model, GPU).startswith(reason) and model.attn_processors == before
    monkeypatch.setattr(flash, "missing", lambda device, dimension: flash.NOT_INSTALLED)
    assert flash.use_flash(model, GPU) == ""


def test_the_processor_leaves_to_diffusers_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    model = unet().eval()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 32)
    wanted = model(*inputs).sample
    monkeypatch.setattr(flash, "missing", lambda device, dimension: "")
    flash.use_flash(model, CPU)
    own = [m for m in model.modules() if isinstance(m, Attention) and not m.is_cross_attention]
    assert own and all(isinstance(m.processor, flash.Flash) for m in own)
    assert torch.equal(model(*inputs).sample, wanted)


@needs_package
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 1024, 20, 64), (1, 4096, 10, 64), (3, 300, 4, 128)])
def test_it_computes_attention_and_repeats_to_the_bit(shape: tuple[int, int, int, int], dtype: torch.dtype):
    batch, tokens, heads, dimension = shape
    assert not flash.missing(GPU, dimension)
    torch.manual_seed(0)
    width = heads * dimension
    given = torch.randn(batch, tokens, 3 * width, device="cuda").to(dtype).requires_grad_()
    upstream = torch.randn(batch, tokens, width, device="cuda").to(dtype)
    wanted = attention.attend_reference(*given.float().split(width, dim=2), heads)
    (of_given,) = torch.autograd.grad(wanted, given, upstream.float())
    firsts: list[Tensor] = []
    for _ in range(10):
        y = flash.flash(*given.split(width, dim=2), heads)[0]
        results = [y, *torch.autograd.grad(y, given, upstream)]
        firsts = firsts or results
        assert all(torch.equal(one, other) for one, other in zip(results, firsts, strict=True))
    for one, other in zip(firsts, (wanted, of_given), strict=True):
        assert (one.float() - other.float()).abs().max() < 0.02 * other.abs().max()


@needs_package
def test_a_unet_learns_the_same_with_it():
    results = []
    for with_it in (False, True):
        torch.manual_seed(0)
        model: Any = unet(128)
        model.to("cuda", torch.bfloat16)
        if with_it:
            flash.use_flash(model, GPU)
            assert any(isinstance(processor, flash.Flash) for processor in model.attn_processors.values())
        inputs = torch.randn(1, 4, 64, 64), torch.tensor([3]), torch.randn(1, 5, 32)
        moved = [value.cuda() if value.dtype == torch.int64 else value.to("cuda", torch.bfloat16) for value in inputs]
        loss = model(*moved).sample.float().square().mean()
        loss.backward()
        norm = sum(p.grad.float().square().sum() for p in model.parameters()) ** 0.5
        results.append((float(loss), float(norm)))
    (loss, norm), (other_loss, other_norm) = results
    assert abs(loss / other_loss - 1) < 1e-2 and abs(norm / other_norm - 1) < 2e-2
