"""Which examples a micro-batch holds: an endless sequence of shuffled epochs, a function of the seed and a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import seeds
from ..config import TextConfig
from .encode import Encoded
from .packing import Packed, collate, pack

BUCKETS = 4
"""How many lengths padded batches have, evenly spaced: a captured step needs one graph for each."""


class Batches:
    """Micro-batches of ``batch`` sequences out of ``examples``, packed or padded as ``cfg`` says."""

    def __init__(self, examples: Sequence[Encoded], cfg: TextConfig, batch: int, seed: int, pad: int):
        self.examples, self.cfg, self.batch, self.seed, self.pad = examples, cfg, batch, seed, pad
        self.packs = len(pack([len(e.ids) for e in examples], cfg.length)) if cfg.packing else len(examples)
        """Sequences in an epoch; however the examples are shuffled, packing makes as many."""
        self._epochs: dict[int, list[list[Encoded]]] = {}

    def at(self, number: int) -> Packed:
        """Micro-batch ``number``, counted from the beginning of the run."""
        places = range(number * self.batch, (number + 1) * self.batch)
        chosen = [self._epoch(place // self.packs)[place % self.packs] for place in places]
        return collate(chosen, self.cfg.length if self.cfg.packing else self.bucket(chosen), self.pad)

    def bucket(self, sequences: Sequence[Sequence[Encoded]]) -> int:
        """The shortest length that padded batches have and that these fit into."""
        longest = max(sum(len(example.ids) for example in sequence) for sequence in sequences)
        steps = -(-longest * BUCKETS // self.cfg.length)
        return -(-self.cfg.length * steps // BUCKETS)

    def _epoch(self, epoch: int) -> list[list[Encoded]]:
        """The sequences of one epoch in their order; which examples share one differs from epoch to epoch."""
        if epoch not in self._epochs:
            order = self._shuffled(len(self.examples), epoch, "order")
            packs = [[index] for index in range(len(order))]
            if self.cfg.packing:
                packs = pack([len(self.examples[index].ids) for index in order], self.cfg.length)
            sequences = [[self.examples[order[place]] for place in group] for group in packs]
            if self.cfg.packing:  # which come with the longest first
                sequences = [sequences[index] for index in self._shuffled(len(sequences), epoch, "order of packs")]
            self._epochs = {epoch: sequences} | {e: kept for e, kept in self._epochs.items() if e == epoch - 1}
        return self._epochs[epoch]

    def _shuffled(self, count: int, epoch: int, name: str) -> list[int]:
        return torch.randperm(count, generator=seeds.generator(self.seed, epoch, name)).tolist()
