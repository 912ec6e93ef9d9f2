"""Flat-LoRA against the explicit formula of perturbing the weights in place, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from lowrank_diffusion import adapters, flat, noise, units
from lowrank_diffusion.flat import Flat

from .test_adapters import KINDS, Block, adapted

STEPS, SIGMA = 10, 0.3


def _data(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(2, 5, 16, generator=generator, dtype=torch.float64) for _ in range(count)]


def _gradients(model: Block, data: list[torch.Tensor], recompute: bool = False) -> tuple[list, dict]:
    """Outputs and accumulated adapter gradients over a window of micro-batches."""
    model.zero_grad()
    outputs = []
    for x in data:
        out = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
        out.square().mean().backward()
        outputs.append(out.detach())
    return outputs, {name: p.grad.clone() for name, p in adapters.trainable(model).items()}


def _noise(draw: flat.Draw, weight: torch.Tensor) -> torch.Tensor:
    """eps by its definition."""
    unit, before = draw.place.unit, draw.place.before
    normal = noise.normals_reference(tuple(weight.shape), draw.seed, draw.step, unit, before=before)
    return draw.scale[:, None] * normal.to(weight.dtype)


def _in_place(model: Block, flatness: Flat, step: int, data: list[torch.Tensor]) -> tuple[list, dict]:
    """The reference: add eps to every weight, run, take it off again."""
    originals = [layer.base.weight.detach().clone() for layer in flatness.layers]
    draws = flatness.draws(step)
    for layer, draw in zip(flatness.layers, draws, strict=True):
        merged = layer.base.weight + layer.factors().delta()
        sigma = SIGMA * (1 - math.cos(math.pi * step / STEPS)) / 2
        assert torch.allclose(draw.scale, merged.norm(dim=1) * sigma / math.sqrt(layer.base.in_features), atol=1e-13)
        layer.base.weight.data += _noise(draw, layer.base.weight)
    result = _gradients(model, data)
    for layer, original in zip(flatness.layers, originals, strict=True):
        layer.base.weight.data = original
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_outputs_and_gradients_equal_the_in_place_formula_over_an_accumulation_window(kind: str, recompute: bool):
    model, layers = adapted(KINDS[kind])
    flatness = Flat(model, layers, SIGMA, STEPS, seed=3)
    data = _data(3)
    plain, _ = _gradients(model, data)
    expected, expected_grads = _in_place(model, flatness, 6, data)
    with flatness.perturbed(6):
        outputs, grads = _gradients(model, data, recompute)
    for out, reference, unperturbed in zip(outputs, expected, plain, strict=True):
        assert (out - reference).abs().max() <= 1e-12
        assert (out - unperturbed).abs().max() > 1e-3
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        assert (grad - expected_grads[name]).abs().max() <= 1e-12, name


def test_gradient_of_the_input_goes_through_the_perturbed_weight():
    model, layers = adapted(KINDS["lora"])
    flatness = Flat(model, layers, SIGMA, STEPS, seed=3)
    x = _data(1)[0].requires_grad_()
    with flatness.perturbed(5):
        assert torch.autograd.gradcheck(layers[0].module, (x,))


def test_base_is_only_read_and_forward_is_restored_even_after_an_exception():
    model, layers = adapted(KINDS["gralora"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = _data(1)[0]
    plain = model(x)
    with pytest.raises(RuntimeError), Flat(model, layers, SIGMA, STEPS, seed=3).perturbed(5):
        model(x).sum().backward()
        raise RuntimeError
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(x), plain)
    assert all("forward" not in layer.base.__dict__ for layer in layers)


def _eps(model: Block, layers: list, seed: int, step: int) -> list[torch.Tensor]:
    """Each layer's noise, in units of its rows' standard deviations."""
    draws = Flat(model, layers, SIGMA, STEPS, seed).draws(step)
    noisy = [flat.noisy_weight(x.base.weight, draw, torch.float64) for x, draw in zip(layers, draws, strict=True)]
    return [
        (weight - layer.base.weight) / draw.scale[:, None]
        for weight, layer, draw in zip(noisy, layers, draws, strict=True)
    ]


def test_draws_differ_between_layers_steps_and_seeds_and_repeat_otherwise():
    model, layers = adapted(KINDS["lora"])
    found = [eps[0] for seed in (0, 1) for step in (1, 2) for eps in _eps(model, layers, seed, step)]
    assert len({round(float(first[0]), 9) for first in found}) == len(found) == 4 * len(layers)
    again = [eps[0] for eps in _eps(model, layers, 0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=False))


def test_noise_is_that_of_the_unit_a_layer_belongs_to():
    """Queries, keys and values of one input are one matrix to the fused step, and their noise is that matrix's."""
    model, layers = adapted(KINDS["lora"])
    seed = flat.seed_of(3)
    found = dict(zip((layer.path for layer in layers), _eps(model, layers, 3, 4), strict=True))
    numbered = [unit for group in units.groups_of(model, layers) for unit in group]
    for number, unit in enumerate(numbered):
        below = torch.cat([found[layer.path] for layer in unit])
        wanted = noise.normals_reference(tuple(below.shape), seed, 4, number)
        assert torch.allclose(below, wanted.double(), atol=1e-9)
    assert max(len(unit) for unit in numbered) > 1


@pytest.mark.parametrize("at_once", [1, 700, 2**20])
def test_kept_perturbed_weights_are_those_that_are_made_again(monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(noise, "at_once", lambda device: at_once)
    model, layers = adapted(KINDS["gralora"])
    data, results = _data(2), []
    for keep in (True, False):
        with Flat(model, layers, SIGMA, STEPS, seed=3, keep=keep).perturbed(6):
            results.append(_gradients(model, data))
    (kept, kept_grads), (again, grads) = results
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))
    assert all(torch.equal(kept_grads[name], grads[name]) for name in grads)


def test_schedule_is_a_half_cosine():
    assert flat.sigma_at(0.1, 0, 100) == 0
    assert flat.sigma_at(0.1, 50, 100) == pytest.approx(0.05)
    assert flat.sigma_at(0.1, 100, 100) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_base_under_autocast(dtype: torch.dtype, kind: str):
    torch.manual_seed(1)
    model = Block().to(dtype)
    layers = adapters.attach(model, KINDS[kind], 0)
    hashes = [layer.base.weight.clone() for layer in layers]
    with Flat(model, layers, SIGMA, STEPS, seed=3).perturbed(5), torch.autocast("cpu", dtype):
        out = model(torch.randn(2, 5, 16))
        out.float().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in adapters.trainable(model).values())
    assert all(torch.equal(layer.base.weight, kept) for layer, kept in zip(layers, hashes, strict=True))
