"""The learning rate as a function of the step, and which optimiser a setting gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowrank_diffusion.config import OptimizerConfig
from lowrank_diffusion.devices import DeviceError
from trainers import optim
from trainers.optim import lr_at

STEPS = 100


def config(**settings) -> OptimizerConfig:
    return OptimizerConfig(lr=2.0, **settings)


def rates(cfg: OptimizerConfig, steps: int = STEPS) -> list[float]:
    return [lr_at(cfg, step, steps) for step in range(steps)]


def test_constant():
    assert rates(config()) == [2.0] * STEPS


def test_warm_up_rises_evenly_to_the_peak_and_never_starts_at_zero():
    for schedule in ("constant", "cosine", "linear"):
        found = rates(config(schedule=schedule, warmup=10))
        assert found[:10] == pytest.approx([0.2 * number for number in range(1, 11)])
        assert found[10] == 2.0 and max(found) == 2.0
    assert rates(config(warmup=10))[10:] == [2.0] * 90
    assert rates(config(warmup=1)) == [2.0] * STEPS


def test_linear_falls_evenly_to_just_above_zero():
    found = rates(config(schedule="linear", warmup=20))
    assert found[20:] == pytest.approx([2 * (80 - number) / 80 for number in range(80)])
    assert found[-1] == pytest.approx(2 / 80) and lr_at(config(schedule="linear"), STEPS, STEPS) == 0


def test_cosine_is_half_a_wave():
    found = rates(config(schedule="cosine", warmup=20))
    assert found[20:] == pytest.approx([1 + math.cos(math.pi * number / 80) for number in range(80)])
    assert found[60] == pytest.approx(1.0) and found[20:] == sorted(found[20:], reverse=True)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_run_that_is_all_warm_up_ends_at_its_peak(schedule):
    assert rates(config(schedule=schedule, warmup=4), steps=4) == [0.5, 1.0, 1.5, 2.0]
    assert rates(config(schedule=schedule), steps=1) == [2.0]


def test_it_depends_on_nothing_but_the_step():
    cfg = config(schedule="cosine", warmup=7)
    in_order = rates(cfg)
    assert [lr_at(cfg, step, STEPS) for step in reversed(range(STEPS))] == in_order[::-1] and rates(cfg) == in_order


@pytest.mark.parametrize("name", ["adamw", "prodigy", "adafactor"])
def test_settings_reach_the_optimizer(name):
    cfg = OptimizerConfig(name=name, lr=0.5, weight_decay=0.25, beta1=0.8, beta2=0.99)
    (group,) = optim.build(cfg, {"a": nn.Parameter(torch.ones(3, 2))}).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert name == "adafactor" or group["betas"] == (0.8, 0.99)


def test_eight_bit_adamw_needs_cuda():
    with pytest.raises(DeviceError) as caught:
        cfg = OptimizerConfig(name="adamw8bit")
        optim.build(cfg, {"a": nn.Parameter(torch.ones(2))})
    assert str(caught.value) == (
        "optimizer.name: adamw8bit runs on CUDA only. Take optimizer.name=adamw on this device."
    )


def test_text_encoders_have_a_learning_rate_of_their_own():
    names = ["unet.a", "text_encoder.a", "text_encoder_2.b", "unet.text_encoder.c"]
    parameters = {name: nn.Parameter(torch.ones(2)) for name in names}
    ours, text = optim.groups(config(text_encoder_lr=0.5), parameters)
    assert [id(p) for p in text["params"]] == [id(parameters[name]) for name in names[1:3]]
    assert (len(ours["params"]), ours["share"], text["share"]) == (2, 1.0, 0.25)
    assert [group["share"] for group in optim.groups(config(), parameters)] == [1.0, 1.0]
    assert len(optim.groups(config(text_encoder_lr=0.5), {"down.a": parameters["unet.a"]})) == 1
