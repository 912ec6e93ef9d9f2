"""The parts of a pipeline that training needs, one at a time: embeddings, latents, the denoiser, and drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import devices
from ..config import BaseModelConfig, DataConfig
from ..errors import UserError
from ..quantize import quantize
from . import cache, families
from .crops import Crop
from .data import content_key
from .families import Embedding, Family
from .load import identified, load_config, load_part, load_pipeline
from .memory import TILE
from .source import Source, fingerprint, resolve

Progress = Callable[[str, int, int], None]

CHUNKS = 8
"""As many as data.caption_chunks may be."""


@dataclass(frozen=True)
class Base:
    """A base model on one device, loaded whole or in parts."""

    source: Source
    vae: str | None
    device: torch.device
    dtype: torch.dtype
    quantize: str = "none"
    """How the denoiser's linear layers are stored; see :mod:`lowrank_diffusion.quantize`."""

    @classmethod
    def of(cls, cfg: BaseModelConfig, device: torch.device, dtype: torch.dtype) -> Base:
        """From settings. Raises ModelError."""
        return cls(identified(resolve(cfg)), cfg.vae, device, dtype, cfg.quantize)

    @property
    def family(self) -> Family:
        """What kind of model it is."""
        return self.source.family

    @property
    def key(self) -> str:
        """Changes when the model's content does."""
        return fingerprint(self.source, self.vae)

    def part(self, name: str, dtype: torch.dtype | None = None) -> Any:
        """One component; models come onto the device, frozen, in eval mode. Raises ModelError."""
        part = load_part(self.source, name, dtype or self.dtype, self.vae)
        if name == self.family.denoiser:
            quantize(part, self.quantize, self.device)
        return part.to(self.device).eval().requires_grad_(False) if isinstance(part, torch.nn.Module) else part

    def pipeline(self) -> Any:
        """All of it, silent. Raises ModelError."""
        pipeline = load_pipeline(self.source, self.dtype, self.vae)
        pipeline.set_progress_bar_config(disable=True)
        quantize(denoiser(pipeline), self.quantize, self.device)
        return pipeline.to(self.device)

    def native_size(self) -> int:
        """Side of the pictures this base was made for, in pixels; reads configurations only. Raises ModelError."""
        return native_size(load_config(self.source, self.family.denoiser), load_config(self.source, "vae"))

    def pixels_of_latent(self) -> int:
        """So many pixels a side are one of a latent. Raises ModelError."""
        return 2 ** (len(load_config(self.source, "vae")["block_out_channels"]) - 1)


def denoiser(pipeline: Any) -> Any:
    """The model of a pipeline that removes noise."""
    return getattr(pipeline, families.of_pipeline(pipeline).denoiser)


def embed(base: Base, prompts: list[str], progress: Progress, chunks: int = 1) -> dict[str, Embedding]:
    """Embeddings of all distinct prompts, on the CPU; the text encoders are loaded only if one is not cached.

    ``chunks``: of how many times the tokens that the text encoders take at once; see :mod:`.families.clip`.
    """
    distinct = sorted(set(prompts))
    encoder: list[Any] = []

    def make(index: int) -> cache.Tensors:
        if not encoder:
            encoder.append(_text_pipeline(base))
        with torch.no_grad():
            embedding = base.family.network().encode(encoder[0], distinct[index], chunks)
        pooled = {} if embedding.pooled is None else {"pooled": embedding.pooled[0].float()}
        return {"tokens": embedding.tokens[0].float()} | pooled

    how = [] if chunks == 1 else [chunks]
    names = [cache.key(base.key, base.dtype, "prompt", prompt, *how) for prompt in distinct]
    tensors = cache.fill("embeddings", names, make, lambda done, total: progress("Reading captions", done, total))
    encoder.clear()
    devices.release(base.device)
    items = zip(distinct, tensors, strict=True)
    return {prompt: Embedding(item["tokens"], item.get("pooled")) for prompt, item in items}


