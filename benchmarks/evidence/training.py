"""One run of an experiment on the embedded base, without its files: losses on pictures that it never sees."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank_diffusion import adapters, devices, plan, presets, runs, seeds
from lowrank_diffusion.image.data import scan, write_set
from lowrank_diffusion.image.dataset import Example
from lowrank_diffusion.paths import PROJECT
from trainers import fast
from trainers.dreambooth import DreamBooth
from trainers.fast import FastStep
from trainers.step import Diverged, Step

from ..heldout_style import held_out_examples
from .experiments import Job

VALIDATION = 0.3
"""Share of the held-out pictures that choose checkpoints and learning rates; the others score."""
TIMESTEPS = 8
AT_ONCE = 25
"""Pictures measured in one forward pass, each at all timesteps."""
COURSES = {
    "cosine": lambda sigma, step, steps: 0.5 * sigma * (1 - math.cos(math.pi * step / steps)),
    "constant": lambda sigma, _step, _steps: sigma,
    "falling": lambda sigma, step, steps: 0.5 * sigma * (1 + math.cos(math.pi * step / steps)),
}
"""Flat-LoRA's strength at a step; ``cosine`` is lowrank_diffusion.flat.sigma_at."""


def train(job: Job) -> dict[str, Any]:
    """Losses after the measured steps; the base's own under step 0."""
    preset = presets.find_preset("emoji-style")
    with tempfile.TemporaryDirectory() as folder:
        settings = job.settings | {"data.instance": str(_pictures(job, Path(folder)))}
        cfg = presets.build(preset.values, settings)
        device = devices.pick(cfg.train.device)
        run = runs.create(cfg, "evidence", Path(folder))
        task = DreamBooth(run, run.config(), device, torch.float32, lambda *_: None)
        measure = Measure(task, job.held_out)
        begin = time.perf_counter()
        found = {"key": job.key, **{name: value for name, value in job.__dict__.items() if name != "settings"}}
        found["settings"] = job.settings
        fast.sigma_at = COURSES[job.strength]  # type: ignore[assignment]
        captured = device.type == "cuda" and cfg.adapter.dropout == 0
        how = plan.forced(cfg, "captured" if captured else "compiled")
        state = FastStep(task, run.config(), device, torch.float32, how)
        found["measures"] = _trained(state, job, measure)
        return found | {"seconds": time.perf_counter() - begin, "device": devices.describe(device)}


def _trained(state: Step, job: Job, measure: Measure) -> list[dict[str, float]]:
    with state.evaluating(), adapters.disabled(state.task.model):
        rows = [{"step": 0, **measure()}]
    losses: list[float] = []
    try:
        for step in range(job.measured[-1]):
            losses += [result.loss for result in state.advance(step)]
            if step + 1 in job.measured:
                losses += [result.loss for result in state.drain()]
                rows.append(_measured(state, measure, step + 1, losses[-50:]))
    except Diverged:
        rows.append({"step": job.measured[-1], **dict.fromkeys(("validation", "scoring"), float("inf"))})
    return rows


def _measured(state: Step, measure: Measure, step: int, recent: list[float]) -> dict[str, float]:
    with state.evaluating():
        weaker = {f"{name} at 0.75": value for name, value in _weaker(state, measure).items()}
        row = {"step": step, "training": sum(recent) / len(recent), "size": _size(state)}
        return row | measure() | weaker


def _weaker(state: Step, measure: Measure, strength: float = 0.75) -> dict[str, float]:
    """The losses with the adapter at a part of its strength; the update is linear in each layer's B."""
    ups = [p for name, p in state.parameters.items() if "lora_B" in name or "gralora_B" in name]
    with torch.no_grad():
        kept = [p.detach().clone() for p in ups]
        for p in ups:
            p.mul_(strength)
        found = measure()
        for p, before in zip(ups, kept, strict=True):
            p.copy_(before)
    return found


@torch.no_grad()
def _size(state: Step) -> float:
    """|dW| of all layers together, Frobenius: how far the weights went, whatever the rate and scaling were."""
    total = 0.0
    for layer in state.task.layers:
        pair = layer.factors()
        total += float(torch.linalg.matrix_norm(pair.b.double() @ pair.a.double()) ** 2)
    return math.sqrt(total)


class Measure:
    """Mean denoising loss of the held-out pictures at evenly spaced timesteps; the draws are the same for every run."""

    def __init__(self, task: DreamBooth, count: int):
        self.task = task
        self.plain = task.objective.plain()
        examples = held_out_examples(task)[:count]
        order = torch.randperm(len(examples), generator=seeds.generator(0, 0, "evidence")).tolist()
        self.validating = set(order[: int(VALIDATION * count)])
        self.batches = [
            self._batch(examples[start : start + AT_ONCE], start) for start in range(0, len(examples), AT_ONCE)
        ]

    def _batch(self, examples: list[Example], start: int) -> Any:
        places = self.task.objective.spaced_timesteps(TIMESTEPS)
        shape = (TIMESTEPS, *examples[0].mean.shape)
        noise = [
            torch.randn(shape, generator=seeds.generator(0, start + i, "validation")) for i in range(len(examples))
        ]
        several = [example for example in examples for _ in range(TIMESTEPS)]
        none = torch.zeros(len(several), *shape[1:])
        ones = torch.ones(len(several))
        return self.task.batches.collate(several, none, torch.cat(noise), places.repeat(len(examples)), ones)

    def __call__(self) -> dict[str, float]:
        """The mean over validation pictures, and over scoring pictures."""
        losses: list[Tensor] = []
        for batch in self.batches:
            noised = self.plain.noised(batch.latents, batch.noise, batch.timesteps, batch.mask)
            predicted = self.task.predict(noised, batch)
            each = self.plain.loss(predicted, batch.latents, batch.noise, batch.timesteps)
            losses.append(each.view(-1, TIMESTEPS).mean(1).double().cpu())
        every = torch.cat(losses)
        chosen = torch.tensor([index in self.validating for index in range(len(every))])
        return {"validation": float(every[chosen].mean()), "scoring": float(every[~chosen].mean())}


def _pictures(job: Job, folder: Path) -> Path:
    """A folder with the seed's pictures of the style."""
    every = scan(PROJECT / job.settings["data.instance"])
    order = torch.randperm(len(every), generator=seeds.generator(job.seed, 0, "pictures")).tolist()
    chosen = [every[index] for index in sorted(order[: job.pictures])]
    captions = [picture.caption for picture in chosen]
    wrong = order[: round(job.misnamed * len(chosen))]  # of the shuffled order, so by chance
    places = [sorted(order[: job.pictures]).index(index) for index in wrong]
    for place, other in zip(places, places[1:] + places[:1], strict=True):
        captions[place] = chosen[other].caption
    return write_set(folder / "pictures", [(p.path, said) for p, said in zip(chosen, captions, strict=True)])
