"""One run on the embedded picture base: losses on pictures that it never sees."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lowrank_diffusion import devices, presets, runs, seeds
from lowrank_diffusion.image.batches import Batch
from lowrank_diffusion.image.data import scan, write_set
from lowrank_diffusion.image.dataset import Example
from lowrank_diffusion.paths import PROJECT
from trainers.dreambooth import DreamBooth

from . import four_bits, held_out
from .design import Job
from .of_pictures import STRENGTHS, Pictures
from .training import at_strength, trained

VALIDATION = 0.3
"""Share of the held-out pictures that choose checkpoints and learning rates; the others score."""
TIMESTEPS = 8
AT_ONCE = 25
"""Pictures measured in one forward pass, each at all timesteps."""


def prepare(data: Pictures) -> None:
    """Nothing is shared."""


def train(job: Job) -> tuple[list[dict[str, float]], str]:
    """(measures, device); see :func:`.training.train`."""
    preset, data = presets.find_preset("emoji-style"), job.data
    assert isinstance(data, Pictures)
    with tempfile.TemporaryDirectory() as folder:
        settings = job.settings | {"data.instance": str(_pictures(job, data, Path(folder)))}
        cfg = presets.build(preset.values, settings)
        device = devices.pick(cfg.train.device)
        run = runs.create(cfg, "evidence", Path(folder))
        task = DreamBooth(run, run.config(), device, torch.float32, lambda *_: None)
        measures = trained(task, run.config(), job, torch.float32, Measure(task, data, Path(folder)))
        return measures, devices.describe(device)


class Measure:
    """Mean denoising loss of the held-out pictures at evenly spaced timesteps; the draws are the same for every run."""

    def __init__(self, task: DreamBooth, data: Pictures, folder: Path):
        self.task = task
        self.plain = task.objective.plain()
        found = held_out.pictures(data.held_out)
        order = torch.randperm(len(found), generator=seeds.generator(0, 0, "evidence")).tolist()
        self.validating = set(order[: int(VALIDATION * data.held_out)])
        self.batches = self._batches(held_out.examples(task, found), range(len(found)))
        self.outside: dict[str, list[Batch]] = {}
        if data.outside:
            scoring = [index for index in range(len(found)) if index not in self.validating]
            sets = held_out.further([found[index] for index in scoring], folder)
            made = {name: held_out.examples(task, pictures) for name, pictures in sets.items()}
            self.outside = {name: self._batches(examples, scoring) for name, examples in made.items()}

    def _batches(self, examples: list[Example], numbers: Sequence[int]) -> list[Batch]:
        """Of pictures with these numbers, of which their noise is drawn."""
        parts = [slice(start, start + AT_ONCE) for start in range(0, len(examples), AT_ONCE)]
        return [self._batch(examples[part], numbers[part]) for part in parts]

    def _batch(self, examples: list[Example], numbers: Sequence[int]) -> Batch:
        places = self.task.objective.spaced_timesteps(TIMESTEPS)
        shape = (TIMESTEPS, *examples[0].mean.shape)
        noise = [torch.randn(shape, generator=seeds.generator(0, number, "validation")) for number in numbers]
        several = [example for example in examples for _ in range(TIMESTEPS)]
        none = torch.zeros(len(several), *shape[1:])
        ones = torch.ones(len(several))
        return self.task.batches.collate(several, none, torch.cat(noise), places.repeat(len(examples)), ones)

    def __call__(self) -> dict[str, float]:
        """The mean over validation pictures, and over scoring pictures."""
        every = self._losses(self.batches)
        chosen = torch.tensor([index in self.validating for index in range(len(every))])
        return {"validation": float(every[chosen].mean()), "scoring": float(every[~chosen].mean())}

    def beside(self) -> dict[str, float]:
        """The means of :data:`.of_pictures.OUTSIDE` over scoring pictures; empty where they are not asked for."""
        if not self.outside:
            return {}
        found = {name: float(self._losses(batches).mean()) for name, batches in self.outside.items()}
        for strength in STRENGTHS:
            with at_strength(self.task.model, strength):
                found[f"strength {strength}"] = self()["scoring"]
        with four_bits.base(self.task.model):
            found["4 bits"] = self()["scoring"]
        return found

    def _losses(self, batches: list[Batch]) -> Tensor:
        """Each picture's mean over the timesteps, (N,) float64 on the CPU."""
        losses: list[Tensor] = []
        for batch in batches:
            noised = self.plain.noised(batch.latents, batch.noise, batch.timesteps)
            predicted = self.task.predict(noised, batch)
            each = self.plain.loss(predicted, batch.latents, batch.noise, batch.timesteps, batch.mask)
            losses.append(each.view(-1, TIMESTEPS).mean(1).double().cpu())
        return torch.cat(losses)


def _pictures(job: Job, data: Pictures, folder: Path) -> Path:
    """A folder with the seed's pictures of the style."""
    every = scan(PROJECT / job.settings["data.instance"])
    order = torch.randperm(len(every), generator=seeds.generator(job.seed, 0, "pictures")).tolist()
    chosen = [every[index] for index in sorted(order[: data.count])]
    captions = [picture.caption for picture in chosen]
    wrong = order[: round(data.misnamed * len(chosen))]  # of the shuffled order, so by chance
    places = [sorted(order[: data.count]).index(index) for index in wrong]
    for place, other in zip(places, places[1:] + places[:1], strict=True):
        captions[place] = chosen[other].caption
    return write_set(folder / "pictures", [(p.path, said) for p, said in zip(chosen, captions, strict=True)])