def prompts(pipeline: Any, prompt: str, negative: str) -> dict[str, Any]:
    """What a pipeline is given for these: the texts, or, where one is longer than is read at once, both in chunks.

    Raises:
        UserError: one is longer than :data:`CHUNKS` chunks.
    """
    family = families.of_pipeline(pipeline)
    tokenizer = getattr(pipeline, family.tokenizers[0])
    room = tokenizer.model_max_length - 2
    counts = [len(tokens) for tokens in tokenizer([prompt, negative], add_special_tokens=False).input_ids]
    chunks = max(1, -(-max(counts) // room))
    if chunks == 1:
        return {"prompt": prompt, "negative_prompt": negative or None}
    if chunks > CHUNKS:
        name = "prompt" if counts[0] > CHUNKS * room else "negative prompt"
        raise UserError(f"The {name} has {max(counts)} tokens; at most {CHUNKS * room} are read. Shorten it.")
    with torch.no_grad():
        positive, other = (family.network().encode(pipeline, text, chunks) for text in (prompt, negative))
    silent = not negative and getattr(pipeline.config, "force_zeros_for_empty_prompt", family.silence_is_zero)
    return arguments(family, positive, other, silent)


def arguments(family: Family, positive: Embedding, negative: Embedding, silent: bool) -> dict[str, Tensor]:
    """What a pipeline is given for two embeddings, B = 1 each; ``silent``: zeros stand for the negative one."""
    keep = 0.0 if silent and family.silence_is_zero else 1.0
    pooled = None if negative.pooled is None else negative.pooled * keep
    return family.network().arguments(positive, Embedding(negative.tokens * keep, pooled))


def _text_pipeline(base: Base) -> Any:
    names = (*base.family.tokenizers, *base.family.encoders, "scheduler")
    return base.family.network().pipeline({name: base.part(name) for name in names}, {})


def encode(base: Base, crops: list[Crop], data: DataConfig, progress: Progress) -> list[cache.Tensors]:
    """Latent distribution of every crop, {"mean", "std"}: (C, h, w) float32 on the CPU, in the denoiser's scale.

    The VAE works in float32 whatever the run's precision: some VAEs overflow in float16. It sees one crop
    at a time, whole if that fits in memory; from the first that does not, all in overlapping tiles, whose latents
    differ a little from those of whole pictures.
    """
    encoder: list[Any] = []
    stage = "Encoding pictures"

    def tell(done: int, total: int) -> None:
        tiled = bool(encoder) and encoder[0].use_tiling
        progress(f"{stage} in tiles (they do not fit in memory whole)" if tiled else stage, done, total)

    def make(index: int) -> cache.Tensors:
        if not encoder:
            encoder.append(base.part("vae", torch.float32))
        vae = encoder[0]
        pixels = to_tensor(crops[index].pixels(data.background)).to(base.device)
        with torch.no_grad():
            distribution = _whole_or_in_tiles(vae, vae.encode, pixels[None]).latent_dist
        shift = vae.config.shift_factor or 0.0
        mean = (distribution.mean[0] - shift) * vae.config.scaling_factor
        std = distribution.std[0].float() * vae.config.scaling_factor
        return {"mean": mean.float().cpu(), "std": std.cpu()}

    latents = cache.fill("latents", [latent_key(base.key, crop, data) for crop in crops], make, tell)
    encoder.clear()
    devices.release(base.device)
    return latents


def latent_key(base: str, crop: Crop, data: DataConfig) -> str:
    """Under which a crop's latents are kept; ``base``: the key of the base."""
    place: tuple[object, ...] = (crop.scaled, crop.top, crop.left, crop.target, crop.flipped)
    place += (crop.box,) if crop.box else ()
    return cache.key(base, content_key(crop.path), *place, *data.of_pixels())


def _whole_or_in_tiles(vae: Any, work: Callable[[Tensor], Any], tensor: Tensor) -> Any:
    """What the VAE makes of ``tensor`` (1, C, H, W); if memory runs out, from now on in tiles."""
    try:
        return work(tensor)
    except RuntimeError as error:
        if vae.use_tiling or not devices.is_out_of_memory(error):
            raise
    # Not inside the handler: the error holds on to all that was computed before it.
    devices.release(tensor.device)
    vae.tile_sample_min_size = TILE
    vae.tile_latent_min_size = TILE // 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    return work(tensor)


@torch.no_grad()
def latents_of(pipeline: Any, picture: Image.Image) -> Tensor:
    """The mean latents of a picture, (1, C, h, w) in the denoiser's scale and precision, on its device."""
    vae, model = pipeline.vae, denoiser(pipeline)
    pixels = to_tensor(picture)[None].to(vae.device, vae.dtype)
    mean = _whole_or_in_tiles(vae, vae.encode, pixels).latent_dist.mean
    scaled = (mean - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
    return scaled.to(model.device, model.dtype)


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32).copy() / 127.5 - 1).permute(2, 0, 1)


def native_size(config: Mapping[str, Any], vae_config: Mapping[str, Any]) -> int:
    """Side of the pictures a base was made for, in pixels, from its denoiser's and its VAE's configurations."""
    return int(config["sample_size"]) * 2 ** (len(vae_config["block_out_channels"]) - 1)


@torch.no_grad()
def draw(pipeline: Any, prompt: dict[str, Any], seeds: Sequence[int], **options: Any) -> list[Image.Image]:
    """One picture per seed in one batch, from prompt embeddings or text.

    A seed gives the same starting noise on every device and in every batch, so the picture that it gives alone up to
    rounding. The latents are decoded here and not by the pipeline, which cannot hand a half-precision latent to a
    float32 VAE; one by one, whole if that fits in memory, else in tiles.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents: Any = pipeline(
        **prompt, generator=generators, num_images_per_prompt=len(seeds), output_type="latent", **options
    ).images  # type: ignore[union-attr]
    vae = pipeline.vae
    latents = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    decoded = torch.cat([_whole_or_in_tiles(vae, vae.decode, latent).sample.cpu() for latent in latents.split(1)])
    pictures: Any = pipeline.image_processor.postprocess(decoded, output_type="pil")
    return pictures
