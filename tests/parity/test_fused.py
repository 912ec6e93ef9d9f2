"""The fast step's fused layers against PEFT's own, and the fast step against the eager one, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowrank_diffusion import adapters, flat, plan, presets, seeds
from lowrank_diffusion.adapters import kinds
from lowrank_diffusion.config import Config
from lowrank_diffusion.devices import DeviceError
from lowrank_diffusion.fused import Fused
from lowrank_diffusion.quantize import QuantizedLinear, quantize
from lowrank_diffusion.runs import Run
from lowrank_diffusion.units import described
from tests.adapter_kinds import EXAMPLES
from trainers import checkpoint, fast
from trainers.fast import FastStep
from trainers.step import Diverged, Step

CPU = torch.device("cpu")
KINDS = EXAMPLES


@dataclass
class Data:
    x: Tensor
    y: Tensor
    count: float


class Attention(nn.Module):
    """Projections of different shapes, with and without bias: three of one input, then two that turn out not to be."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(16, 16), nn.Linear(16, 16)
        self.to_v, self.to_out = nn.Linear(16, 24, bias=False), nn.ModuleList([nn.Linear(24, 16)])
        self.q_proj, self.k_proj = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        y = self.to_out[0](torch.tanh(v) * (q * k).sum(dim=-1, keepdim=True).tanh())
        return self.k_proj(torch.tanh(self.q_proj(y)))


class Regression:
    """A task of which every number is float64."""

    def __init__(self, cfg: Config):
        torch.manual_seed(1)
        self.model: nn.Module = Attention().double()
        self.cfg = cfg
        self.layers = adapters.attach(self.model, cfg.adapter, cfg.seed)
        for name, parameter in adapters.trainable(self.model).items():
            draw = torch.randn(parameter.shape, generator=seeds.generator(0, 0, name), dtype=torch.float64)
            parameter.data = draw / 9

    def content(self) -> dict[str, Any]:
        return {}

    def batch(self, step: int, micro: int) -> Data:
        rows = 8 if (step + micro) % 3 else 5  # micro-batches of two shapes
        draw = torch.randn(2, rows, 3, 16, generator=seeds.generator(0, step, f"data {micro}"), dtype=torch.float64)
        return Data(draw[0], draw[1], float(rows))

    def loss(self, batch: Data) -> tuple[Tensor, float]:
        return (self.model(batch.x) - batch.y).square().mean(dim=(1, 2)), batch.count


def settings(kind: str, **others: Any) -> Config:
    values = {
        "optimizer.lr": 0.01, "optimizer.schedule": "cosine", "train.steps": 12, "train.accumulate": 2,
        "train.ema": 0.5, "train.clip": 0.05,
    }  # fmt: skip
    return presets.build({}, values | KINDS[kind] | {key.replace("__", "."): value for key, value in others.items()})


def begin(cfg: Config, kind: type[Step] = FastStep) -> Step:
    task: Any = Regression(cfg)
    if kind is Step:
        return Step(task, cfg, CPU, torch.float64)
    return FastStep(task, cfg, CPU, torch.float64, plan.forced(cfg, "compiled"))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_gradients_equal_pefts(kind: str):
    task = Regression(settings(kind))
    x = task.batch(0, 0).x
    wanted = task.model(x)
    wanted.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in adapters.trainable(task.model).items() if p.grad is not None}
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    fused = Fused(task.model, task.layers, torch.float64, "none")
    assert [[len(unit) for unit in group.units] for group in fused.groups] == [[3], [1], [2]]
    with fused.active():
        for group in fused.groups:
            group.refresh()
        found = task.model(x)
        found.square().sum().backward()
        for group in fused.groups:
            group.gather()
            group.collect(torch.ones((), dtype=torch.float64))
    assert (found - wanted).abs().max() < 1e-13
    for name, parameter in adapters.trainable(task.model).items():
        assert parameter.grad is not None and (parameter.grad - grads[name]).abs().max() < 1e-12, name
    after = task.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(task.model(x), wanted), "PEFT's layers are back, and as they were"


