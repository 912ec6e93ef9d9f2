"""The settings of an adapter: declared here once, and each kind of :data:`.kinds.KINDS` has its rules about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from ..declare import Problem, Section, option, shown
from ..targets import unsound
from .kind import Kind
from .kinds import KINDS

TARGET_SETS = ("auto", "attention", "attention+feed_forward", "attention+mlp", "all-linear")
"""Names of groups of layers; the layers are listed in :mod:`lowrank_diffusion.targets`."""


class AdapterConfig(Section):
    """The trainable low-rank update and the layers it goes to."""

    kind: Literal[tuple(KINDS)] = option("gralora", f"{'; '.join(k.about for k in KINDS.values())}.")  # type: ignore[valid-type]
    rank: int = option(
        16, "Rank r; parameters per layer are the same for LoRA and GraLoRA. LoKr: below half the longer side of its "
        "larger matrix.", ge=1, le=1024,
    )  # fmt: skip
    alpha: float | None = option(None, "Scaling numerator; empty: the total rank, so the scaling is 1.", gt=0)
    k: int = option(2, "GraLoRA: blocks per side (2 up to rank 32, 4 from 64 is the paper's advice).", ge=1, le=16)
    hybrid_rank: int = option(0, "GraLoRA: extra plain LoRA rank beside the blocks; 0: none.", ge=0, le=512)
    factor: int | None = option(
        None, "LoKr: side q of its smaller matrix; empty: nearly square, the fewest parameters. 4 or 8 allow larger "
        "ranks.",
        ge=1, le=1024,
    )  # fmt: skip
    targets: str | tuple[str, ...] = option(
        "auto",
        "attention, attention+feed_forward (also called attention+mlp), all-linear, a list of layer names, or one "
        "regular expression of layer paths. auto: attention of a picture model, attention+mlp of a language model.",
    )
    text_encoders: Literal["none", "attention", "attention+mlp"] = option(
        "none",
        "Layers of the text encoders that are adapted too: words then learn, not only the drawing.",
        only="image",
    )
    start: str = option(
        "", "Folder of a checkpoint whose adapter to begin with, of the same kind, rank and layers; empty: a new one."
    )
    dropout: float = option(0.0, "Probability of dropping an input of the adapter; not with LoKr.", ge=0, lt=1)

    @property
    def method(self) -> Kind:
        """The row of ``KINDS`` that ``kind`` names."""
        return KINDS[self.kind]

    @property
    def total_rank(self) -> int:
        """The rank that alpha is divided by."""
        return self.method.total_rank(self)

    @property
    def scaling(self) -> float:
        """The factor s of the update: alpha / total rank."""
        return 1.0 if self.alpha is None else self.alpha / self.total_rank

    def check(self) -> Iterator[Problem]:
        """The kind's own rules, no settings of other kinds, and layers that can be found."""
        yield from self.method.check(self)
        for other in (other for other in KINDS.values() if other is not self.method):
            for name in other.fields:
                value, default = getattr(self, name), type(self).model_fields[name].default
                if value != default:
                    way = "Leave it empty" if default is None else f"Set it to {default}"
                    rule = f"belongs to {other.title}, got {shown(value)}."
                    yield Problem(name, rule, f"{way}, or adapter.kind={other.name}.")
        if isinstance(self.targets, str) and self.targets not in TARGET_SETS and (rule := unsound(self.targets)):
            yield Problem("targets", f"{rule}; got {shown(self.targets)}.", "Names of layers need no expression.")
        if not self.targets:
            yield Problem("targets", "must name at least one layer.", "Use attention.")


def unmatched(paths: Iterable[str], targets: Iterable[str]) -> list[Problem]:
    """What to say of ``targets`` that mean none of the linear layers at ``paths``."""
    # The distinct ends of the paths, 'to_out.0' with its number.
    ends = sorted({re.search(r"[^.]*[^.\d][^.]*(\.\d+)?$", path).group() for path in paths})  # type: ignore[union-attr]
    hint = f"Layers are called: {', '.join(ends)}."
    return [Problem("adapter.targets", f"{name!r} matches no linear layer.", hint) for name in targets]


def size_problems(cfg: AdapterConfig, sides: Mapping[str, tuple[int, int]]) -> list[Problem]:
    """What the kind finds wrong with the (m, n) of the layers that are to be adapted, given by path."""
    return [Problem(f"adapter.{p.key}", p.rule, p.hint) for p in cfg.method.check_sides(cfg, sides)]
