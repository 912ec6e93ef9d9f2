"""All randomness is a function of (seed, step, name): nothing to save, and a resumed run repeats every draw."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def number(seed: int, step: int, name: str) -> int:
    """A 63-bit number that depends on all three and on nothing else."""
    digest = hashlib.blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, step: int, name: str) -> torch.Generator:
    """A CPU generator for one purpose at one step; the same on every machine, whatever the device."""
    import torch

    return torch.Generator().manual_seed(number(seed, step, name))
