"""The loss on pictures at draws that are the same every time, and a base that is measured by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import seeds
from ..config import Config
from ..errors import AdapterError
from ..weight_noise import Pairs
from . import foreign
from .batches import Batch, Batches
from .data import of_run
from .dataset import Dataset, Example
from .families import Embedding, Network, Objective
from .model import Base, Progress


class Denoises(Protocol):
    """A model with what its losses are made of."""

    objective: Objective
    batches: Batches

    def predict(self, noised: Tensor, batch: Batch) -> Tensor:
        """What the denoiser says of ``noised`` (B, C, h, w) with the batch's captions."""
        ...


def denoising_loss(
    task: Denoises,
    examples: Sequence[Example],
    seed: int,
    timesteps: int = 8,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> float:
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
        progress(index + 1, len(examples))
    return float(torch.stack(losses).mean())


def condition(network: Network, encoders: Sequence[nn.Module], batch: Batch, dtype: torch.dtype) -> Embedding:
    """The batch's captions as the denoiser reads them, in its type; zeros where one is dropped.

    ``encoders``: needed where the batch has captions as token ids.
    """
    if batch.ids is not None:
        read = captions(network, encoders, batch.ids, dtype)
    else:
        assert batch.tokens is not None
        read = Embedding(batch.tokens, batch.pooled)
    kept = batch.caption_kept
    if kept is None:
        return read
    pooled = None if read.pooled is None else read.pooled * kept[:, None]
    return Embedding(read.tokens * kept[:, None, None], pooled)


def captions(network: Network, encoders: Sequence[nn.Module], ids: Tensor, dtype: torch.dtype) -> Embedding:
    """Token ids (B, E, L) or (B, E, n, L) through the text encoders as they are, in the denoiser's type."""
    return Embedding(*(tensor.to(dtype) for tensor in network.read(encoders, ids).tensors))


class Measured:
    """A run's base on its device, with the pictures that its losses are of.

    Args:
        cfg: The run's settings; with ``adapter.text_encoders`` captions go through the text encoders each time.
        most: At most so many pictures, of those that are held out, or else of those that are trained on.

    Raises:
        DataError, ConfigError, ModelError: as :class:`.dataset.Dataset`.
    """

    def __init__(self, cfg: Config, device: torch.device, dtype: torch.dtype, most: int, progress: Progress):
        cfg = cfg.model_copy(
            update={
                "prior": cfg.prior.model_copy(update={"weight": 0.0}),  # class pictures are not measured
                "sample": cfg.sample.model_copy(update={"prompts": ()}),
            }
        )
        self.seed, self.dtype = cfg.seed, dtype
        base = Base.of(cfg.base, device, dtype)
        self.family, self.network = base.family, base.family.network()
        data = Dataset(base, cfg, of_run(cfg.data).pictures, progress)
        self.held_out = bool(data.held_out)
        distinct = {id(variants): variants for variants in data.held_out or data.instances}  # some are seen repeatedly
        self.examples = [variants[0] for variants in distinct.values()][:most]
        self.objective = self.network.objective(base.part("scheduler"), cfg.loss, device)
        self.batches = Batches(data, cfg, self.objective, device, dtype)
        progress("Loading the model", 0, 1)
        names = (self.family.denoiser, *(self.family.encoders if cfg.adapter.text_encoders != "none" else ()))
        self.models: dict[str, Any] = {name: base.part(name) for name in names}

    def predict(self, noised: Tensor, batch: Batch) -> Tensor:
        """See :class:`Denoises`."""
        denoiser, *encoders = self.models.values()
        read = condition(self.network, encoders, batch, self.dtype)
        return self.network.predict(denoiser, noised.to(self.dtype), batch.timesteps, read, batch.framing)

    def loss(self) -> float:
        """The mean loss of the pictures."""
        return denoising_loss(self, self.examples, self.seed)

    def pairs(self, path: Path) -> Pairs:
        """An adapter's updates by "model.layer". Raises AdapterError."""
        read = foreign.read(path, self.models, self.family)
        return {f"{model}.{layer}": pair for model, own in read.items() for layer, pair in own.items()}

    def layers(self, paths: Sequence[str]) -> dict[str, nn.Linear]:
        """The layers of those names, in the order of the models. Raises AdapterError for what is not linear."""
        wanted = set(paths)
        every = (
            (f"{name}.{path}", layer) for name, model in self.models.items() for path, layer in model.named_modules()
        )
        chosen: dict[str, Any] = {path: layer for path, layer in every if path in wanted}
        if odd := [path for path, layer in chosen.items() if not isinstance(layer, nn.Linear)]:
            rule = f"{odd[0]} is not a linear layer ({len(odd)} such layers)"
            raise AdapterError(f"Weight noise is measured on linear layers: {rule}. Take a run of linear layers.")
        return chosen
