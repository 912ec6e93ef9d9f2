"""One optimiser step after another on a small model: each optimiser and precision learns, saves and goes on exactly."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lowrank_diffusion import adapters, presets, seeds
from lowrank_diffusion.config import Config
from lowrank_diffusion.devices import DeviceError
from lowrank_diffusion.optimizers import OPTIMIZERS
from lowrank_diffusion.runs import Run
from trainers import checkpoint
from trainers.step import Diverged, Step

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RATES = {"adamw": (0.02, 12), "prodigy": (1.0, 60), "adafactor": (0.02, 12)}
"""A learning rate, and steps after which it shows; Prodigy looks for its step size first."""
CUDA_ONLY = {"adamw8bit"}
"""What this file tests by its moments, and on a CPU by its refusal."""


class Block(nn.Module):
    """Attention's names, without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_v = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_v(torch.tanh(self.to_q(x)))


class Regression:
    """A task: the block learns what a block of other weights says. It is all that a training step knows of a task."""

    def __init__(self, cfg: Config, dtype: torch.dtype, scale: float = 1.0):
        torch.manual_seed(1)
        self.model: nn.Module = Block().to(dtype)
        self.teacher = copy.deepcopy(self.model).float()
        with torch.no_grad():
            for parameter in self.teacher.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
        self.cfg, self.dtype, self.scale = cfg, dtype, scale
        self.layers = adapters.attach(self.model, cfg.adapter, cfg.seed)

    def content(self) -> dict[str, Any]:
        return {}

    def batch(self, step: int, micro: int) -> Tensor:
        return torch.randn(32, 16, generator=seeds.generator(self.cfg.seed, step, f"data {micro}"))

    def loss(self, batch: Tensor) -> tuple[Tensor, float]:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            wanted = self.teacher(batch)
        error = (self.model(batch.to(self.dtype)).float() - wanted).square().mean(dim=1)
        return error * self.scale, float(len(batch))

    def validate(self) -> float:
        return float(self.loss(self.batch(10_000, 0))[0].mean())


def settings(optimizer: str = "adamw", **others: Any) -> Config:
    values = {
        "optimizer.name": optimizer, "optimizer.lr": RATES[optimizer][0], "optimizer.schedule": "cosine",
        "adapter.rank": 4, "adapter.dropout": 0.1, "flat.sigma": 0.05, "train.steps": RATES[optimizer][1],
        "train.accumulate": 2, "train.ema": 0.5,
    }  # fmt: skip
    return presets.build({}, values | {key.replace("__", "."): value for key, value in others.items()})


def begin(cfg: Config, precision: str = "fp32", scale: float = 1.0) -> Step:
    task: Any = Regression(cfg, DTYPES[precision], scale)
    return Step(task, cfg, CPU, DTYPES[precision])


def loss(state: Step) -> float:
    with state.evaluating(), state.autocast():
        return state.task.validate() or 0.0


