"""What only a GPU can show: captured steps against uncaptured ones, and repeatability to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lowrank_diffusion import plan
from lowrank_diffusion.adapters import kinds
from lowrank_diffusion.runs import Run
from trainers import fast
from trainers.fast import FastStep
from trainers.step import Diverged, Step

from .test_fused import KINDS, Data, Regression, assert_resumes_exactly, settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CUDA = torch.device("cuda")


class OnGpu(Regression):
    """The same task on the GPU, in ``dtype``."""

    def __init__(self, cfg: Any, dtype: torch.dtype):
        super().__init__(cfg)
        self.model.to(CUDA, dtype)
        for layer in self.layers:
            layer.module.to(CUDA)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.dtype = dtype

    def batch(self, step: int, micro: int) -> Data:
        batch = super().batch(step, micro)
        return replace(batch, x=batch.x.to(CUDA, self.dtype), y=batch.y.to(CUDA, self.dtype))


def begin(cfg: Any, mode: str = "captured", dtype: torch.dtype = torch.float32) -> Step:
    task: Any = OnGpu(cfg, dtype)
    if mode == "eager":
        return Step(task, cfg, CUDA, dtype)
    return FastStep(task, cfg, CUDA, dtype, plan.forced(cfg, mode))


def trace(state: Step, steps: int = 12) -> list[float]:
    found = [result for step in range(steps) for result in state.advance(step)]
    return [result.loss for result in found + state.drain()]


def weights(state: Step) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in state.parameters.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_captured_equals_uncaptured_and_eager(kind: str):
    cfg = settings(kind)
    captured, plain, eager = begin(cfg), begin(cfg, "compiled"), begin(cfg, "eager")
    traces = [trace(state) for state in (captured, plain, eager)]
    assert traces[0] == pytest.approx(traces[1], rel=1e-6) and traces[0] == pytest.approx(traces[2], rel=1e-5)
    for one, other in zip(weights(captured), weights(plain), strict=True):
        assert (one - other).abs().max() < 1e-6
    assert len(captured.graphs) == 4, "begin, end, and a graph for each of two shapes"  # type: ignore[attr-defined]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_captured_runs_repeat_to_the_bit(kind: str, dtype: torch.dtype, keep: bool):
    cfg = settings(kind, flat__sigma=0.1, flat__keep=keep)
    one, other = begin(cfg, dtype=dtype), begin(cfg, dtype=dtype)
    assert trace(one) == trace(other)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))
    assert trace(begin(settings(kind), dtype=dtype)) != trace(one)


def test_kept_and_redrawn_noise_agree():
    traces = [trace(begin(settings("hybrid", flat__sigma=0.1, flat__keep=keep))) for keep in (True, False)]
    assert traces[0] == pytest.approx(traces[1], rel=1e-6)


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_goes_on_from_a_checkpoint_to_the_bit(kind: str, tmp_path: Path):
    assert_resumes_exactly(begin, Run(tmp_path), kind)


def test_a_loss_that_is_no_number_changes_nothing():
    state = begin(settings("lora"))
    state(0)
    before, good = weights(state), state.task.batch
    state.task.batch = lambda step, micro: replace(good(step, micro), x=good(step, micro).x * float("nan"))  # type: ignore[method-assign]
    state.advance(1)
    state.task.batch = good  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="step 2"):
        state.advance(2)
    assert all(torch.equal(a, b) for a, b in zip(weights(state), before, strict=True))


def test_auto_captures():
    cfg = settings("lora")
    state = fast.build(OnGpu(cfg, torch.float32), cfg, CUDA, torch.float32)  # type: ignore[arg-type]
    assert state.plan.mode == "captured"
