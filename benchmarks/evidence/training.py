"""One run of an experiment, without its files: the trainer's own step, and measures of what no run learns from."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from lowrank_diffusion import adapters, devices, plan
from lowrank_diffusion.config import Config
from trainers import fast
from trainers.step import Diverged, Step
from trainers.task import Task

from . import candidates
from .design import AUTO, BY_WIDTH, Data, Job


class Measure(Protocol):
    """Measures the task's model as it is."""

    def __call__(self) -> dict[str, float]:
        """Under "validation" and "scoring", and perhaps more; of a weaker adapter too."""
        ...

    def beside(self) -> dict[str, float]:
        """What is measured of the adapter at its own strength only."""
        ...


WEAKER = 0.75
"""Of the strength at which every adapter is measured too."""
COURSES = {
    "cosine": lambda sigma, step, steps: 0.5 * sigma * (1 - math.cos(math.pi * step / steps)),
    "constant": lambda sigma, _step, _steps: sigma,
    "falling": lambda sigma, step, steps: 0.5 * sigma * (1 + math.cos(math.pi * step / steps)),
}
"""Flat-LoRA's strength at a step; ``cosine`` is lowrank_diffusion.flat.sigma_at. Beside them there is
:class:`.candidates.AutoSigma`."""


def train(job: Job) -> dict[str, Any]:
    """The run as a line of results: what it was, and its measures after the measured steps; the base's under step 0."""
    begin = time.perf_counter()
    measures, device = _module(job.data).train(job)
    return job.described() | {"measures": measures, "seconds": time.perf_counter() - begin, "device": device}


def prepare(data: Data) -> None:
    """Once before many processes train on such data: make what all of them read."""
    _module(data).prepare(data)


def _module(data: Data) -> Any:
    return importlib.import_module(f".{data.trainer}", __package__)


def trained(task: Task, cfg: Config, job: Job, dtype: torch.dtype, measure: Measure) -> list[dict[str, float]]:
    """Train ``task``, captured where CUDA can, and measure it after the measured steps; the base's under step 0."""
    if job.candidate == BY_WIDTH:
        candidates.cut_by_width(task, cfg.seed)
    state = _state(task, cfg, dtype, job.candidate)
    auto = candidates.AutoSigma(state) if job.strength == AUTO else None
    fast.sigma_at = auto or COURSES[job.strength]  # type: ignore[assignment]
    with state.evaluating(), state.autocast(), adapters.disabled(state.task.model):
        base = measure() | measure.beside()
    rows, losses = [{"step": 0, **base}], list[float]()
    try:
        for step in range(job.measured[-1]):
            losses += [result.loss for result in state.advance(step)]
            if step + 1 in job.measured:
                losses += [result.loss for result in state.drain()]
                row = _measured(state, measure, step + 1, losses[-50:])
                rows.append(row | ({"sigma": auto.sigma} if auto else {}))
    except Diverged:
        names = [*base, *map(weaker, base)]
        rows.append({"step": job.measured[-1], **dict.fromkeys(names, float("inf"))})
    finally:
        fast.sigma_at = COURSES["cosine"]  # what was there may hold the whole run's memory
    return rows


def _state(task: Task, cfg: Config, dtype: torch.dtype, candidate: str) -> Step:
    device = devices.pick(cfg.train.device)
    if cfg.adapter.dropout:  # draws masks, which only PEFT's own layers do
        assert not candidate, "no candidate runs eager steps"
        return Step(task, cfg, device, dtype)
    how = plan.forced(cfg, "captured" if device.type == "cuda" else "compiled")
    return candidates.STEPS[candidate](task, cfg, device, dtype, how)


def weaker(name: str) -> str:
    """What a measure is called when the adapter has a part of its strength."""
    return f"{name} at {WEAKER}"


def _measured(state: Step, measure: Measure, step: int, recent: list[float]) -> dict[str, float]:
    with state.evaluating(), state.autocast():
        with at_strength(state.task.model, WEAKER):
            less = {weaker(name): value for name, value in measure().items()}
        row = {"step": step, "training": sum(recent) / len(recent), "size": _size(state)}
        return row | measure() | less | measure.beside()


@contextmanager
def at_strength(model: nn.Module, strength: float) -> Iterator[None]:
    """Inside, the adapters have ``strength`` times their update, which is linear in each layer's B."""
    ups = [p for name, p in model.named_parameters() if "lora_B" in name or "gralora_B" in name]
    with torch.no_grad():
        kept = [p.detach().clone() for p in ups]
        try:
            for p in ups:
                p.mul_(strength)
            yield
        finally:
            for p, before in zip(ups, kept, strict=True):
                p.copy_(before)


@torch.no_grad()
def _size(state: Step) -> float:
    """|dW| of all layers together, Frobenius: how far the weights went, whatever the rate and scaling were."""
    total = 0.0
    for layer in state.task.layers:
        pair = layer.factors()
        total += float(torch.linalg.matrix_norm(pair.b.double() @ pair.a.double()) ** 2)
    return math.sqrt(total)
