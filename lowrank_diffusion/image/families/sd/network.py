"""Stable Diffusion 1's and 2's networks: one text encoder, and a UNet that reads its last hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
from torch import Tensor, nn
from transformers import CLIPTextModel

from .. import clip
from ..family import Embedding
from ..unet import network
from . import SD2


class StableDiffusionNetwork(network.UNetNetwork):
    """See :class:`..family.Network`. E = 1; D is the encoder's width, and nothing is pooled."""

    classes: Mapping[str, Any] = {**network.CLASSES, "text_encoder": CLIPTextModel}

    def pipeline(self, parts: Mapping[str, Any], index: Mapping[str, Any]) -> StableDiffusionPipeline:
        """Without the checker that blackens pictures: nothing that is drawn here leaves the machine on its own."""
        every: dict[str, Any] = {
            name: parts.get(name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
        }
        others: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**every, **others, requires_safety_checker=False)

    def from_picture(self, pipeline: Any, masked: bool) -> Any:
        """Without the checker, too."""
        kind = StableDiffusionInpaintPipeline if masked else StableDiffusionImg2ImgPipeline
        return kind(**pipeline.components, requires_safety_checker=False)

    def converted(self, part: str, model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """From CompVis's names; 2's text encoder has OpenCLIP's, with a block that is never read."""
        if part in network.CLASSES:
            return network.converted(part, model, tensors)
        if any(key.startswith(SD2.text_encoder) for key in tensors):
            state = convert_open_clip_checkpoint(model, tensors, prefix=SD2.text_encoder)
        else:
            plain = convert_ldm_clip_checkpoint(tensors)  # some old files lack the "text_model." of all others
            state = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in plain.items()}
        return network.of_text_model(model, state)

    def encode(self, pipeline: Any, prompt: str, chunks: int) -> Embedding:
        """As diffusers does it, and as :meth:`read` does it in chunks."""
        device = pipeline.text_encoder.device
        if chunks == 1:
            tokens, _ = pipeline.encode_prompt(prompt, device, 1, do_classifier_free_guidance=False)
            return Embedding(tokens)
        ids = clip.tokenise([pipeline.tokenizer], [prompt], chunks)[prompt]
        return self.read([pipeline.text_encoder], ids[None].to(device))

    def read(self, encoders: Sequence[nn.Module], ids: Tensor) -> Embedding:
        """(B, 1, L) -> tokens (B, L, D): what the encoder makes, behind its last norm.

        Of prompts in chunks, (B, 1, n, L), the tokens of all follow one another between the first mark of begin and
        the last of end, (B, n (L - 2) + 2, D), as in kohya's scripts (sd-scripts, library/train_util.py,
        ``get_hidden_states``).
        """
        ids = ids[:, 0, None] if ids.dim() == 3 else ids[:, 0]  # (B, n, L)
        count, chunks, length = ids.shape
        encoder, mask = encoders[0], clip.causal(length, ids.device)
        inner = clip.inner(encoder)
        hidden = clip.last_but_one(encoder, ids.reshape(-1, length), mask)
        hidden = inner.final_layer_norm(clip.block(inner.encoder.layers[-1], hidden, mask))
        return Embedding(clip.joined(hidden.unflatten(0, (count, chunks))))

    def predict(
        self, denoiser: Any, noised: Tensor, timesteps: Tensor, embedding: Embedding, framing: Tensor
    ) -> Tensor:
        """The framing is not read."""
        return denoiser(noised, timesteps, embedding.tokens).sample

    def arguments(self, positive: Embedding, negative: Embedding) -> dict[str, Tensor]:
        """diffusers' words."""
        return {"prompt_embeds": positive.tokens, "negative_prompt_embeds": negative.tokens}


NETWORK = StableDiffusionNetwork()