def contents(state: Step) -> dict[str, Any]:
    """Everything that changes in training, copied."""
    return copy.deepcopy({
        "parameters": {name: parameter.detach() for name, parameter in state.parameters.items()},
        "averaged": state.averaged,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "done": state.done,
    })  # fmt: skip


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """The same to the bit: values, dtypes and shapes, whatever they are wrapped in."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{index}]")
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    else:
        assert float(one) == float(other) if isinstance(one, Tensor | float) else one == other, where


def test_every_optimiser_is_tested_here():
    assert RATES.keys() | CUDA_ONLY == OPTIMIZERS.keys()


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("optimizer", RATES)
def test_learns_and_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path, optimizer: str, precision: str):
    cfg, run, steps = settings(optimizer), Run(tmp_path), RATES[optimizer][1]
    state = begin(cfg, precision)
    base = {layer.path: layer.base.weight.clone() for layer in state.task.layers}
    before = loss(state)
    for step in range(steps // 2):
        state(step)
    folder = checkpoint.save(run, state)
    saved = contents(state)
    rest = [state(step) for step in range(steps // 2, steps)]
    assert loss(state) < 0.9 * before
    assert all(torch.equal(layer.base.weight, base[layer.path]) for layer in state.task.layers)
    assert {parameter.dtype for parameter in state.parameters.values()} == {torch.float32}

    again = begin(cfg, precision)
    assert run.checkpoints == [folder] and checkpoint.load(folder, again) == steps // 2
    assert_equal(contents(again), saved)
    for step, result in zip(range(steps // 2, steps), rest, strict=True):
        repeated = again(step)
        assert (repeated.loss, repeated.lr, repeated.grad_norm) == (result.loss, result.lr, result.grad_norm)
    assert_equal(contents(again), contents(state))


def test_half_precision_overflow_is_skipped_and_the_scale_comes_down():
    """With fp16, gradients that overflow at the first scale change nothing but the scale, until they fit."""
    state = begin(settings(train__ema=0, train__steps=50), "fp16", scale=100.0)
    before, skipped = contents(state)["parameters"], 0
    while not math.isfinite(state(state.done).grad_norm):
        skipped += 1
        assert state.scaler.get_scale() == 2.0 ** (16 - skipped)
        assert_equal(contents(state)["parameters"], before)
    assert 1 <= skipped <= 15 and state.done == skipped + 1
    assert state.scaler.get_scale() == 2.0 ** (16 - skipped)
    assert any(parameter.ne(before[name]).any() for name, parameter in state.parameters.items())
    assert all(parameter.isfinite().all() for parameter in state.parameters.values())


def test_a_loss_that_is_no_number_changes_nothing():
    state = begin(settings())
    state(0)
    before = contents(state)
    state.task.scale = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(Diverged, match=r"step 2\. Start a new run with a lower optimizer\.lr \(now 0\.02\)"):
        state(1)
    assert_equal(contents(state), before)
    state.task.scale = 1.0  # type: ignore[attr-defined]
    again = begin(settings())
    again(0), again(1)
    state(1)
    assert_equal(contents(state), contents(again))


def test_a_window_of_small_batches_is_one_large_batch():
    """Gradients are those of the mean over the window, so accumulation trades memory for time and nothing else."""
    plain = {"adapter__dropout": 0, "flat__sigma": 0, "train__ema": 0}
    window = begin(settings(train__accumulate=4, **plain))
    whole = begin(settings(train__accumulate=1, **plain))
    batches = [window.task.batch(0, micro) for micro in range(4)]
    whole.task.batch = lambda step, micro: torch.cat(batches)  # type: ignore[method-assign]
    one, other = window(0), whole(0)
    assert one.loss == pytest.approx(other.loss, rel=1e-6) and one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)
    for name, parameter in window.parameters.items():
        assert torch.allclose(parameter, whole.parameters[name], atol=1e-6), name


def test_gradients_are_clipped_to_the_limit():
    for clip in (0.0, 1e-3):
        state = begin(settings(train__clip=clip))
        seen: list[float] = []
        step = state.optimizer.step
        state.optimizer.step = lambda *args, state=state, seen=seen, step=step, **options: (  # type: ignore[method-assign]
            seen.append(float(torch.stack([p.grad.norm() for p in state.parameters.values()]).norm())),
            step(*args, **options),
        )[1]
        result = state(0)
        assert result.grad_norm > 1e-2
        assert seen == [pytest.approx(clip or result.grad_norm, rel=1e-3)]


def test_averaged_weights_are_what_is_evaluated_and_then_the_trained_come_back():
    state = begin(settings(train__ema=0.5))
    expected = {name: parameter.detach().clone() for name, parameter in state.parameters.items()}
    for step in range(3):
        state(step)
        expected = {name: 0.5 * expected[name] + 0.5 * p.detach() for name, p in state.parameters.items()}
    trained = {name: parameter.detach().clone() for name, parameter in state.parameters.items()}
    with state.evaluating():
        for name, parameter in state.parameters.items():
            assert torch.allclose(parameter, expected[name], atol=1e-7)
        assert not state.task.model.training and not torch.is_grad_enabled()
    assert any(parameter.ne(expected[name]).any() for name, parameter in state.parameters.items())
    assert_equal({name: parameter.detach() for name, parameter in state.parameters.items()}, trained)
    assert state.task.model.training


def test_eight_bit_adamw_on_a_cpu_says_what_to_take():
    cfg = presets.build({}, {"optimizer.name": "adamw8bit", "adapter.rank": 4})
    with pytest.raises(DeviceError, match=r"optimizer\.name: adamw8bit runs on CUDA only\. Take optimizer\.name=adamw"):
        begin(cfg)


def test_eight_bit_moments_are_saved_and_taken_up_again(tmp_path: Path):
    """bitsandbytes keeps them in a table inside the optimiser's; of tensors with 4096 numbers or more, so wide ones."""
    eight_bit = pytest.importorskip("bitsandbytes.optim").AdamW8bit

    def wide() -> Step:
        state = begin(settings())
        parameters = [nn.Parameter(torch.linspace(-1, 1, 64 * 128).view(64, 128))]
        state.parameters, state.averaged = {"wide": parameters[0]}, {}
        state.optimizer = eight_bit(parameters, lr=0.01)
        return state

    def moved(state: Step, step: int) -> Tensor:
        (parameter,) = state.parameters.values()
        parameter.grad = torch.randn(parameter.shape, generator=seeds.generator(0, step, "gradient"))
        state.optimizer.step()
        return parameter.detach().clone()

    run, state = Run(tmp_path), wide()
    moved(state, 0)
    checkpoint.save(run, state)
    stored = load_file(run.checkpoints[-1] / "state.safetensors")
    assert stored["optimizer.0.state1"].dtype == torch.uint8
    again = wide()
    checkpoint.load(run.checkpoints[-1], again)
    for step in (1, 2):
        assert torch.equal(moved(again, step), moved(state, step))


def test_a_checkpoint_that_is_damaged_or_of_other_settings_is_refused(tmp_path: Path):
    run, state = Run(tmp_path), begin(settings())
    state(0)
    folder = checkpoint.save(run, state)
    path = folder / "state.safetensors"
    assert {name.partition(".")[0] for name in load_file(path)} == {"adapter", "averaged", "optimizer"}
    for other in (settings(adapter__rank=8), settings(adapter__kind="lora"), settings(train__ema=0)):
        with pytest.raises(checkpoint.CheckpointError, match=r"its state means nothing then|another adapter"):
            checkpoint.load(folder, begin(other))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-10], b"x" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError, match=f"is damaged .* Delete {folder} to go on"):
            checkpoint.load(folder, begin(settings()))


def test_old_checkpoints_make_room(tmp_path: Path):
    run, state = Run(tmp_path), begin(settings())
    for step in range(5):
        state(step)
        checkpoint.save(run, state)
        checkpoint.prune(run, 2)
    assert [path.name for path in run.checkpoints] == ["step-000004", "step-000005"]
    assert not [path for path in tmp_path.rglob("*partial*")]
