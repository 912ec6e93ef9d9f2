"""SDXL's two text encoders while adapters of theirs are trained: prompts as token ids, and what the UNet reads of them.

Kept to what a CUDA graph can hold: no mask is made and no end of text is looked for on the host.
Shapes: B prompts, L tokens, D the widths of both encoders together, P that of the second one's projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..targets import text_encoder_layers


class WithTextEncoders(nn.Module):
    """A UNet and its text encoders as one model, each under its name in a pipeline."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, text_encoder_2: nn.Module):
        super().__init__()
        self.unet, self.text_encoder, self.text_encoder_2 = unet, text_encoder, text_encoder_2
        self._repeated_blocks = [*getattr(unet, "_repeated_blocks", ()), "CLIPEncoderLayer"]

    @property
    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """The two text encoders, in SDXL's order."""
        return self.text_encoder, self.text_encoder_2

    def enable_gradient_checkpointing(self) -> None:
        """Of the UNet alone: a text encoder leaves little for backward."""
        self.unet.enable_gradient_checkpointing()  # type: ignore[operator]


def inner(encoder: Any) -> Any:
    """The embeddings and blocks of an encoder, which some releases of transformers keep in an attribute."""
    return getattr(encoder, "text_model", encoder)


def targets(name: str, encoder: nn.Module, kind: str) -> tuple[str, ...]:
    """Paths of the layers in the encoder called ``name`` that ``adapter.text_encoders=kind`` adapts."""
    prefix = "text_model." if hasattr(encoder, "text_model") else ""
    return tuple(prefix + path for path in text_encoder_layers(name, len(inner(encoder).encoder.layers), kind))


def tokenise(tokenizers: Sequence[Any], prompts: Sequence[str]) -> dict[str, Tensor]:
    """Token ids of each prompt for every encoder, (2, L) int64; cut and filled up as diffusers' pipeline does it."""

    def ids(tokenizer: Any, prompt: str) -> Tensor:
        length = tokenizer.model_max_length
        said = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return said.input_ids[0]

    return {prompt: torch.stack([ids(tokenizer, prompt) for tokenizer in tokenizers]) for prompt in set(prompts)}


def read(encoders: Sequence[nn.Module], ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the UNet reads of prompts: (B, 2, L) -> tokens (B, L, D), pooled (B, P); as ``encode_prompt`` says it."""
    mask = _causal(ids.shape[2], ids.device)
    tokens = [_last_but_one(encoder, ids[:, index], mask) for index, encoder in enumerate(encoders)]
    second: Any = encoders[1]
    last = inner(second).final_layer_norm(_block(inner(second).encoder.layers[-1], tokens[1], mask))
    return torch.cat(tokens, dim=-1), second.text_projection(_at_end(second, last, ids[:, 1]))


def _causal(length: int, device: torch.device) -> Tensor:
    """Which token sees which, (1, 1, L, L) bool."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def _last_but_one(encoder: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """What comes into an encoder's last block, (B, L, width)."""
    hidden = inner(encoder).embeddings(input_ids=ids)
    for block in inner(encoder).encoder.layers[:-1]:
        hidden = _block(block, hidden, mask)
    return hidden


def _block(block: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    found = block(hidden, mask)
    return found if isinstance(found, Tensor) else found[0]  # a tuple in some releases


def _at_end(encoder: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """``hidden`` where each text ends, (B, width)."""
    end = encoder.config.eos_token_id
    # SDXL's own configuration says 2, which is wrong; its end of text is the largest number there is.
    place = ids.argmax(dim=-1) if end == 2 else (ids == end).int().argmax(dim=-1)
    return hidden[torch.arange(len(ids), device=ids.device), place]
