"""The algebra against explicit formulas, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from lowrank_diffusion import factors
from lowrank_diffusion.factors import Factors
from tests.formulas import gralora_delta

TABLE = [(8, 2, 12, 20), (4, 4, 16, 8), (6, 3, 9, 15), (5, 1, 7, 11), (16, 2, 64, 32)]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _explicit_gralora(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Entry by entry: dW[i*m/k + o, j*n/k + c] = sum_t A[j, c, i*r/k + t] B[i, j*r/k + t, o]."""
    k, columns, r = a.shape
    rows, t = b.shape[2], r // k
    delta = torch.zeros(k * rows, k * columns, dtype=a.dtype)
    for i, j, o, c in itertools.product(range(k), range(k), range(rows), range(columns)):
        delta[i * rows + o, j * columns + c] = sum(a[j, c, i * t + x] * b[i, j * t + x, o] for x in range(t))
    return delta


@pytest.mark.parametrize(("r", "k", "m", "n"), TABLE)
def test_block_formula_and_plain_pair_agree_with_the_definition(r: int, k: int, m: int, n: int):
    a, b = _random(k, n // k, r), _random(k, r, m // k, seed=1)
    explicit = _explicit_gralora(a, b)
    pair = factors.gralora_to_lora(a, b, scaling=0.75)
    assert torch.allclose(gralora_delta(a, b), explicit, atol=1e-13)
    assert pair.a.shape == (k * r, n) and pair.b.shape == (m, k * r)
    assert torch.allclose(pair.delta(), 0.75 * explicit, atol=1e-13)


def test_k_of_one_is_plain_lora():
    a, b = _random(1, 20, 5), _random(1, 5, 12, seed=1)
    assert torch.equal(factors.gralora_to_lora(a, b, 1.0).a, a[0].T)
    assert torch.allclose(gralora_delta(a, b), b[0].T @ a[0].T, atol=1e-13)


def test_stack_and_pad_keep_the_update():
    one, two = Factors(_random(3, 20), _random(12, 3, seed=1)), Factors(_random(2, 20, seed=2), _random(12, 2, seed=3))
    both = factors.stack(one, two)
    assert torch.allclose(both.delta(), one.delta() + two.delta(), atol=1e-13)
    assert torch.allclose(factors.pad(both, 9).delta(), both.delta(), atol=1e-13)
    with pytest.raises(ValueError, match="does not fit"):
        factors.pad(both, 4)


@pytest.mark.parametrize("rank", [1, 3, 5, 12])
def test_compression_is_the_best_of_its_rank(rank: int):
    pair = Factors(_random(6, 20), _random(12, 6, seed=1))
    u, s, v = torch.linalg.svd(pair.delta(), full_matrices=False)
    best = u[:, :rank] * s[:rank] @ v[:rank]
    small = factors.compress(pair, rank)
    assert small.a.shape[0] == min(rank, 6)
    assert torch.allclose(small.delta(), best, atol=1e-10)


def test_row_norms_of_the_merged_weight_need_no_merged_weight():
    weight, pair = _random(12, 20, seed=5), Factors(_random(6, 20), _random(12, 6, seed=1))
    norms = factors.merged_row_norms(weight, factors.row_norms_squared(weight), pair)
    assert torch.allclose(norms, (weight + pair.delta()).norm(dim=1), atol=1e-12)
    exact_opposite = Factors(torch.eye(20, dtype=torch.float64), -weight)
    assert factors.merged_row_norms(weight, factors.row_norms_squared(weight), exact_opposite).abs().max() < 1e-6
