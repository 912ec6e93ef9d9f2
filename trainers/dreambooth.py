"""DreamBooth on SDXL: pictures and captions in, an adapter of the UNet's linear layers out.

With ``adapter.text_encoders`` those of the text encoders learn too. They then stay on the device, and captions go
through them at every step instead of once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from lowrank_diffusion import adapters, devices, events, hashes, seeds
from lowrank_diffusion.config import Config
from lowrank_diffusion.export import export
from lowrank_diffusion.image import (
    attention,
    buckets,
    crops,
    gated,
    loss,
    model,
    norms,
    notes,
    prior,
    text_encoders,
)
from lowrank_diffusion.image.buckets import Size
from lowrank_diffusion.image.data import Picture, survey
from lowrank_diffusion.image.model import Base, Embedding, Progress
from lowrank_diffusion.image.replay import Replay
from lowrank_diffusion.image.text_encoders import WithTextEncoders
from lowrank_diffusion.metadata import Facts, Pictures
from lowrank_diffusion.runs import Run
from lowrank_diffusion.targets import TEXT_ENCODERS

from . import fingerprint
from .examples import Batch, Example, Words, marks, split, stacked
from .validation import denoising_loss


class DreamBooth:
    """The task. Each picture is a list of examples, its crops, of which a step takes one.

    With ``data.buckets`` a micro-batch holds pictures of one size; class pictures have examples of every size.
    """

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
        hashes.begin(self.base.source.file)
        found = survey(Path(cfg.data.instance), cfg.data.prompt)
        for note in notes.notes(cfg, found, notes.given_classes(cfg), self.base.source):
            tell(events.Note(note))
        pictures, held_out = split(found.pictures, cfg)
        self.side = cfg.data.resolution or self.base.native_size()
        self.scheduler = self.base.part("scheduler")
        self.objective = loss.objective(self.scheduler, cfg.loss.min_snr, cfg.loss.noise_offset, device)
        sizes, held_out_sizes = self._sizes(pictures), self._sizes(held_out)
        if cfg.data.buckets:
            progress(f"Buckets: {buckets.describe(sizes)}", 1, 1)
        self.batches = buckets.Batches(tuple(sizes), cfg.train.batch, cfg.seed) if cfg.data.buckets else None
        class_pictures = prior.pictures(self.base, cfg, self.side, progress)
        self._content = {"pictures": marks(pictures), "class pictures": marks(class_pictures)}
        captions, place, other = [p.caption for p in pictures], Path(cfg.data.instance), Path(cfg.prior.pictures)
        self._seen = Pictures(captions, len(class_pictures), place.name, other.name, sizes)
        # A class picture is seen beside instances of any size, in one forward pass with them.
        class_sizes = sorted(set(sizes)) if class_pictures else []
        groups = [crops.fit(pictures, sizes, cfg.data, cfg.seed)]
        groups += [crops.fit(class_pictures, [size] * len(class_pictures), cfg.data, cfg.seed) for size in class_sizes]
        groups += [crops.fit(held_out, held_out_sizes, cfg.data, cfg.seed)]
        # All that will ever be said to the UNet, and all it will see: the VAE can go, and frozen text encoders too.
        said = [crop.caption for group in groups for picture in group for crop in picture]
        said += [*cfg.sample.prompts, cfg.sample.negative] if cfg.sample.prompts else []
        self.prompts = self.embeddings(said, progress)
        self.instances, *classes, self.held_out = self.examples(groups, self.prompts, progress)
        self.classes = dict(zip(class_sizes, classes, strict=True))
        progress("Loading the UNet", 0, 1)
        self.model: Any = self.base.part("unet")
        self.unet = self.model
        attention.use_short_keys(self.unet, device)
        gated.use_gates(self.unet, device)
        norms.use_float32_norms(self.unet)
        self.layers = adapters.attach(self.unet, cfg.adapter, cfg.seed)
        if cfg.adapter.text_encoders != "none":
            self._attach_text_encoders()
        if cfg.train.checkpointing:
            self.model.enable_gradient_checkpointing()

    def content(self) -> dict[str, Any]:
        """Pictures and captions by name, as they are, and what VAE and text encoders made of them."""
        seen = [e for group in [self.instances, *self.classes.values()] for picture in group for e in picture]
        tensors = [t for e in seen for t in (e.mean, e.std, *e.embedding.tensors)]
        return self._content | {"encoded": fingerprint.digest(tensors)}

    def _attach_text_encoders(self) -> None:
        """Adapt the text encoders too, and make them one model with the UNet. Raises ConfigError."""
        encoders = [self.base.part(name) for name in TEXT_ENCODERS]
        text_encoders.attach(encoders, self.cfg.adapter, self.cfg.seed)
        self.model = WithTextEncoders(self.unet, *encoders)
        self.layers = adapters.adapted_layers(self.model)

    def _sizes(self, pictures: list[Picture]) -> list[Size]:
        """At which size each picture is seen. Raises ConfigError."""
        if not self.cfg.data.buckets:
            return [(self.side, self.side)] * len(pictures)
        table = buckets.table(self.cfg.data, self.side)
        return [buckets.nearest(picture.width, picture.height, table) for picture in pictures]

    def embeddings(self, prompts: list[str], progress: Progress) -> dict[str, Embedding | Words]:
        """Prompts on the device: as the UNet reads them, or as text encoders do that are trained."""
        if self.cfg.adapter.text_encoders != "none":
            tokenizers = [self.base.part(name) for name in ("tokenizer", "tokenizer_2")]
            said = text_encoders.tokenise(tokenizers, prompts, self.cfg.data.caption_chunks)
            return {prompt: Words(ids.to(self.device)) for prompt, ids in said.items()}
        found = model.embed(self.base, prompts, progress, self.cfg.data.caption_chunks)
        to = {"device": self.device, "dtype": self.dtype}
        return {prompt: Embedding(e.tokens.to(**to), e.pooled.to(**to)) for prompt, e in found.items()}

    def examples(
        self, groups: list[list[list[crops.Crop]]], prompts: dict[str, Embedding | Words], progress: Progress
    ) -> list[list[list[Example]]]:
        """Crops, grouped as they are, with their latents and embeddings."""
        flat = [crop for group in groups for picture in group for crop in picture]
        encoded = iter(model.encode(self.base, flat, self.cfg.data, progress))

        def example(crop: crops.Crop) -> Example:
            latent = next(encoded)
            return Example(latent["mean"], latent["std"], prompts[crop.caption], crop.time_ids)

        return [[[example(crop) for crop in picture] for picture in group] for group in groups]

    def batch(self, step: int, micro: int) -> Batch:
        """Micro-batch ``micro`` of ``step``: pictures by epoch in a drawn order; crop, noise and timestep drawn."""
        cfg, seed = self.cfg, self.cfg.seed
        number = step * cfg.train.accumulate * cfg.train.gpus + micro
        position = number * cfg.train.batch
        if self.batches is None:
            chosen = self._choose(self.instances, position, cfg.train.batch, "instance")
        else:
            pictures = [self.instances[index] for index in self.batches.at(number)]
            chosen = [self._variant(picture, position + i, "instance") for i, picture in enumerate(pictures)]
        if self.classes:
            chosen += self._choose(self.classes[chosen[0].size], position, cfg.train.batch, "class")
        generator = seeds.generator(seed, step, f"noise {micro}")
        shape = (len(chosen), *chosen[0].mean.shape)
        vae_noise, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        offset = torch.randn((*shape[:2], 1, 1), generator=generator)
        timesteps = torch.randint(self.objective.timesteps, (len(chosen),), generator=generator)
        noise = noise + self.objective.noise_offset * offset
        instances = len(chosen) - (cfg.train.batch if self.classes else 0)
        weights = torch.ones(len(chosen))
        weights[instances:] = cfg.prior.weight
        told = None
        if cfg.data.caption_dropout:
            told = torch.rand(len(chosen), generator=generator) >= cfg.data.caption_dropout
            told[instances:] = True
        return self.collate(chosen, vae_noise, noise, timesteps, weights, told)

    def _choose(self, pictures: list[list[Example]], position: int, count: int, name: str) -> list[Example]:
        """``count`` pictures from ``position`` on in an endless sequence of shuffled epochs, one crop of each."""
        chosen = []
        for place in range(position, position + count):
            epoch, index = divmod(place, len(pictures))
            order = torch.randperm(len(pictures), generator=seeds.generator(self.cfg.seed, epoch, f"order {name}"))
            chosen.append(self._variant(pictures[int(order[index])], place, name))
        return chosen

    def _variant(self, variants: list[Example], place: int, name: str) -> Example:
        return variants[seeds.number(self.cfg.seed, place, f"crop of {name}") % len(variants)]

    def _moved(self, tensor: Tensor) -> Tensor:  # from pinned memory CUDA copies without making the CPU wait
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def collate(
        self, examples: list[Example], vae_noise: Tensor, noise: Tensor, timesteps: Tensor, weights: Tensor,
        told: Tensor | None = None,
    ) -> Batch:  # fmt: skip
        """A micro-batch of examples with what was drawn for them, on the device."""
        mean, std = torch.stack([e.mean for e in examples]), torch.stack([e.std for e in examples])
        time_ids = torch.tensor([e.time_ids for e in examples], dtype=self.dtype)
        return Batch(
            latents=self._moved(mean + std * vae_noise),
            noise=self._moved(noise),
            timesteps=self._moved(timesteps),
            tokens=stacked([e.embedding.tokens for e in examples if isinstance(e.embedding, Embedding)]),
            pooled=stacked([e.embedding.pooled for e in examples if isinstance(e.embedding, Embedding)]),
            time_ids=self._moved(time_ids),
            weights=self._moved(weights),
            count=float(self.cfg.train.batch if self.classes else len(examples)),
            ids=stacked([e.embedding.ids for e in examples if isinstance(e.embedding, Words)]),
            told=None if told is None else self._moved(told),
        )

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """Weighted denoising losses (B,) and the number of instances: class examples add to the instances' mean."""
        noised = self.objective.noised(batch.latents, batch.noise, batch.timesteps)
        losses = self.objective.loss(self.predict(noised, batch), batch.latents, batch.noise, batch.timesteps)
        return losses * batch.weights, batch.count

    def predict(self, noised: Tensor, batch: Batch) -> Tensor:
        """What the UNet says of ``noised`` (B, C, h, w) with the batch's captions."""
        tokens, pooled = self.condition(batch)
        conditions = {"text_embeds": pooled, "time_ids": batch.time_ids}
        return self.unet(noised.to(self.dtype), batch.timesteps, tokens, added_cond_kwargs=conditions).sample

    def condition(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's captions as the UNet reads them, (B, L, D) and (B, P); zeros where one is dropped."""
        tokens, pooled = batch.tokens, batch.pooled
        if batch.ids is not None:
            tokens, pooled = self._read(batch.ids)
        assert tokens is not None and pooled is not None
        if batch.told is not None:  # SDXL reads "no prompt" as zeros
            tokens, pooled = tokens * batch.told[:, None, None], pooled * batch.told[:, None]
        return tokens, pooled

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Captions (B, 2, L) through the text encoders as they are: (B, L, D), (B, P), of the UNet's type."""
        tokens, pooled = text_encoders.read(self.model.encoders, ids)
        return tokens.to(self.dtype), pooled.to(self.dtype)

    def validate(self) -> float | None:
        """Unweighted loss on the held-out pictures, each at the same evenly spaced timesteps and noise every time."""
        if not self.held_out:
            return None
        examples = [picture[0] for picture in self.held_out]
        return denoising_loss(self, examples, self.cfg.seed)

    def sample(self, step: int) -> list[tuple[str, Path]]:
        """One picture per sample prompt, from the model as it is."""
        cfg = self.cfg.sample
        if not cfg.prompts:
            return []
        devices.release(self.device)  # of a step's memory, which comes in other sizes
        vae = self.base.part("vae", torch.float32)
        pipeline = StableDiffusionXLPipeline(
            vae, None, None, None, None, self.unet, self.scheduler, force_zeros_for_empty_prompt=True  # type: ignore[arg-type]
        )  # fmt: skip
        pipeline.set_progress_bar_config(disable=True)
        folder = self.run.path / "samples"
        folder.mkdir(exist_ok=True)
        drawn = []
        # Its graphs go with it: between samples their memory is the training's.
        replay = Replay(self.unet)
        for number, prompt in enumerate(cfg.prompts):
            with replay.active():
                (picture,) = model.draw(
                    pipeline, self._spoken(prompt), [cfg.seed], num_inference_steps=cfg.steps,
                    guidance_scale=cfg.guidance, width=self.side, height=self.side,
                )  # fmt: skip
            path = folder / f"step-{step:06d}-{number}.png"
            picture.save(path)
            drawn.append((prompt, path))
        del vae, pipeline
        devices.release(self.device)
        return drawn

    def _spoken(self, prompt: str) -> dict[str, Tensor]:
        positive, negative = self._embedding(prompt), self._embedding(self.cfg.sample.negative)
        keep = 1.0 if self.cfg.sample.negative else 0.0  # SDXL reads "no negative prompt" as zeros
        return {
            "prompt_embeds": positive.tokens[None],
            "pooled_prompt_embeds": positive.pooled[None],
            "negative_prompt_embeds": negative.tokens[None] * keep,
            "negative_pooled_prompt_embeds": negative.pooled[None] * keep,
        }

    def _embedding(self, prompt: str) -> Embedding:
        said = self.prompts[prompt]
        if isinstance(said, Embedding):
            return said
        tokens, pooled = self._read(said.ids[None])
        return Embedding(tokens[0], pooled[0])

    def export(self, folder: Path, step: int, loss: float | None) -> list[Path]:
        """Adapter files in every form; see :mod:`lowrank_diffusion.export`."""
        facts = Facts(
            name=self.run.title, config=self.cfg, base=self.base.source.label, prediction=self.objective.prediction,
            pictures=self._seen, resolution=self.side, step=step, loss=loss, started=self.run.status().started,
            run=self.run.name, precision=str(self.dtype).removeprefix("torch."), base_file=self.base.source.file,
        )  # fmt: skip
        trained = {"unet": self.unet}
        if isinstance(self.model, WithTextEncoders):
            trained |= dict(zip(TEXT_ENCODERS, self.model.encoders, strict=True))
        made = export(trained, folder, facts)
        if made.note and folder == self.run.path:
            self.tell(events.Note(made.note))
        return made.paths
