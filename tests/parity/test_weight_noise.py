"""Losses under weight noise against the explicit W + eps + B A, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowrank_diffusion import noise as counted
from lowrank_diffusion import seeds, weight_noise
from lowrank_diffusion.factors import Factors
from lowrank_diffusion.quantize import quantize
from lowrank_diffusion.weight_noise import Noise

NOISE = Noise((0.0, 0.05, 0.2), draws=3, seed=4)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 5, bias=False)).double()
    for number, parameter in enumerate(model.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=number))
    return model.requires_grad_(False)


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear)}


PAIRS = {
    "0": Factors(normal(2, 12, seed=11), normal(9, 2, seed=12)),
    "2": Factors(normal(3, 9, seed=13), normal(5, 3, seed=14)),
}
X, Y = normal(6, 12, seed=20), normal(6, 5, seed=21)


def explicit(pairs: dict[str, Factors], sigma: float, draw: int) -> float:
    """The definition: row i of eps ~ N(0, sigma^2 / n |W'_i|^2), its normals numbered by the layer."""
    model, key = model_of(), seeds.number(NOISE.seed, 0, "weight noise")
    for number, (path, layer) in enumerate(layers_of(model).items()):
        delta = pairs[path].b @ pairs[path].a if path in pairs else torch.zeros_like(layer.weight)
        merged = layer.weight + delta
        eps = counted.normals_reference(tuple(merged.shape), key, draw, number).double()
        rows = merged.norm(dim=1, keepdim=True) * sigma / math.sqrt(merged.shape[1])
        layer.weight.data.copy_(merged + rows * eps)
    return float((model(X) - Y).square().mean())


def test_every_model_has_the_loss_of_its_explicit_weights_at_the_same_draws():
    model = model_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[tuple[int, int]] = []
    curves = weight_noise.losses(
        layers_of(model),
        {"base": {}, "adapted": PAIRS, "one layer": {"2": PAIRS["2"]}},
        lambda: float((model(X) - Y).square().mean()),
        NOISE,
        lambda done, total: seen.append((done, total)),
    )
    wanted = {"base": {}, "adapted": PAIRS, "one layer": {"2": PAIRS["2"]}}
    for name, pairs in wanted.items():
        assert [len(row) for row in curves[name]] == [1, 3, 3]
        for sigma, row in zip(NOISE.sigmas, curves[name], strict=True):
            for draw, value in enumerate(row):
                assert value == pytest.approx(explicit(pairs, sigma, draw), rel=1e-9)
    assert seen == [(done, 21) for done in range(22)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all("forward" not in layer.__dict__ for layer in model.modules())


def test_what_is_raised_inside_leaves_the_layers_as_they_were():
    model = model_of()
    whole = model(X)

    def give_up(done: int, _total: int) -> None:
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        weight_noise.losses(layers_of(model), {"base": {}}, lambda: float(model(X).sum()), NOISE, give_up)
    with pytest.raises(ZeroDivisionError), weight_noise.acting(layers_of(model), PAIRS, 0.1, 0, 0):
        assert not torch.equal(model(X), whole)
        raise ZeroDivisionError
    assert torch.equal(model(X), whole)


def test_a_quantised_base_is_perturbed_too():
    model = nn.Sequential(nn.Linear(64, 64)).requires_grad_(False)
    quantize(model, "8bit", torch.device("cpu"))
    layers, x = layers_of(model), torch.ones(1, 64)
    weight = weight_noise.weight_of(layers["0"]).clone()
    with weight_noise.acting(layers, {}, 0.1, 2, 7):
        noisy = model(x)
    eps = counted.normals_reference((64, 64), seeds.number(7, 0, "weight noise"), 2, 0)
    wanted = weight + weight.norm(dim=1, keepdim=True) * (0.1 / 8) * eps
    assert torch.allclose(noisy, x @ wanted.T + layers["0"].bias, atol=1e-5)
    assert torch.equal(weight_noise.weight_of(layers["0"]), weight)