@pytest.mark.parametrize("kind", KINDS)
def test_fast_steps_equal_eager_steps(kind: str):
    cfg = settings(kind)
    one, other = begin(cfg, Step), begin(cfg)
    for step in range(12):
        a, b = one(step), other(step)
        assert a.step == b.step and a.lr == b.lr
        assert abs(a.loss - b.loss) < 2e-6 and abs(a.grad_norm - b.grad_norm) < 2e-6, "the report is float32"
    for name, parameter in one.parameters.items():
        assert (parameter - other.parameters[name]).abs().max() < 1e-8, f"{name}: the learning rate is float32"
        assert (one.averaged[name] - other.averaged[name]).abs().max() < 1e-8, name


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_perturbed_weights_have_the_merged_rows_norms(kind: str, keep: bool):
    task = Regression(settings(kind))
    base = {layer.path: layer.base.weight.clone() for layer in task.layers}
    fused = Fused(task.model, task.layers, torch.float64, "kept" if keep else "redrawn", 5, torch.tensor([3]))
    sigma = torch.tensor(0.1, dtype=torch.float64)
    for group in fused.groups:
        group.refresh()
        group.perturb(sigma)
        paths = [layer.path for layer in group.units[0]]
        weight = torch.cat([base[path] for path in paths])
        merged = [base[layer.path] + layer.factors().delta() for layer in group.units[0]]
        rows = torch.cat(merged).norm(dim=1) * 0.1 / weight.shape[1] ** 0.5
        assert (group.scale[0] - rows).abs().max() < 1e-6
        with fused.active():  # the rows of an identity bring out the weights
            unit: Any = task.model.get_submodule(paths[0]).unit
            x = torch.eye(weight.shape[1], dtype=torch.float64)
            group.a.zero_()
            noisy = torch.cat([unit.output(part, x) for part in range(len(paths))], dim=1).T
        bias = group.biases[0]
        noisy = noisy if bias is None else noisy - bias[:, None]
        assert 0.85 < ((noisy - weight) / rows[:, None]).std() < 1.15
        assert all(torch.equal(layer.base.weight, base[layer.path]) for layer in group.layers)


