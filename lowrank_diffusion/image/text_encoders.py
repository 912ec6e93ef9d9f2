"""SDXL's two text encoders while adapters of theirs are trained: prompts as token ids, and what the UNet reads of them.

Kept to what a CUDA graph can hold: no mask is made and no end of text is looked for on the host.
Shapes: B prompts, L tokens, D the widths of both encoders together, P that of the second one's projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import adapters
from ..config import AdapterConfig
from ..targets import TEXT_ENCODERS, text_encoder_layers


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


def attach(encoders: Sequence[nn.Module], cfg: AdapterConfig, seed: int) -> None:
    """Adapters on both encoders, in SDXL's order. Raises ConfigError."""
    for name, encoder in zip(TEXT_ENCODERS, encoders, strict=True):
        paths = targets(name, encoder, cfg.text_encoders)
        adapters.attach(encoder, cfg.model_copy(update={"targets": paths}), seed, f"{name}.")


def tokenise(tokenizers: Sequence[Any], prompts: Sequence[str], chunks: int = 1) -> dict[str, Tensor]:
    """Token ids of each prompt for every encoder, (2, L) int64; cut and filled up as diffusers' pipeline does it.

    With several ``chunks`` of L tokens (2, n, L): each has marks of begin and end of its own, as in kohya's scripts
    (sd-scripts, library/strategy_base.py, ``_get_input_ids``).
    """

    def ids(tokenizer: Any, prompt: str) -> Tensor:
        room = tokenizer.model_max_length - 2
        length = chunks * room + 2
        said = tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return said.input_ids[0] if chunks == 1 else _in_chunks(said.input_ids[0], tokenizer, room)

    return {prompt: torch.stack([ids(tokenizer, prompt) for tokenizer in tokenizers]) for prompt in set(prompts)}


def _in_chunks(ids: Tensor, tokenizer: Any, room: int) -> Tensor:
    """(n room + 2,) -> (n, room + 2). What follows a text's end is filled up as a short text of its own would be."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    inside = ids[1:-1].view(-1, room)
    chunks = torch.cat([ids[:1].expand(len(inside), 1), inside, ids[-1:].expand(len(inside), 1)], dim=1)
    if pad != end:
        goes_on = (chunks[:, -2] != end) & (chunks[:, -2] != pad)
        chunks[goes_on, -1] = end
        empty = chunks[:, 1] == pad
        chunks[empty, 1] = end
    return chunks


def read(encoders: Sequence[nn.Module], ids: Tensor) -> tuple[Tensor, Tensor]:
    """What the UNet reads of prompts: (B, 2, L) -> tokens (B, L, D), pooled (B, P); as ``encode_prompt`` says it.

    Of prompts in chunks, (B, 2, n, L), the tokens of all follow one another between the first mark of begin and the
    last of end, (B, n (L - 2) + 2, D), and the first chunk is pooled, as in kohya's scripts (sd-scripts,
    library/sdxl_train_util.py, ``get_hidden_states_sdxl``).
    """
    ids = ids[:, :, None] if ids.dim() == 3 else ids
    count, _, chunks, length = ids.shape
    mask = _causal(length, ids.device)
    tokens = [_last_but_one(encoder, ids[:, i].reshape(-1, length), mask) for i, encoder in enumerate(encoders)]
    second: Any = encoders[1]
    first = tokens[1][::chunks]
    last = inner(second).final_layer_norm(_block(inner(second).encoder.layers[-1], first, mask))
    pooled = second.text_projection(_at_end(second, last, ids[:, 1, 0]))
    return _joined(torch.cat(tokens, dim=-1).unflatten(0, (count, chunks))), pooled


def _joined(tokens: Tensor) -> Tensor:
    """(B, n, L, D) -> (B, n (L - 2) + 2, D): the marks of begin and end between chunks are left out."""
    inside = tokens[:, :, 1:-1].flatten(1, 2)
    return torch.cat([tokens[:, 0, :1], inside, tokens[:, -1, -1:]], dim=1)


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
