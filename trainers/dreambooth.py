"""DreamBooth: pictures and captions in, an adapter of the denoiser's linear layers out.

With ``adapter.text_encoders`` those of the text encoders learn too. They then stay on the device, and captions go
through them at every step instead of once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank_diffusion import adapters, events, hashes
from lowrank_diffusion.config import Config
from lowrank_diffusion.image import notes, text_encoders
from lowrank_diffusion.image.batches import Batch, Batches
from lowrank_diffusion.image.data import of_run
from lowrank_diffusion.image.dataset import Dataset
from lowrank_diffusion.image.export import export
from lowrank_diffusion.image.families import Embedding
from lowrank_diffusion.image.model import Base, Progress
from lowrank_diffusion.image.samples import Samples
from lowrank_diffusion.image.text_encoders import WithTextEncoders
from lowrank_diffusion.image.validation import captions, condition, denoising_loss
from lowrank_diffusion.metadata import Facts
from lowrank_diffusion.runs import Run

from . import fingerprint
from .task import Counted, uncounted


class DreamBooth:
    """The task."""

    def __init__(
        self,
        run: Run,
        cfg: Config,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        tell: Callable[[events.Event], None] = lambda _event: None,
    ):
        self.run, self.cfg, self.device, self.dtype, self.tell = run, cfg, device, dtype, tell
        self.base = Base.of(cfg.base, device, dtype)
        self.family, self.network = self.base.family, self.base.family.network()
        hashes.begin(self.base.source.file)
        instance = of_run(cfg.data)
        for note in notes.notes(cfg, instance, notes.given_classes(cfg), self.base.source):
            tell(events.Note(note))
        self.data = Dataset(self.base, cfg, instance.pictures, progress)
        scheduler = self.base.part("scheduler")
        self.objective = self.network.objective(scheduler, cfg.loss, device)
        self.batches = Batches(self.data, cfg, self.objective, device, dtype)
        progress("Loading the model", 0, 1)
        self.model: Any = self.base.part(self.family.denoiser)
        self.denoiser = self.model
        if left_out := self.network.prepare(self.denoiser, device):
            tell(events.Note(left_out))
        self.layers = adapters.attach(self.denoiser, cfg.adapter, cfg.seed)
        if cfg.adapter.text_encoders != "none":
            self._attach_text_encoders()
        if cfg.train.checkpointing:
            self.model.enable_gradient_checkpointing()
        self.samples = Samples(self.base, self.denoiser, scheduler, cfg.sample, self.data.side)

    def _attach_text_encoders(self) -> None:
        """Adapt the text encoders too, and make them one model with the denoiser. Raises ConfigError."""
        encoders = {name: self.base.part(name) for name in self.family.encoders}
        text_encoders.attach(self.family, encoders, self.cfg.adapter, self.cfg.seed)
        self.model = WithTextEncoders(self.family, {self.family.denoiser: self.denoiser, **encoders})
        self.layers = adapters.adapted_layers(self.model)

    def content(self) -> dict[str, Any]:
        """Pictures and captions by name, as they are, and what VAE and text encoders made of them."""
        return self.data.marks | {"encoded": fingerprint.digest(list(self.data.tensors()))}

    def batch(self, step: int, micro: int) -> Batch:
        """Micro-batch ``micro`` of ``step``."""
        return self.batches.at(step, micro)

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """Weighted denoising losses (B,) and the number of instances: class examples add to the instances' mean."""
        noised = self.objective.noised(batch.latents, batch.noise, batch.timesteps)
        predicted = self.predict(noised, batch)
        losses = self.objective.loss(predicted, batch.latents, batch.noise, batch.timesteps, batch.mask)
        return losses * batch.weights, batch.count

    def predict(self, noised: Tensor, batch: Batch) -> Tensor:
        """What the denoiser says of ``noised`` (B, C, h, w) with the batch's captions."""
        embedding = self.condition(batch)
        return self.network.predict(
            self.denoiser, noised.to(self.dtype), batch.timesteps, embedding, batch.framing
        )  # fmt: skip

    def condition(self, batch: Batch) -> Embedding:
        """The batch's captions as the denoiser reads them."""
        return condition(self.network, self._encoders, batch, self.dtype)

    @property
    def _encoders(self) -> list[torch.nn.Module]:
        """The text encoders that are trained; none if they are not."""
        return list(self.model.encoders.values()) if isinstance(self.model, WithTextEncoders) else []

    def _read(self, ids: Tensor) -> Embedding:
        """Captions (B, E, L) through the text encoders as they are, in the denoiser's type."""
        return captions(self.network, self._encoders, ids, self.dtype)

    def validate(self, progress: Counted = uncounted) -> float | None:
        """Unweighted loss on the held-out pictures, each at the same evenly spaced timesteps and noise every time."""
        if not self.data.held_out:
            return None
        return denoising_loss(self, [variants[0] for variants in self.data.held_out], self.cfg.seed, progress=progress)

    def sample(self, step: int, prompts: tuple[str, ...] = (), progress: Counted = uncounted) -> list[tuple[str, Path]]:
        """One picture for each of ``prompts``, or of the run's own, from the model as it is."""
        unread = [text for text in (*prompts, self.cfg.sample.negative) if prompts and text not in self.data.prompts]
        self.data.prompts |= self.data.embeddings(unread, lambda *_: None) if unread else {}
        return self.samples.draw(step, self.run.path / "samples", self._embedding, prompts, progress)

    def _embedding(self, prompt: str) -> Embedding:
        known = self.data.prompts[prompt]
        if isinstance(known, Embedding):
            return known
        return Embedding(*(tensor[0] for tensor in self._read(known.ids[None]).tensors))

    def export(self, folder: Path, step: int, loss: float | None) -> list[Path]:
        """Adapter files in every form; see :mod:`lowrank_diffusion.image.export`."""
        facts = Facts(
            name=self.run.stem, config=self.cfg, base=self.base.source.label, prediction=self.objective.prediction,
            pictures=self.data.trained_on, resolution=self.data.side, step=step, loss=loss,
            started=self.run.status().started, run=self.run.name,
            precision=str(self.dtype).removeprefix("torch."), base_file=self.base.source.file,
        )  # fmt: skip
        trained = {self.family.denoiser: self.denoiser}
        if isinstance(self.model, WithTextEncoders):
            trained |= self.model.encoders
        made = export(self.family, trained, folder, facts)
        if made.note and folder == self.run.path:
            self.tell(events.Note(made.note))
        return made.paths
