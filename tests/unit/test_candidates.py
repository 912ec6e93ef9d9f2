"""Candidates of the evidence benchmark, each against its formula in float64."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.evidence import analysis, candidates
from benchmarks.evidence.__main__ import write
from benchmarks.evidence.candidates import Ascent, AutoSigma, HalfOfLayers
from benchmarks.evidence.design import BY_WIDTH, Job, job, scoring_jobs, tuning_jobs
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.of_pictures import OUTSIDE, Pictures
from benchmarks.evidence.training import COURSES
from lowrank_diffusion import adapters, flat, noise, plan
from tests.parity.test_fused import Regression, settings
from trainers import fast, optim
from trainers.fast import FastStep
from trainers.step import Step

CPU = torch.device("cpu")
OURS = ("recipe", "flat_candidates")


def step_of(kind: Any, adapter: str = "lora", **others: Any) -> tuple[Regression, Any]:
    cfg = settings(adapter, **others)
    task = Regression(cfg)
    return task, kind(task, cfg, CPU, torch.float64, plan.forced(cfg, "compiled"))


def gradient(task: Regression, step: int, window: int = 2) -> dict[str, Tensor]:
    """Of the window's mean loss, by autograd through PEFT's layers."""
    batches = [task.batch(step, micro) for micro in range(window)]
    parameters = adapters.trainable(task.model)
    total = sum(task.loss(batch)[0].sum() for batch in batches) / sum(batch.count for batch in batches)
    grads = torch.autograd.grad(total, list(parameters.values()))  # type: ignore[arg-type]
    return dict(zip(parameters, grads, strict=True))


@pytest.mark.parametrize("adapter", ["lora", "gralora"])
def test_the_ascent_takes_the_gradient_where_the_one_before_leads(adapter: str):
    rho = 0.3
    task, state = step_of(lambda *args: Ascent(*args, rho=rho), adapter, flat__sigma=0.0, train__clip=0.0)
    cfg, expected = state.cfg, Regression(state.cfg)
    parameters = adapters.trainable(expected.model)
    optimizer, before = optim.build(cfg.optimizer, parameters), {n: torch.zeros_like(p) for n, p in parameters.items()}
    for step in range(4):
        state(step)
        kept = {name: p.detach().clone() for name, p in parameters.items()}
        size = torch.cat([grad.flatten() for grad in before.values()]).norm()
        with torch.no_grad():
            for name, p in parameters.items():
                p.add_(rho * before[name] / size if size else 0.0)
        before = gradient(expected, step)
        for name, p in parameters.items():
            p.data, p.grad = kept[name], before[name]
        optimizer.param_groups[0]["lr"] = optim.lr_at(cfg.optimizer, step, cfg.train.steps)
        optimizer.step()
    for name, p in adapters.trainable(task.model).items():
        assert torch.allclose(p, parameters[name], rtol=0, atol=1e-8), name  # the learning rate is float32


def test_noise_stands_in_the_half_of_the_layers_that_have_changed_most(monkeypatch):
    monkeypatch.setattr(fast, "sigma_at", COURSES["constant"])
    task, state = step_of(HalfOfLayers, flat__sigma=0.4)
    changes = {}
    for layer in task.layers:
        pair = layer.factors()
        changes[layer.path] = float(pair.delta().detach().norm() / layer.base_weight().norm())
    half = set(sorted(changes, key=lambda path: -changes[path])[: math.ceil(len(changes) / 2)])
    state(0)
    noisy = set()
    for group in state.fused.groups:
        for unit, scale in zip(group.units, group.scale, strict=True):
            parts = scale.split(group.heights)
            noisy |= {layer.path for layer, part in zip(unit, parts, strict=True) if bool(part.any())}
            assert all(bool(part.all()) or not bool(part.any()) for part in parts)
    assert noisy == half and len(half) < len(changes)


def test_where_nothing_has_changed_all_layers_have_noise():
    task, state = step_of(HalfOfLayers, flat__sigma=0.4)
    with torch.no_grad():
        for name, p in adapters.trainable(task.model).items():
            if "lora_B" in name:
                p.zero_()
    for group in state.fused.groups:
        group.refresh()
    assert all(bool(chosen.all()) for chosen in candidates.most_changed(state.fused.groups))


def test_the_rise_of_the_loss_is_that_of_two_draws_added_and_subtracted():
    task, state = step_of(Step, flat__sigma=0.2)
    auto, sigma, step = AutoSigma(state), 0.5, 3
    rise, plain = auto.rise(sigma, step)
    batch = task.batch(step, 0)
    places = auto.draws[0]._places
    kept = [layer.base_weight().clone() for layer in task.layers]

    def loss() -> float:
        with torch.no_grad():
            contributions, count = task.loss(batch)
        return float(contributions.sum()) / count

    assert plain == pytest.approx(loss(), rel=1e-12)
    noisy = []
    for number, sign in itertools.product((1, 2), (1, -1)):
        for layer, weight, place in zip(task.layers, kept, places, strict=True):
            with torch.no_grad():
                rows = (weight + layer.factors().delta()).norm(dim=1) * sigma / math.sqrt(weight.shape[1])
                where = torch.tensor([number]), place.unit
                eps = noise.normals_reference(tuple(weight.shape), auto.draws[0].seed, *where, before=place.before)
                layer.base.weight.copy_(weight + sign * rows[:, None] * eps)
        noisy.append(loss())
    assert rise == pytest.approx(sum(noisy) / 4 - plain, rel=1e-9) and rise > 0


def test_sigma_follows_the_rise_of_the_loss():
    assert AutoSigma.scaled(0.2, 0.0016, 0.25) == pytest.approx(0.2 * 1.25)  # sqrt(0.0025 / 0.0016)
    assert AutoSigma.scaled(0.2, -1.0, 0.25) == AutoSigma.scaled(0.2, 1e-9, 0.25) == 0.4  # at most twice
    assert AutoSigma.scaled(0.2, 1.0, 0.25) == 0.1  # at least half
    assert AutoSigma.scaled(1.5, 0.0, 0.25) == 2 and AutoSigma.scaled(0.06, 1.0, 0.25) == 0.05


def test_sigma_is_measured_every_twenty_steps_and_trains_as_a_sigma_that_is_given(monkeypatch):
    task, state = step_of(FastStep, flat__sigma=0.2, train__steps=41)
    auto = AutoSigma(state)
    measured: list[int] = []
    own = auto.rise
    monkeypatch.setattr(auto, "rise", lambda sigma, step: (measured.append(step), own(sigma, step))[1])
    monkeypatch.setattr(fast, "sigma_at", auto)
    sigmas = []
    for step in range(41):
        state(step)
        sigmas.append(float(state.sigma))
    assert measured == [0, 20, 40] and len(set(sigmas)) > 1
    assert sigmas[0] == sigmas[19] and sigmas[20] == sigmas[39] and sigmas[40] == pytest.approx(auto.sigma)
    monkeypatch.setattr(fast, "sigma_at", lambda _sigma, step, _steps: sigmas[step])
    other, same = step_of(FastStep, flat__sigma=0.2, train__steps=41)
    for step in range(41):
        same(step)
    for name, p in adapters.trainable(task.model).items():
        assert torch.equal(p, adapters.trainable(other.model)[name])
    assert flat.sigma_at(0.2, 41, 41) == 0.2  # what a draw of a constant sigma relies on


@pytest.mark.parametrize(
    ("m", "n", "rank", "k"),
    [(192, 192, 16, 2), (224, 224, 16, 4), (192, 384, 16, 4), (224, 384, 2, 2), (64, 64, 16, 1), (1280, 1280, 64, 16)],
)
def test_k_grows_with_the_width_of_a_layer(m: int, n: int, rank: int, k: int):
    assert candidates.k_of(m, n, rank) == k


def test_layers_are_cut_by_their_width_and_train_like_peft(monkeypatch):
    monkeypatch.setattr(candidates, "SMALLEST_BLOCK", 4.5)
    cfg = settings("gralora", **{"adapter.k": 4, "adapter.rank": 8, "flat.sigma": 0.0})
    tasks = [Regression(cfg) for _ in range(2)]
    ends = []
    for task, kind in zip(tasks, (Step, FastStep), strict=True):
        candidates.cut_by_width(task, cfg.seed)
        ks = {layer.path: layer.factors().a.shape[0] // 8 for layer in task.layers}
        assert ks == {layer.path: candidates.k_of(*layer.base.weight.shape, 8) for layer in task.layers}
        assert set(ks.values()) == {2, 4} and all(not bool(layer.factors().delta().any()) for layer in task.layers)
        state = kind(task, cfg, CPU, torch.float64, plan.forced(cfg, "eager" if kind is Step else "compiled"))
        for step in range(3):
            state(step)
        ends.append(adapters.trainable(task.model))
    assert all(torch.allclose(p, ends[1][name], rtol=0, atol=1e-8) for name, p in ends[0].items())
    assert all(p.dtype == torch.float64 and bool(p.any()) for p in ends[0].values())


def test_a_layer_whose_k_stays_begins_as_it_was_attached(monkeypatch):
    monkeypatch.setattr(candidates, "k_of", lambda *_sides: 2)
    cfg = settings("gralora")
    model, layers = nn.Sequential(nn.Linear(16, 16)), []
    layers = adapters.attach(model, cfg.adapter.model_copy(update={"targets": ("0",), "k": 2}), cfg.seed)
    before = {name: p.detach().clone() for name, p in adapters.trainable(model).items()}
    task: Any = type("Model", (), {"model": model, "layers": layers})()
    candidates.cut_by_width(task, cfg.seed)
    after = adapters.trainable(model)
    assert list(after) == list(before) and all(torch.equal(before[name], p) for name, p in after.items())


@pytest.mark.parametrize("name", OURS)
def test_arms_are_known_and_judged_alike(name: str):
    experiment = EXPERIMENTS[name]
    assert isinstance(experiment.data, Pictures) and experiment.data.outside and experiment.also == OUTSIDE
    own = {arm: what for arm, what in experiment.arms.items() if not what.like}
    assert all(what.chosen and what.scale == 1 for what in own.values())
    assert {what.candidate for what in own.values()} <= set(candidates.STEPS)
    jobs = {arm: job(name, experiment, arm, 1) for arm in own}
    assert len({one.key for one in jobs.values()}) == len(jobs)
    flat_ones = [one for one in jobs.values() if one.strength != "cosine" or one.candidate == "half of the layers"]
    assert all(one.settings["flat.sigma"] > 0 for one in flat_ones)


@pytest.mark.parametrize("name", OURS)
def test_the_report_has_what_is_out_of_domain_at_the_chosen_checkpoint(name: str, tmp_path: Path):
    experiment = dataclasses.replace(EXPERIMENTS[name], seeds=(1, 2, 3), tuning=(4,))

    def run(one: Job) -> dict[str, Any]:
        rows = []
        for number, step in enumerate((0, *experiment.measured)):
            validation = 0.2 if number == 2 else 0.3  # the second checkpoint is the best
            loss = validation + 0.001 * one.seed * (number == 2)
            own = {measure: loss / 2 for measure in OUTSIDE}
            rows.append({"step": step, "validation": validation, "scoring": loss, **own})
        return {"arm": one.arm, "seed": one.seed, "lr": one.lr, "measures": rows, "device": "none"}

    tuned = [run(one) for one in tuning_jobs(name, experiment)]
    rates = analysis.best_rates(tuned, experiment)
    text = write(name, experiment, tuned, [run(one) for one in scoring_jobs(name, experiment, rates)], tmp_path)
    assert all(f"| {measure} | LoRA | 0.15 | 0.101 |" in text for measure in OUTSIDE)
    assert set(rates) == ({arm for arm, what in experiment.arms.items() if not what.like} if experiment.grid else set())
    assert (tmp_path / f"{name}.svg").is_file()


def test_a_candidate_is_another_run_and_nothing_else_has_another_key():
    experiment = EXPERIMENTS["recipe"]
    plain = job("recipe", experiment, "Flat-GraLoRA", 1)
    assert "candidate" not in plain.facts() and job("recipe", experiment, BY_WIDTH, 1).key != plain.key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("candidate", candidates.STEPS)
def test_captured_candidates_equal_uncaptured_ones(candidate: str):
    from tests.parity.test_captured import CUDA, OnGpu, trace, weights

    cfg = settings("lora", flat__sigma=0.3)
    ends = []
    for mode in ("captured", "compiled"):
        task: Any = OnGpu(cfg, torch.float32)
        state = candidates.STEPS[candidate](task, cfg, CUDA, torch.float32, plan.forced(cfg, mode))
        ends.append((trace(state), weights(state)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-6)
    assert all((one - other).abs().max() < 1e-6 for one, other in zip(ends[0][1], ends[1][1], strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_sigma_is_chosen_between_captured_steps_without_disturbing_them(monkeypatch):
    from tests.parity.test_captured import CUDA, OnGpu, trace, weights

    cfg, ends = settings("lora", flat__sigma=0.3), []
    for mode in ("captured", "compiled"):
        task: Any = OnGpu(cfg, torch.float32)
        state = FastStep(task, cfg, CUDA, torch.float32, plan.forced(cfg, mode))
        monkeypatch.setattr(AutoSigma, "EVERY", 3)
        monkeypatch.setattr(fast, "sigma_at", AutoSigma(state))
        ends.append((trace(state), weights(state)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    assert all((one - other).abs().max() < 1e-5 for one, other in zip(ends[0][1], ends[1][1], strict=True))
