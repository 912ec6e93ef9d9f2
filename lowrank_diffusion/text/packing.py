"""Several examples in one sequence, without their seeing each other, and batches of such sequences."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .encode import Encoded

IGNORED = -100
"""The label of a token that is not a target, as ``torch.nn.functional.cross_entropy`` has it."""


@dataclass(frozen=True)
class Packed:
    """A batch of B sequences of S tokens; all tensors are (B, S) int64."""

    ids: Tensor
    labels: Tensor
    """``ids`` where a token is a target, else :data:`IGNORED`; not shifted: the logits before it predict it."""
    positions: Tensor
    """Counted from 0 in each example. In the filling they go on, so that a lone example has 0, 1, ..., S-1."""
    segments: Tensor
    """Number of the example within its sequence, from 1; 0 in the filling."""
    count: float
    """Targets in the batch."""


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which examples share a sequence of ``size`` tokens: best-fit decreasing; a function of the lengths alone.

    The longest goes first, each into the fullest sequence that still has room. At most 11/9 of the fewest sequences
    possible, plus 4 (Johnson 1973); Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830.

    Raises:
        ValueError: a length is not in 1..size.
    """
    bad = [length for length in lengths if not 1 <= length <= size]
    if bad:
        raise ValueError(f"lengths must be 1 to {size}, got {bad[0]}")
    sequences: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, sequence), sorted
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect_left(room, (lengths[index], -1))
        if place < len(room):
            left, chosen = room.pop(place)
            sequences[chosen].append(index)
        else:
            left, chosen = size, len(sequences)
            sequences.append([index])
        insort(room, (left - lengths[index], chosen))
    return sequences


def collate(sequences: Sequence[Sequence[Encoded]], size: int, pad: int) -> Packed:
    """A batch: each sequence holds its examples one after another, filled up to ``size`` with ``pad``.

    Raises:
        ValueError: the examples of a sequence have more than ``size`` tokens.
    """
    shape = (len(sequences), size)
    ids = torch.full(shape, pad)
    labels = torch.full(shape, IGNORED)
    positions = torch.zeros(shape, dtype=torch.int64)
    segments = torch.zeros(shape, dtype=torch.int64)
    for row, examples in enumerate(sequences):
        begin = 0
        for number, example in enumerate(examples, 1):
            place = slice(begin, begin + len(example.ids))
            if place.stop > size:
                raise ValueError(f"sequence {row} has more than {size} tokens")
            ids[row, place] = torch.tensor(example.ids)
            # The first token of an example would be predicted from the example before it.
            learn = torch.tensor((False, *example.learn[1:]))
            labels[row, place] = torch.where(learn, ids[row, place], IGNORED)
            positions[row, begin:] = torch.arange(size - begin)
            segments[row, place] = number
            begin = place.stop
    return Packed(ids, labels, positions, segments, float((labels != IGNORED).sum()))


def mask(segments: Tensor) -> Tensor:
    """Who may look at whom: (B, 1, S, S) bool for SDPA, True where a token sees an earlier one of its own example.

    ``segments`` is (B, S) int64. Needed only where a sequence holds several examples: filling stands at the end, where
    a plain causal mask hides it from all that is learnt. Filling sees filling, because a row of the mask without any
    True would give NaN.
    """
    same = segments[:, :, None] == segments[:, None, :]
    return same.tril()[:, None]
