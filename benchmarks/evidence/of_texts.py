"""What is asked of a small language model. Committed before the runs are made.

The base is SmolLM2-135M-Instruct unless another is given. Steps are of 4 sequences of 256 tokens, packed, in the base's
bfloat16 on CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lowrank_diffusion.config import EMBEDDED, BaseModelConfig
from lowrank_diffusion.text.source import resolve

from .design import Arm, Experiment, flat

COMMON: dict[str, Any] = {
    "task": "text", "train.batch": 4, "train.precision": "auto", "adapter.targets": "attention+mlp",
    "flat.sigma": 0.0, "optimizer.weight_decay": 0.0, "optimizer.schedule": "cosine", "optimizer.warmup": 10,
}  # fmt: skip
"""On top of the defaults."""
OUTSIDE = ("typos", "longer", "4 bits")
"""Losses on what is further from the training rows, and of the merged model in 4 bits."""


@dataclass(frozen=True)
class Texts:
    """Rows of text made from a seed, and what is measured on the model that learnt them."""

    trainer: ClassVar[str] = "texts"

    made: str
    """Which rows: a name of :data:`.text_rows.KINDS`."""
    rows: int
    """That are learnt."""
    outside: bool = False
    """Whether :data:`OUTSIDE` is measured as well; it takes three times as long."""
    held_out: int = 100
    """Rows that are measured, where they are others than are learnt: three in ten choose, the others score."""
    length: int = 256
    """Tokens of a sequence; no row has more."""
    model: str = EMBEDDED
    """What the base is called."""
    path: str = EMBEDDED
    """Where it is on this machine; no part of a run's key."""
    wordnet: str = ""
    """Where WordNet's database is, for ``glosses``; likewise."""

    @property
    def loss(self) -> str:
        """In words."""
        rows = {
            "orders": "of the scoring orders", "facts": "of all facts, which are what is learnt",
            "glosses": "of the scoring definitions",
        }[self.made]  # fmt: skip
        return f"mean negative log-likelihood of an answer's token {rows}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of all runs on texts."""
        return COMMON | {"text.length": self.length}

    def facts(self) -> dict[str, Any]:
        """All but where the base is."""
        return {
            "texts": self.made, "rows": self.rows, "outside": self.outside, "held_out": self.held_out,
            "model": self.model,
        }  # fmt: skip

    def here(self, model: str | None = None, database: Path | None = None) -> Texts:
        """With the base ``model``, or the embedded one, and WordNet's ``database``. Raises ModelError."""
        label = resolve(BaseModelConfig(path=model)).label if model else EMBEDDED
        return replace(self, model=label, path=model or EMBEDDED, wordnet=str(database or ""))

    def tuning(self) -> Texts:
        """Without what is further away."""
        return replace(self, outside=False)

    def quick(self) -> Texts:
        """Few rows, and room for one of which each letter is a token."""
        return replace(self, rows=min(self.rows, 30), held_out=10, length=512)


FACTS = Texts("facts", 800)
"""Seen some twenty times, which is far too few for all of them: a pilot on a tuning seed learnt a quarter of 64
facts in 90 steps. So what counts is how much is written in so many steps, not how much there is room for."""
ORDERS = Texts("orders", 400)
GLOSSES = Texts("glosses", 5000, held_out=400)


def _of_rank(rank: int, k: int, first: int, more: dict[str, Arm], **fields: Any) -> Experiment:
    """GraLoRA against LoRA at one rank, each at its own best learning rate; seeds from ``first`` on."""
    asked = fields.pop("asked")
    return Experiment(
        question=f"At rank {rank}, equal parameters and each at its own best learning rate: does GraLoRA with k = {k} "
        f"{asked} better than LoRA?",
        baseline="LoRA",
        arms={"LoRA": Arm(), f"GraLoRA k {k}": Arm({"adapter.kind": "gralora", "adapter.k": k}), **more},
        settings={"adapter.kind": "lora", "adapter.rank": rank},
        seeds=tuple(range(first, first + 12)),
        tuning=(30, 31),
        **fields,
    )


FIRST_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
"""Of text_gralora_orders16, which was run first; its best was the highest."""
RATES = (*FIRST_RATES, 1.6e-2)


