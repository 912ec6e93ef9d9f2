"""Singular values and ranks of an update against those of the explicit product, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from lowrank_diffusion import singular
from lowrank_diffusion.factors import Factors, gralora_to_lora


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("m", "n", "rank"), [(12, 20, 4), (20, 12, 1), (6, 9, 8), (5, 40, 16)])
def test_values_are_those_of_the_product(m: int, n: int, rank: int):
    """Also where the pair's rank is larger than a side."""
    pair = Factors(normal(rank, n, seed=1), normal(m, rank, seed=2))
    values, product = singular.singular_values(pair), torch.linalg.svdvals(pair.delta())
    assert len(values) == min(rank, m, n)
    assert torch.allclose(values, product[: len(values)], rtol=1e-10, atol=1e-10)
    assert product[len(values) :].abs().max().item() < 1e-10 if len(product) > len(values) else True
    assert float(values.norm()) == pytest.approx(float(pair.delta().norm()), rel=1e-12)


def test_a_gralora_is_measured_as_the_plain_pair_that_it_is():
    pair = gralora_to_lora(normal(2, 6, 4, seed=3), normal(2, 4, 5, seed=4), 0.5)
    values = singular.singular_values(pair)
    assert torch.allclose(values, torch.linalg.svdvals(pair.delta())[: len(values)], atol=1e-10)


def test_a_convolution_is_measured_as_its_flattened_weight():
    a, b = normal(3, 4, 3, 3, seed=5), normal(7, 3, 1, 1, seed=6)
    product = torch.einsum("orxy,rihw->oihw", b, a).flatten(1)
    values = singular.singular_values(Factors(a, b))
    assert torch.allclose(values, torch.linalg.svdvals(product)[:3], atol=1e-10)


def test_ranks_by_their_formulas():
    values = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    share = [0.5, 0.25, 0.125, 0.125]
    assert singular.effective_rank(values) == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)))
    assert singular.stable_rank(values) == pytest.approx(22 / 16)
    equal = torch.full((5,), 0.3, dtype=torch.float64)
    assert (singular.effective_rank(equal), singular.stable_rank(equal)) == (pytest.approx(5), pytest.approx(5))
    one = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    assert (singular.effective_rank(one), singular.stable_rank(one)) == (pytest.approx(1), 1)


def test_an_update_that_is_zero_has_no_rank():
    values = singular.singular_values(Factors(normal(3, 8), torch.zeros(6, 3, dtype=torch.float64)))
    assert values.tolist() == [0, 0, 0]
    assert (singular.effective_rank(values), singular.stable_rank(values)) == (0, 0)
