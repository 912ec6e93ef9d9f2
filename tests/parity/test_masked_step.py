"""A step whose pictures have masks and weights: fused, and on CUDA captured, against the eager one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import sdxl
from lowrank_diffusion import plan, presets
from trainers.fast import FastStep
from trainers.step import Step

WITHOUT_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, WITHOUT_CUDA])
SETTINGS = {
    "adapter.rank": 4, "adapter.targets": tuple(sdxl.TARGETS), "train.batch": 2, "train.accumulate": 2,
    "train.steps": 6, "optimizer.lr": 1e-3,
}  # fmt: skip


def begin(mode: str, device: str, masked: bool = True, outside: float = 0.0) -> Step:
    torch.manual_seed(0)
    where = torch.device(device)
    unet: Any = sdxl.build(torch.device("cpu"), torch.float32, tiny=True).to(where)
    cfg = presets.build({}, SETTINGS | {"loss.mask_outside": outside})
    task: Any = sdxl.CachedDreamBooth(unet, cfg, sdxl.inputs(unet, 4, 64))
    if masked:
        task.data.instances = [[_masked(variants[0], i)] for i, variants in enumerate(task.data.instances)]
    if mode == "eager":
        return Step(task, cfg, where, torch.float32)
    return FastStep(task, cfg, where, torch.float32, plan.forced(cfg, mode))


def _masked(example: Any, index: int) -> Any:
    """White on the left, more of it in each picture; of the first one all."""
    mask = torch.ones(1, *example.mean.shape[1:])
    mask[..., 2 * index :] *= index == 0
    return replace(example, mask=mask, weight=1 / (1 + index))


def trace(state: Step, steps: int = 6) -> list[float]:
    results = [result for step in range(steps) for result in state.advance(step)]
    return [result.loss for result in results + state.drain()]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_fast_masked_step_equals_the_eager_one(device: str):
    mode = "captured" if device == "cuda" else "compiled"
    fast, eager = begin(mode, device), begin("eager", device)
    losses, exact = trace(fast), device == "cpu"  # on CUDA the UNet's convolutions and attention round otherwise
    assert losses == pytest.approx(trace(eager), rel=1e-5 if exact else 1e-3)
    assert losses != pytest.approx(trace(begin(mode, device, masked=False)), rel=1e-2)
    for name, value in fast.parameters.items():
        assert (value - eager.parameters[name]).abs().mean() < (1e-6 if exact else 2e-4), name


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_share_of_what_is_outside_counts(device: str):
    mode = "captured" if device == "cuda" else "compiled"
    traces = [trace(begin(mode, device, outside=outside), 2) for outside in (0.0, 0.5, 1.0)]
    assert len({tuple(losses) for losses in traces}) == 3
    # The attention of this bare UNet, in float32, does not repeat to the bit on CUDA; that of runs does.
    assert traces[0] == pytest.approx(trace(begin(mode, device), 2), rel=0 if device == "cpu" else 1e-4)
