"""What a model loses in 4 bits, in plain torch, for machines without bitsandbytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lowrank_diffusion import adapters
from lowrank_diffusion.adapters.kinds import KINDS
from lowrank_diffusion.plan import NF4_BLOCK
from lowrank_diffusion.quantize import NF4_LEVELS
from lowrank_diffusion.targets import UNQUANTIZED


@contextmanager
def merged(layers: Sequence[adapters.AdaptedLayer]) -> Iterator[None]:
    """Inside, the frozen weights are what NF4 keeps of the merged ones; the adapters must be disabled for that."""
    pairs = [layer.factors() for layer in layers]
    weights = [layer.base_weight() for layer in layers]
    sums = (w.float() + pair.b.float() @ pair.a.float() for w, pair in zip(weights, pairs, strict=True))
    with _replaced(weights, map(nf4_rounded, sums)):
        yield


@contextmanager
def base(model: nn.Module) -> Iterator[None]:
    """Inside, the model is as :func:`lowrank_diffusion.quantize.quantize` makes it with nf4; adapters stay alone."""
    own = {part for kind in KINDS.values() for part in kind.parts}
    weights: list[Tensor] = [
        layer.weight
        for path, layer in model.named_modules()
        if type(layer) is nn.Linear and not own & set(path.split(".")) and not re.search(UNQUANTIZED, path)
    ]
    with _replaced(weights, (nf4_rounded(weight.float()) for weight in weights)):
        yield


@contextmanager
def _replaced(weights: Sequence[Tensor], others: Iterable[Tensor]) -> Iterator[None]:
    """Inside, ``weights`` have the numbers of ``others``; afterwards their own, to the bit."""
    with torch.no_grad():
        kept = [weight.clone() for weight in weights]
        try:
            for weight, other in zip(weights, others, strict=True):
                weight.copy_(other)
            yield
        finally:
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


def nf4_rounded(weight: Tensor) -> Tensor:
    """A weight (m, n), m n a multiple of 64, as :class:`lowrank_diffusion.quantize.QuantizedLinear` gives it back.

    Float32 in and out; arXiv 2305.14314.
    """
    levels = torch.tensor(NF4_LEVELS, device=weight.device)
    blocks = weight.reshape(-1, NF4_BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scales.clamp_min(torch.finfo(torch.float32).tiny), between)
    return (levels[codes] * scales).reshape(weight.shape)
