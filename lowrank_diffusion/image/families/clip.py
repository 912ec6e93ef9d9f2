"""CLIP's text encoders as every family reads them, while adapters of theirs are trained too: token ids and blocks.

Kept to what a CUDA graph can hold: no mask is made and no end of text is looked for on the host.
Shapes: B prompts, E text encoders, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def inner(encoder: Any) -> Any:
    """The embeddings and blocks of an encoder, which some releases of transformers keep in an attribute."""
    return getattr(encoder, "text_model", encoder)


def tokenise(tokenizers: Sequence[Any], prompts: Sequence[str], chunks: int = 1) -> dict[str, Tensor]:
    """Token ids of each prompt for every encoder, (E, L) int64; cut and filled up as diffusers' pipeline does it.

    With several ``chunks`` of L tokens (E, n, L): each has marks of begin and end of its own, as in kohya's scripts
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


def joined(tokens: Tensor) -> Tensor:
    """(B, n, L, D) -> (B, n (L - 2) + 2, D): the marks of begin and end between chunks are left out."""
    inside = tokens[:, :, 1:-1].flatten(1, 2)
    return torch.cat([tokens[:, 0, :1], inside, tokens[:, -1, -1:]], dim=1)


def causal(length: int, device: torch.device) -> Tensor:
    """Which token sees which, (1, 1, L, L) bool."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def last_but_one(encoder: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """What comes into an encoder's last block, (B, L, width)."""
    hidden = inner(encoder).embeddings(input_ids=ids)
    for layer in inner(encoder).encoder.layers[:-1]:
        hidden = block(layer, hidden, mask)
    return hidden


def block(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """A block of an encoder, (B, L, width) -> (B, L, width)."""
    output = layer(hidden, mask)
    return output if isinstance(output, Tensor) else output[0]  # a tuple in some releases


def at_end(encoder: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """``hidden`` where each text ends, (B, width)."""
    end = encoder.config.eos_token_id
    # SDXL's own configuration says 2, which is wrong; its end of text is the largest number there is.
    place = ids.argmax(dim=-1) if end == 2 else (ids == end).int().argmax(dim=-1)
    return hidden[torch.arange(len(ids), device=ids.device), place]