def _on_facts(rank: int, k: int, first: int, more: dict[str, Arm]) -> Experiment:
    """800 facts of 28 bits, some twenty times."""
    return _of_rank(
        rank, k, first, more, asked="learn random facts by heart", data=FACTS, margin=0.01,
        measured=(50, 100, 200), grid=RATES,
        also=("bits", "bits a parameter", "exact"),
    )  # fmt: skip


def _on_orders(rank: int, k: int, first: int, more: dict[str, Arm]) -> Experiment:
    """All 400 rows, three times."""
    return _of_rank(
        rank, k, first, more, asked="learn to write orders as JSON", data=ORDERS, margin=0.002,
        measured=(25, 50, 100), grid=FIRST_RATES if rank == 16 else RATES, also=("exact",),
    )  # fmt: skip


def _on_glosses(rank: int, k: int, first: int, more: dict[str, Arm]) -> Experiment:
    """5,000 definitions, about once; needs ``--wordnet``."""
    return _of_rank(
        rank, k, first, more, asked="learn to sort definitions into 45 classes", data=GLOSSES, margin=0.005,
        measured=(25, 50, 100), grid=RATES, also=("exact",),
    )  # fmt: skip


MORE = {
    16: {
        "hybrid 8 + 8": Arm({"adapter.kind": "gralora", "adapter.rank": 8, "adapter.hybrid_rank": 8}),
        "LoRA, alpha 2r": Arm({"adapter.alpha": 32.0}),
        "LoRA, alpha 4r": Arm({"adapter.alpha": 64.0}),
    }
}
"""Further arms at a rank: what the authors use at 16 themselves, and whether it is only another step size. Alpha 4r is
the scaling of rsLoRA (arXiv 2312.03732) with alpha 16. LoRA+'s ratio is no setting here, so it is not among them."""

EXPERIMENTS: dict[str, Experiment] = {
    **{
        f"text_gralora_{name}{rank}": made(rank, k, first + offset, MORE.get(rank, {}))
        for name, made, offset in (("facts", _on_facts, 0), ("orders", _on_orders, 100))
        for rank, k, first in ((16, 2, 600), (128, 4, 620), (64, 4, 640), (8, 2, 660))
    },
    **{f"text_gralora_glosses{rank}": _on_glosses(rank, k, first, {}) for rank, k, first in (
        (16, 2, 820), (128, 4, 840),
    )},
    "text_flat_overfit": Experiment(
        question="Fifty orders, learnt forty times over: does Flat-LoRA keep the loss on other orders lower than plain "
        "LoRA does, also with typing errors, on longer orders and in 4 bits, and do simpler remedies do as well?",
        baseline="LoRA",
        arms={
            "LoRA": Arm(),
            **{f"flat {sigma}": flat(sigma) for sigma in (0.05, 0.1, 0.2, 0.4)},
            **{f"flat {sigma} constant": flat(sigma, "constant") for sigma in (0.05, 0.1, 0.2, 0.4)},
            "dropout 0.1": Arm({"adapter.dropout": 0.1}),
            "weight decay 1": Arm({"optimizer.weight_decay": 1.0}),
            "LoRA, strength 0.75": Arm(scale=0.75, like="LoRA"),
            "LoRA, best checkpoint": Arm(chosen=True, like="LoRA"),
            "flat 0.2, best checkpoint": Arm(chosen=True, like="flat 0.2"),
            "flat 0.2 constant, best checkpoint": Arm(chosen=True, like="flat 0.2 constant"),
        },
        settings={
            "adapter.kind": "lora", "adapter.rank": 16, "optimizer.lr": 1e-3, "optimizer.schedule": "constant",
            "optimizer.warmup": 0,
        },
        data=Texts("orders", 50, outside=True),
        seeds=tuple(range(800, 812)),
        margin=0.01,
        measured=(10, 20, 40, 85, 170),
        also=("exact", *OUTSIDE),
    ),
}  # fmt: skip
"""Primary measure: mean negative log-likelihood in nats a token after the last step, as a share of the base's; of
facts of all that are learnt, of orders of the scoring ones. Decided as for pictures, see :mod:`.of_pictures`."""
