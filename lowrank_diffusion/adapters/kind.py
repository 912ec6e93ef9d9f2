"""What an adapter kind is: all that the rest of the project asks of one.

A kind is one file of this package and one row of :data:`.kinds.KINDS`. Whatever it trains, its update is exactly a
plain pair B A (factors.py), and everything else works from that pair: Flat-LoRA, the files, the fused step, drawing.

Settings, sizes and words work without torch, because the page, the command line and the memory estimate use them.
Methods that take tensors or modules import torch and PEFT when they are called. ``module`` is PEFT's layer, and
``name`` that of an adapter on it. Letters as in factors.py; L is the number of layers in a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..declare import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from ..factors import Factors
    from .settings import AdapterConfig

View = tuple["Tensor", "Tensor", float]
"""A part of a pair, the same numbers as they are stored, with equal shapes, and what the stored ones are multiplied by
to become those of the pair."""


class Size(NamedTuple):
    """What an adapter of one layer takes."""

    trained: int
    """Numbers that are trained."""
    rank: int
    """R of its plain pair."""


class Kind(Protocol):
    """One kind of adapter. What has a body here is right for most kinds; the rest a kind must define."""

    name: str
    """The value of ``adapter.kind``."""
    title: str
    """What people call it."""
    about: str
    """Title and meaning, for the help of ``adapter.kind``."""
    fields: tuple[str, ...] = ()
    """The settings of :class:`.settings.AdapterConfig` that only this kind has."""
    parts: tuple[str, ...]
    """PEFT's names of the tensors that a layer trains. Every adapted layer has the first; the others may depend on the
    settings."""
    zeros: tuple[str, ...]
    """Those that begin as zeros, so that the update does; all others are drawn."""
    kept: tuple[str, ...]
    """The fields of adapter_config.json that say this kind's settings, as far as they are not PEFT's defaults."""
    obstacle: str = ""
    """Why layers of this kind cannot be fused, so that steps are eager; empty if they can."""

    def total_rank(self, cfg: AdapterConfig) -> int:
        """The rank that alpha is divided by."""
        return cfg.rank

    def check(self, cfg: AdapterConfig) -> Iterator[Problem]:
        """Rules between the settings; keys are relative to the section."""
        yield from ()

    def check_sides(self, cfg: AdapterConfig, sides: Mapping[str, tuple[int, int]]) -> Iterator[Problem]:
        """Rules between the settings and the layers, whose (m, n) are given by path; keys as in :meth:`check`."""
        yield from ()

    def words(self, cfg: AdapterConfig) -> str:
        """The settings in a word or two, such as 'LoRA r16'."""
        return f"{self.title} r{cfg.rank}"

    def size(self, cfg: AdapterConfig, m: int, n: int) -> Size:
        """What an adapter of a layer with a weight of (m, n) takes."""
        ...

    def config(self, cfg: AdapterConfig, paths: list[str]) -> Any:
        """The settings in PEFT's words: a ``peft.PeftConfig`` for the layers of these paths."""
        ...

    def layer_class(self) -> type:
        """The class of PEFT's layers."""
        ...

    def adopt(self, module: Any, name: str) -> None:
        """Make a layer of PEFT's work as this project wants it, where PEFT does otherwise."""
        return

    def trained(self, module: Any, name: str) -> dict[str, Any]:
        """The parameters of one layer's adapter by :attr:`parts`, in that order."""
        from torch import Tensor

        held = {part: getattr(module, part) for part in self.parts}
        own = {part: adapters[name] for part, adapters in held.items() if name in adapters}
        weights = {part: getattr(layer, "weight", layer) for part, layer in own.items()}  # of a layer, or bare
        return {part: weight for part, weight in weights.items() if isinstance(weight, Tensor)}

    def factors(self, module: Any, name: str) -> Factors:
        """The update as one plain pair with the scaling inside B: A (R, n), B (m, R), exact."""
        ...

    def obstacle_to_factors(self, module: Any, name: str, path: str) -> str:
        """Why an adapter that came from elsewhere is more than a plain pair can say; empty if it is not."""
        return ""

    def shape(self, module: Any, name: str) -> tuple[int, ...]:
        """R, and whatever else layers that read one input must share to become one product."""
        ...

    def refresh(self, a: Tensor, b: Tensor, stored: list[Tensor], scaling: float) -> None:
        """Write the pairs of a stack of layers. What is zero in all pairs of this kind is so already.

        Args:
            a: all A, (L, R, n).
            b: all B, (L, m, R).
            stored: what is trained, in the order of :attr:`parts`, each (L, ...).
            scaling: that of the adapter.
        """
        ...

    def collect(self, a: Tensor, b: Tensor, stored: list[Tensor], grads: list[Tensor], scaling: float) -> None:
        """Write ``grads``, the gradients of what is ``stored``, out of those of the pairs, ``a`` and ``b``."""
        ...


class Placed(Kind, Protocol):
    """A kind whose every number stands somewhere in the pair, perhaps multiplied by the scaling."""

    def views(self, a: Tensor, b: Tensor, stored: list[Tensor], scaling: float) -> Iterable[View]:
        """Where they stand. Arguments as in :meth:`refresh`, or the gradients of all three."""
        ...

    def refresh(self, a: Tensor, b: Tensor, stored: list[Tensor], scaling: float) -> None:
        """Copies, one for each view."""
        for view, master, factor in self.views(a, b, stored, scaling):
            view.copy_(master * factor if factor != 1 else master)

    def collect(self, a: Tensor, b: Tensor, stored: list[Tensor], grads: list[Tensor], scaling: float) -> None:
        """Copies back, one for each view."""
        for view, grad, factor in self.views(a, b, grads, scaling):
            grad.copy_(view * factor if factor != 1 else view)
