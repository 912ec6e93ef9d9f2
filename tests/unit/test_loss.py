"""The denoising objective against its formulas and against diffusers' own arithmetic."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

from lowrank_diffusion.config import ConfigError, LossConfig
from lowrank_diffusion.image.loss import UNWEIGHTED, Objective, objective

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = ["epsilon", "v_prediction"]
CPU = torch.device("cpu")


def weighted(gamma: float) -> LossConfig:
    return LossConfig(min_snr=gamma, noise_offset=0.0)


def draws(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    clean, noise = (torch.randn(count, 4, 8, 8, generator=generator) for _ in range(2))
    return clean, noise


TIMESTEPS = torch.tensor([0, 1, 17, 500, 998, 999])


def expanded(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero_terminal", [False, True])
def test_equals_diffusers_to_the_bit(kind: str, zero_terminal: bool):
    scheduler = DDPMScheduler(**SDXL, prediction_type=kind, rescale_betas_zero_snr=zero_terminal)
    ours = objective(scheduler, UNWEIGHTED, CPU)
    clean, noise = draws()
    assert (ours.timesteps, ours.prediction) == (1000, kind)
    assert torch.equal(ours.noised(clean, noise, TIMESTEPS), scheduler.add_noise(clean, noise, TIMESTEPS))
    theirs = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, TIMESTEPS)
    assert torch.equal(ours.target(clean, noise, TIMESTEPS), theirs)


def test_the_schedule_is_the_bases_whatever_sampler_it_comes_with():
    euler = EulerDiscreteScheduler(**SDXL, timestep_spacing="leading", prediction_type="v_prediction")
    ours = objective(euler, LossConfig(min_snr=5.0, noise_offset=0.1), CPU)
    assert torch.equal(ours.alphas_cumprod, DDPMScheduler(**SDXL).alphas_cumprod)
    assert (ours.prediction, ours.settings.min_snr, ours.settings.noise_offset) == ("v_prediction", 5.0, 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_formulas_in_float64(kind: str):
    abar = torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)
    ours = Objective(abar, kind)
    clean, noise = (draw.double() for draw in draws())
    a = expanded(abar[TIMESTEPS])
    noised, target = ours.noised(clean, noise, TIMESTEPS), ours.target(clean, noise, TIMESTEPS)
    assert (noised - (a**0.5 * clean + (1 - a) ** 0.5 * noise)).abs().max() < 1e-14
    if kind == "v_prediction":  # from x_t and v, both ends come back
        assert (a**0.5 * noised - (1 - a) ** 0.5 * target - clean).abs().max() < 1e-14
        assert ((1 - a) ** 0.5 * noised + a**0.5 * target - noise).abs().max() < 1e-14
    else:
        assert torch.equal(target, noise)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_weights(gamma: float):
    abar = DDPMScheduler(**SDXL).alphas_cumprod
    timesteps = torch.arange(1000)
    snr = (abar / (1 - abar)).double()
    capped = snr.clamp(max=gamma)
    epsilon = Objective(abar, "epsilon", weighted(gamma)).weight(timesteps)
    v = Objective(abar, "v_prediction", weighted(gamma)).weight(timesteps)
    assert torch.allclose(epsilon.double(), capped / snr, rtol=1e-5)
    assert torch.allclose(v.double(), capped / (snr + 1), rtol=1e-5)
    assert (epsilon[snr <= gamma] == 1).all() and (epsilon[snr > gamma] < 1).all()
    # both are the same weight on the error of x0: an epsilon error is SNR times, a v error (SNR + 1) times as large
    assert torch.allclose(epsilon * snr, v * (snr + 1), rtol=1e-5)


def test_min_snr_off():
    for kind in KINDS:
        assert torch.equal(Objective(torch.rand(10), kind).weight(torch.arange(10)), torch.ones(10))


def test_zero_terminal_snr():
    """At pure noise the signal says nothing: finite, full weight for epsilon, none for v with min-SNR."""
    scheduler = DDPMScheduler(**SDXL, rescale_betas_zero_snr=True)
    abar = scheduler.alphas_cumprod
    assert abar[-1] == 0
    last = torch.tensor([999])
    assert Objective(abar, "epsilon", weighted(5.0)).weight(last) == 1
    assert Objective(abar, "v_prediction", weighted(5.0)).weight(last) == 0
    clean, noise = draws(1)
    v = Objective(abar, "v_prediction")
    assert torch.equal(v.noised(clean, noise, last), noise) and torch.equal(v.target(clean, noise, last), -clean)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_weighted_mean_square_of_each_example_in_float32(kind: str):
    ours = Objective(DDPMScheduler(**SDXL).alphas_cumprod, kind, weighted(5.0))
    clean, noise = draws()
    predicted = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    found = ours.loss(predicted, clean, noise, TIMESTEPS)
    for index in range(6):
        error = predicted[index] - ours.target(clean, noise, TIMESTEPS)[index]
        assert float(found[index]) == pytest.approx(float(ours.weight(TIMESTEPS)[index] * (error**2).mean()), rel=1e-6)
    assert (ours.loss(ours.target(clean, noise, TIMESTEPS), clean, noise, TIMESTEPS) == 0).all()
    half = ours.loss(predicted.half(), clean, noise, TIMESTEPS)
    assert found.shape == (6,) and half.dtype == torch.float32 and torch.allclose(half, found, rtol=1e-2)


def test_a_base_that_predicts_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"base\.prediction: the base predicts 'sample'"):
        objective(DDPMScheduler(prediction_type="sample"), UNWEIGHTED, CPU)


@pytest.mark.parametrize("outside", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_loss_is_the_weighted_mean_of_its_formula(kind: str, outside: float):
    abar = torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)
    settings = LossConfig(min_snr=5.0, mask_outside=outside)
    ours = Objective(abar, kind, settings)
    clean, noise = (draw.double() for draw in draws())
    predicted = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    mask = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64).round(decimals=1)
    losses = ours.loss(predicted, clean, noise, TIMESTEPS, mask)
    target = ours.target(clean, noise, TIMESTEPS)
    for index in range(6):
        w = (mask[index] + (1 - mask[index]) * outside).expand(4, 8, 8)
        mean = (w * (predicted[index].float() - target[index].float()).square()).sum() / w.sum()
        assert float(losses[index]) == pytest.approx(float(ours.weight(TIMESTEPS)[index] * mean), rel=1e-6)


def test_nothing_is_learnt_outside_of_a_mask():
    ours = Objective(DDPMScheduler(**SDXL).alphas_cumprod, "epsilon", weighted(5.0))
    clean, noise = draws()
    predicted = torch.randn(6, 4, 8, 8, requires_grad=True)
    mask = torch.zeros(6, 1, 8, 8)
    mask[..., :3] = 1
    ours.loss(predicted, clean, noise, TIMESTEPS, mask).sum().backward()
    assert predicted.grad is not None
    assert (predicted.grad[..., 3:] == 0).all() and (predicted.grad[..., :3] != 0).all()
    part = Objective(ours.alphas_cumprod, "epsilon", weighted(5.0))
    alone = part.loss(predicted[..., :3], clean[..., :3], noise[..., :3], TIMESTEPS)
    assert torch.allclose(ours.loss(predicted, clean, noise, TIMESTEPS, mask), alone, rtol=1e-6)


def test_a_mask_of_ones_or_of_no_effect_is_no_mask():
    clean, noise = draws()
    predicted = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    abar = DDPMScheduler(**SDXL).alphas_cumprod
    plain = Objective(abar, "epsilon").loss(predicted, clean, noise, TIMESTEPS)
    ones = Objective(abar, "epsilon").loss(predicted, clean, noise, TIMESTEPS, torch.ones(6, 1, 8, 8))
    settings = UNWEIGHTED.model_copy(update={"mask_outside": 1.0})
    off = Objective(abar, "epsilon", settings).loss(predicted, clean, noise, TIMESTEPS, torch.rand(6, 1, 8, 8))
    assert torch.allclose(plain, ones, rtol=1e-6) and torch.allclose(plain, off, rtol=1e-6)


def test_validation_is_masked_but_not_weighted():
    settings = LossConfig(min_snr=5.0, noise_offset=0.1, mask_outside=0.25)
    plain = Objective(torch.rand(10), "epsilon", settings).plain()
    assert plain.settings == LossConfig(min_snr=0.0, noise_offset=0.0, mask_outside=0.25)
