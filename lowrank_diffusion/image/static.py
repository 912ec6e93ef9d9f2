"""A model's adapters as tensors that stay where they are, so that other adapters and strengths are other values only.

A CUDA graph reads the addresses that it was captured with, and PEFT writes a strength into the code that runs. Here
every adapted layer is stood in for by one that reads a pair A (R, n), B (m, R) of its own (see factors.py), wide enough
for what is in effect: adapters lie side by side in it, their strengths in B, and zeros fill the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import adapters
from ..adapters import AdaptedLayer
from ..factors import Factors
from ..products import fused_alone

SMALLEST = 8
"""The least rank of a pair: tensor cores take multiples of it."""


class FusedConv(nn.Module):
    """Stands in for an adapted convolution. It owns nothing, as :class:`~lowrank_diffusion.products.FusedLinear`."""

    def __init__(self, base: nn.Conv2d, a: Tensor, b: Tensor):
        super().__init__()
        self.tensors = (base, a.view(-1, base.in_channels, *base.kernel_size), b[:, :, None, None])

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """(B, n, h, w) -> (B, m, h', w')."""
        base, a, b = self.tensors
        low = F.conv2d(x, a, None, base.stride, base.padding, base.dilation)
        return base(x) + F.conv2d(low, b)


class StaticAdapters:
    """What stands in for a model's adapted layers while it draws.

    ``layout`` is 0 without adapters in effect, and otherwise a new number whenever other tensors are read. ``obstacle``
    says why PEFT's own layers run instead; empty if they do not.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.layout, self.obstacle = 0, ""
        self.newest = 0
        """The last layout that was not 0; graphs of earlier ones read tensors that are gone."""
        self._pairs: dict[str, Factors] = {}
        self._stand_ins: dict[str, nn.Module] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take over which adapters PEFT has switched on, and how strong. Not to be called inside :meth:`active`."""
        layers = [layer for layer in adapters.adapted_layers(self.model) if layer.in_effect()]
        self.obstacle = next(filter(None, (layer.obstacle_to_factors() for layer in layers)), "")
        if self.obstacle:
            return
        by_path = {layer.path: [layer.factors(name) for name in layer.in_effect()] for layer in layers}
        ranks = {layer: sum(pair.a.shape[0] for pair in by_path[layer.path]) for layer in layers}
        narrow = [layer for layer, rank in ranks.items() if rank > self._room(layer.path)]
        for layer in narrow:
            self._make_room(layer, ranks[layer])
        self.newest += bool(narrow)
        self.layout = self.newest if layers else 0
        if layers:
            self._fill(by_path)

    def _room(self, path: str) -> int:
        return self._pairs[path].a.shape[0] if path in self._pairs else 0

    def _make_room(self, layer: AdaptedLayer, rank: int) -> None:
        """Room for twice as much at a time, so that adapters of like ranks come and go without a new layout."""
        weight = layer.base.weight
        room = max(SMALLEST, 1 << (rank - 1).bit_length())
        pair = Factors(weight.new_zeros(room, weight[0].numel()), weight.new_zeros(weight.shape[0], room))
        base: Any = layer.base
        stand_in = FusedConv(base, *pair) if isinstance(base, nn.Conv2d) else fused_alone(weight, base.bias, *pair)
        self._pairs[layer.path], self._stand_ins[layer.path] = pair, stand_in

    def _fill(self, by_path: dict[str, list[Factors]]) -> None:
        """Write the values; layers that have room but no adapter now get zeros."""
        targets: list[Tensor] = []
        sources: list[Tensor] = []
        for path, pairs in by_path.items():
            start = 0
            for pair in pairs:
                stop = start + pair.a.shape[0]
                targets += [self._pairs[path].a[start:stop], self._pairs[path].b[:, start:stop]]
                sources += [pair.a, pair.b]
                start = stop
        torch._foreach_zero_([tensor for pair in self._pairs.values() for tensor in pair])
        torch._foreach_copy_(targets, sources)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The stand-ins in the layers' places, inside the context. Without an adapter in effect nothing is replaced."""
        stand_ins = self._stand_ins if self.layout and not self.obstacle else {}
        before = {path: self.model.get_submodule(path) for path in stand_ins}
        try:
            self._place(stand_ins)
            yield
        finally:
            self._place(before)

    def _place(self, modules: dict[str, Any]) -> None:
        for path, module in modules.items():
            parent, _, name = path.rpartition(".")
            self.model.get_submodule(parent)._modules[name] = module
