"""The loss on pictures that are not trained on, at draws that are the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lowrank_diffusion import seeds
from lowrank_diffusion.image.dataset import Example

if TYPE_CHECKING:
    from .dreambooth import DreamBooth


def denoising_loss(task: DreamBooth, examples: list[Example], seed: int, timesteps: int = 8) -> float:
    """Mean loss of ``examples`` at ``timesteps`` evenly spaced timesteps, noise fixed by (seed, index).

    Masks count; weights, of pictures as of timesteps, do not.
    """
    places = task.objective.spaced_timesteps(timesteps)
    plain = task.objective.plain()
    losses = []
    for index, example in enumerate(examples):
        shape = (timesteps, *example.mean.shape)
        noise = torch.randn(shape, generator=seeds.generator(seed, index, "validation"))
        batch = task.batches.collate([example] * timesteps, torch.zeros(shape), noise, places, torch.ones(timesteps))
        noised = plain.noised(batch.latents, batch.noise, batch.timesteps)
        predicted = task.predict(noised, batch)
        losses.append(plain.loss(predicted, batch.latents, batch.noise, batch.timesteps, batch.mask).mean())
    return float(torch.stack(losses).mean())
