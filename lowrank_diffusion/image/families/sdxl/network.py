"""SDXL's networks: two text encoders side by side, and a UNet conditioned on sizes (arXiv 2307.01952, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from .. import clip
from ..family import Embedding
from ..unet import network
from . import TEXT_ENCODER_2


class SDXLNetwork(network.UNetNetwork):
    """See :class:`..family.Network`. E = 2; D is the sum of both encoders' widths, P the second's projection."""

    classes: Mapping[str, Any] = {
        **network.CLASSES, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection,
    }  # fmt: skip

    def pipeline(self, parts: Mapping[str, Any], index: Mapping[str, Any]) -> StableDiffusionXLPipeline:
        """No watermark: pictures must not depend on whether some optional package is installed."""
        names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
        every: dict[str, Any] = {name: parts.get(name) for name in names}
        zeros = index.get("force_zeros_for_empty_prompt", True)
        return StableDiffusionXLPipeline(**every, force_zeros_for_empty_prompt=zeros, add_watermarker=False)

    def from_picture(self, pipeline: Any, masked: bool) -> Any:
        """What the pipeline does about an empty prompt, these do."""
        kind = StableDiffusionXLInpaintPipeline if masked else StableDiffusionXLImg2ImgPipeline
        zeros = pipeline.config.force_zeros_for_empty_prompt
        return kind(**pipeline.components, force_zeros_for_empty_prompt=zeros, add_watermarker=False)

    def converted(self, part: str, model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """From Stability's names."""
        if part in network.CLASSES:
            return network.converted(part, model, tensors)
        if part == "text_encoder_2":
            return network.of_text_model(model, convert_open_clip_checkpoint(model, tensors, prefix=TEXT_ENCODER_2))
        return network.of_text_model(model, convert_ldm_clip_checkpoint(tensors))

    def encode(self, pipeline: Any, prompt: str, chunks: int) -> Embedding:
        """As diffusers does it, and as :meth:`read` does it in chunks."""
        device = pipeline.text_encoder.device
        if chunks == 1:
            tokens, _, pooled, _ = pipeline.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
            return Embedding(tokens, pooled)
        ids = clip.tokenise([pipeline.tokenizer, pipeline.tokenizer_2], [prompt], chunks)[prompt]
        return self.read([pipeline.text_encoder, pipeline.text_encoder_2], ids[None].to(device))

    def read(self, encoders: Sequence[nn.Module], ids: Tensor) -> Embedding:
        """(B, 2, L) -> tokens (B, L, D), pooled (B, P); as ``encode_prompt`` says it.

        Of prompts in chunks, (B, 2, n, L), the tokens of all follow one another between the first mark of begin and
        the last of end, (B, n (L - 2) + 2, D), and the first chunk is pooled, as in kohya's scripts (sd-scripts,
        library/sdxl_train_util.py, ``get_hidden_states_sdxl``).
        """
        ids = ids[:, :, None] if ids.dim() == 3 else ids
        count, _, chunks, length = ids.shape
        mask = clip.causal(length, ids.device)
        tokens = [clip.last_but_one(encoder, ids[:, i].reshape(-1, length), mask) for i, encoder in enumerate(encoders)]
        second: Any = encoders[1]
        first = tokens[1][::chunks]
        inner = clip.inner(second)
        last = inner.final_layer_norm(clip.block(inner.encoder.layers[-1], first, mask))
        pooled = second.text_projection(clip.at_end(second, last, ids[:, 1, 0]))
        return Embedding(clip.joined(torch.cat(tokens, dim=-1).unflatten(0, (count, chunks))), pooled)

    def predict(
        self, denoiser: Any, noised: Tensor, timesteps: Tensor, embedding: Embedding, framing: Tensor
    ) -> Tensor:
        """The UNet reads the pooled prompt and the framing beside the time."""
        conditions = {"text_embeds": embedding.pooled, "time_ids": framing}
        return denoiser(noised, timesteps, embedding.tokens, added_cond_kwargs=conditions).sample

    def arguments(self, positive: Embedding, negative: Embedding) -> dict[str, Tensor]:
        """diffusers' words."""
        assert positive.pooled is not None and negative.pooled is not None
        return {
            "prompt_embeds": positive.tokens, "pooled_prompt_embeds": positive.pooled,
            "negative_prompt_embeds": negative.tokens, "negative_pooled_prompt_embeds": negative.pooled,
        }  # fmt: skip


NETWORK = SDXLNetwork()
