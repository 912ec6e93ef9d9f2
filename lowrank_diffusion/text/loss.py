"""The objective of language models: cross entropy of the next token, over the tokens that are to be learnt.

Letters: B sequences, S tokens in each, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from .model import CAUSAL, attention
from .packing import IGNORED, mask

CHUNK = 1024
"""Tokens whose logits are in float32 at one time. In float32 the logits of a vocabulary of 128 000 take 0.5 MiB a
token, and cross entropy wants them three times; the model's own, in bfloat16, stay whole."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropies of every sequence's targets, (B,), in at least float32.

    The logits are turned to float32 in chunks, which backward does once more instead of keeping the results.

    Args:
        logits: (B, S, V).
        targets: (B, S) int64: what the logits are to say, :data:`packing.IGNORED` where that does not matter.
    """
    wide = logits.dtype if logits.dtype == torch.float64 else torch.float32

    def chunk(row: Tensor, chosen: Tensor) -> Tensor:
        return cross_entropy(row.to(wide), chosen, ignore_index=IGNORED, reduction="none")

    # No random numbers inside, and a captured step could not look up the generator's state.
    parts: list[Any] = [
        checkpoint(chunk, row, chosen, use_reentrant=False, preserve_rng_state=False)
        for row, chosen in zip(logits.flatten(0, 1).split(CHUNK), targets.flatten().split(CHUNK), strict=True)
    ]
    return torch.cat(parts).view(targets.shape).sum(dim=1)


def sequence_losses(
    model: Any, ids: Tensor, labels: Tensor, positions: Tensor | None = None, segments: Tensor | None = None
) -> Tensor:
    """Sum of the cross entropies of every sequence's targets, (B,); all tensors are (B, S) int64 on one device.

    Args:
        model: A causal language model of transformers.
        ids: Tokens.
        labels: The ids of targets, elsewhere :data:`packing.IGNORED`; not shifted: token i predicts label i + 1.
        positions: Of packed sequences, counted from 0 in every example.
        segments: Of packed sequences: the number of the example, 0 in the filling at the end. None: one example each.
    """
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    keep: int | Tensor = 0  # logits of all tokens
    if ids.device.type == "cpu":
        # Only where something is learnt. On a GPU this would wait for the device, and change the shapes from batch to
        # batch, which a captured step must not have.
        keep = targets.ne(IGNORED).any(dim=0).nonzero()[:, 0]
        targets = targets[:, keep]
    with attention(model, CAUSAL):
        logits = model(
            input_ids=ids, attention_mask=_allowed(model, ids, segments), position_ids=positions, use_cache=False,
            logits_to_keep=keep,
        ).logits  # fmt: skip
    return token_losses(logits, targets)


def _allowed(model: Any, ids: Tensor, segments: Tensor | None) -> Tensor | None:
    """Who may look at whom, as this model's attention wants it; None: everybody at all before it."""
    sdpa = model.config._attn_implementation in ("sdpa", CAUSAL)
    if segments is None and sdpa:
        return None
    allowed = mask(torch.ones_like(ids) if segments is None else segments)
    if sdpa:
        return allowed
    # Other attentions add what they are given to their scores.
    return torch.zeros_like(allowed, dtype=model.dtype).masked_fill(~allowed, torch.finfo(model.dtype).min)