class Wide(Attention):
    """The same with rows of 64, which nf4 can stack."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("to_q", "to_k", "q_proj", "k_proj"):
            setattr(self, name, nn.Linear(64, 64))
        self.to_v, self.to_out = nn.Linear(64, 128, bias=False), nn.ModuleList([nn.Linear(128, 64)])


def stored_and_plain(kind: str, stored: str) -> tuple[nn.Module, list[Any], nn.Module, list[Any]]:
    """A model with quantised layers, one with the weights that those stand for, and the same adapter on both."""
    torch.manual_seed(1)
    packed, cfg = Wide(), settings(kind)
    plain = copy.deepcopy(packed)
    quantize(packed, stored, CPU)
    for name, layer in packed.named_modules():
        if isinstance(layer, QuantizedLinear):
            plain.get_submodule(name).weight.data = layer.dequantized()  # type: ignore[union-attr]
    both = [adapters.attach(model, cfg.adapter, cfg.seed) for model in (packed, plain)]
    for model in (packed, plain):
        for name, parameter in adapters.trainable(model).items():
            parameter.data = torch.randn(parameter.shape, generator=seeds.generator(0, 0, name)) / 9
    return packed, both[0], plain, both[1]


@pytest.mark.parametrize("sigma", [0.0, 0.2])
@pytest.mark.parametrize("stored", ["8bit", "nf4"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_gives_what_the_weights_it_stands_for_give(kind: str, stored: str, sigma: float):
    """In float32: outputs and gradients, with and without noise, for layers of one input and for others."""
    packed, layers, plain, others = stored_and_plain(kind, stored)
    codes = [layer.base.weight.clone() for layer in layers]
    found = []
    for model, adapted in ((packed, layers), (plain, others)):
        fused = Fused(model, adapted, torch.float32, "redrawn" if sigma else "none", 5, torch.tensor([3]))
        with fused.active():
            for group in fused.groups:
                group.refresh()
                group.perturb(torch.tensor(sigma))
            y = model(torch.randn(5, 3, 64, generator=seeds.generator(0, 0, "x")))
            y.square().sum().backward()
            for group in fused.groups:
                group.gather()
                group.collect(torch.ones(()))
        found.append((y.detach(), *(grad.clone() for grad in fused.grads())))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()
    assert all(torch.equal(layer.base.weight, code) for layer, code in zip(layers, codes, strict=True))
    if not sigma:
        wanted = stored_and_plain(kind, stored)[0](torch.randn(5, 3, 64, generator=seeds.generator(0, 0, "x")))
        assert (found[0][0] - wanted).norm() < 1e-5 * wanted.norm()


def test_kept_and_redrawn_noise_give_the_same_training():
    runs = [begin(settings("hybrid", flat__sigma=0.1, flat__keep=keep)) for keep in (True, False)]
    plain = begin(settings("hybrid"))
    kept, redrawn, without = ([state(step).loss for step in range(8)] for state in (*runs, plain))
    assert kept == pytest.approx(redrawn, rel=1e-6) and kept[1:] != without[1:]
    for name, parameter in runs[0].parameters.items():
        assert (parameter - runs[1].parameters[name]).abs().max() < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_flat_losses_equal_those_of_the_eager_step(kind: str):
    """The same perturbations, so the same losses, not only the same in the mean."""
    cfg = settings(kind, flat__sigma=0.2)
    eager, fused = ([state(step).loss for step in range(12)] for state in (begin(cfg, Step), begin(cfg)))
    assert fused == pytest.approx(eager, rel=1e-6)
    assert [begin(settings(kind))(step).loss for step in range(12)] != pytest.approx(eager, rel=1e-4)


def test_results_come_late_and_all_of_them():
    state = begin(settings("lora"))
    found = [result for step in range(5) for result in state.advance(step)]
    assert [result.step for result in found] == [1, 2, 3, 4]
    assert [result.step for result in state.drain()] == [5] and state.drain() == []


def assert_resumes_exactly(begin: Callable[[Config], Step], run: Run, kind: str) -> None:
    """Stopped after 6 of 12 steps and begun again, a run ends where it would have."""
    cfg = settings(kind, flat__sigma=0.1)
    state = begin(cfg)
    for step in range(6):
        state(step)
    checkpoint.save(run, state)
    rest = [state(step).loss for step in range(6, 12)]
    again = begin(cfg)
    assert checkpoint.load(run.checkpoints[-1], again) == 6
    assert [again(step).loss for step in range(6, 12)] == rest
    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, again.parameters[name])
        assert torch.equal(state.averaged[name], again.averaged[name])


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_goes_on_from_a_checkpoint_to_the_bit(kind: str, tmp_path: Path):
    assert_resumes_exactly(begin, Run(tmp_path), kind)


def test_a_checkpoint_of_the_eager_step_goes_on_fast(tmp_path: Path):
    cfg, run = settings("gralora"), Run(tmp_path)
    state = begin(cfg, Step)
    for step in range(6):
        state(step)
    checkpoint.save(run, state)
    other = begin(cfg)
    checkpoint.load(run.checkpoints[-1], other)
    for step in range(6, 12):
        assert abs(state(step).loss - other(step).loss) < 2e-6


def test_a_loss_that_is_no_number_changes_nothing():
    state = begin(settings("lora"))
    state(0)
    before = copy.deepcopy({name: parameter.detach() for name, parameter in state.parameters.items()})
    averaged = copy.deepcopy(state.averaged)
    good = state.task.batch
    state.task.batch = lambda step, micro: Data(good(step, micro).x * float("nan"), good(step, micro).y, 8.0)  # type: ignore[method-assign]
    state.advance(1)
    state.task.batch = good  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="step 2"):
        state.advance(2)
    assert state.done == 1
    for name, parameter in state.parameters.items():
        assert torch.equal(parameter, before[name]) and torch.equal(state.averaged[name], averaged[name])


def test_says_what_it_cannot_fuse():
    cfg, gpu = settings("lora"), plan.Machine("cuda", "bf16")
    task: Any = Regression(cfg)
    assert plan.of(cfg, gpu, described(task.model, task.layers)).mode == "captured"
    task.model.to_q.base_layer = nn.Bilinear(16, 16, 16)
    chosen = plan.of(cfg, gpu, described(task.model, task.layers))
    assert (chosen.mode, chosen.why_not_faster) == ("eager", "to_q is a Bilinear, not a plain linear layer")


def test_a_mode_that_cannot_be_had_is_refused_by_name():
    for mode in ("captured", "compiled"):
        cfg = settings("lora", train__execution=mode)
        with pytest.raises(DeviceError, match=f"train.execution: {mode}.*CUDA"):
            fast.build(Regression(cfg), cfg, CPU, torch.float64)  # type: ignore[arg-type]
    cfg = settings("lora")
    state = fast.build(Regression(cfg), cfg, CPU, torch.float64)  # type: ignore[arg-type]
    assert state.plan.mode == "eager" and "CUDA" in state.plan.why_not_faster


def test_strength_rises_as_in_the_eager_step():
    state = begin(settings("lora", flat__sigma=0.1))
    assert isinstance(state, FastStep)
    state(6)
    assert float(state.sigma) == pytest.approx(flat.sigma_at(0.1, 6, 12))
