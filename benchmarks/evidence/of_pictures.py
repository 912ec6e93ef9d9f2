"""What is asked of the embedded picture base. Committed before the runs are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from .design import Arm, Experiment, flat
from .outside import CORRUPTIONS

COMMON: dict[str, Any] = {
    "data.instance": "assets/examples/style-3d-icons", "data.caption_dropout": 0.0, "sample.prompts": (),
    "adapter.targets": "attention", "adapter.text_encoders": "none", "optimizer.text_encoder_lr": None,
    "loss.min_snr": 0, "validation.holdout": 0, "train.batch": 4, "train.precision": "fp32",
}  # fmt: skip
"""On top of the preset emoji-style: adapters of the attention of the embedded base's UNet, as every trainer has."""
STRENGTHS = (1.2, 1.4)
"""Of the adapter, beyond the 1 that it was trained at."""
OUTSIDE = (*CORRUPTIONS, "reworded", *(f"strength {strength}" for strength in STRENGTHS), "4 bits")
"""Losses on what is further from the training pictures: the scoring pictures corrupted before they are encoded, or with
captions in other words, and as they are with too strong an adapter, and with a base in 4 bits."""


@dataclass(frozen=True)
class Pictures:
    """3D icons of one style, and others that are measured."""

    trainer: ClassVar[str] = "pictures"

    count: int
    """Drawn for each seed out of the style's 20."""
    held_out: int = 100
    """Pictures that are measured: three in ten choose checkpoints and learning rates, the others score."""
    misnamed: float = 0.0
    """Share of the pictures that have each other's captions."""
    outside: bool = False
    """Whether :data:`OUTSIDE` is measured as well; it takes five times as long."""

    @property
    def loss(self) -> str:
        """In words."""
        return "mean denoising loss on the scoring pictures"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of all runs on pictures."""
        return COMMON

    def facts(self) -> dict[str, Any]:
        """What is off is not named: keys stay as they were before there was such a thing."""
        named = {"misnamed": self.misnamed, "outside": self.outside}
        return {"pictures": self.count, "held_out": self.held_out} | {key: on for key, on in named.items() if on}

    def tuning(self) -> Pictures:
        """Without what is further away."""
        return replace(self, outside=False)

    def quick(self) -> Pictures:
        """Measured on few."""
        return replace(self, held_out=12)


def _of_rank(rank: int, k: int, first: int) -> Experiment:
    """GraLoRA against LoRA at one rank, each at its own best learning rate; seeds from ``first`` on."""
    return Experiment(
        question=f"At rank {rank}, equal parameters and each at its own best learning rate: does GraLoRA with k = {k} "
        "learn a style from 20 pictures better than LoRA?",
        baseline="LoRA",
        arms={"LoRA": Arm(), f"GraLoRA k {k}": Arm({"adapter.kind": "gralora", "adapter.k": k})},
        settings={
            "adapter.kind": "lora", "adapter.rank": rank, "flat.sigma": 0.0, "optimizer.schedule": "cosine",
            "optimizer.warmup": 10,
        },
        data=Pictures(20),
        seeds=tuple(range(first, first + 12)),
        margin=0.005,
        measured=(40, 80, 120, 160),
        grid=(3.6e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3),
        tuning=(24, 25, 26, 27),
    )  # fmt: skip


EXPERIMENTS: dict[str, Experiment] = {
    **{f"gralora_rank{rank}": _of_rank(rank, k, first) for rank, k, first in (
        (4, 2, 500), (8, 2, 520), (32, 2, 540), (64, 4, 560),
    )},
    "flat_overfit": Experiment(
        question="Trained far too long on five pictures at a usual rate: does Flat-LoRA keep the loss on unseen icons "
        "of the same style lower than plain LoRA does, and do simpler remedies do as well?",
        baseline="LoRA",
        arms={
            "LoRA": Arm(),
            **{f"flat {sigma}": flat(sigma) for sigma in (0.1, 0.3, 0.6, 1.0)},
            **{f"flat {sigma} constant": flat(sigma, "constant") for sigma in (0.3, 0.6)},
            **{f"flat {sigma} falling": flat(sigma, "falling") for sigma in (0.3, 0.6)},
            "EMA 0.99": Arm({"train.ema": 0.99}),
            "weight decay 1": Arm({"optimizer.weight_decay": 1.0}),
            "LoRA, strength 0.75": Arm(scale=0.75, like="LoRA"),
            "LoRA, best checkpoint": Arm(chosen=True, like="LoRA"),
            "flat 0.6, best checkpoint": Arm(chosen=True, like="flat 0.6"),
            "flat 0.6 constant, best checkpoint": Arm(chosen=True, like="flat 0.6 constant"),
        },
        settings={
            "adapter.kind": "lora", "adapter.rank": 8, "flat.sigma": 0.0, "optimizer.lr": 1e-3,
            "optimizer.schedule": "constant", "optimizer.warmup": 0,
        },
        data=Pictures(5),
        seeds=tuple(range(100, 112)),
        margin=0.01,
        measured=(60, 125, 250, 500, 1000),
    ),
    "gralora_rate": Experiment(
        question="At equal parameters and each at its own best learning rate: does GraLoRA learn a style from 20 "
        "pictures better than LoRA, and is it more than another effective step size?",
        baseline="LoRA",
        arms={
            "LoRA": Arm(),
            "GraLoRA k 2": Arm({"adapter.kind": "gralora", "adapter.k": 2}),
            "GraLoRA k 4": Arm({"adapter.kind": "gralora", "adapter.k": 4}),
            "hybrid 8 + 8": Arm({"adapter.kind": "gralora", "adapter.rank": 8, "adapter.hybrid_rank": 8}),
            "LoRA, alpha r/2": Arm({"adapter.alpha": 8.0}),
            "LoRA, alpha 2r": Arm({"adapter.alpha": 32.0}),
            "GraLoRA k 2, alpha 2r": Arm({"adapter.kind": "gralora", "adapter.k": 2, "adapter.alpha": 32.0}),
            "LoRA of twice the rank": Arm({"adapter.rank": 32}),
        },
        settings={
            "adapter.kind": "lora", "adapter.rank": 16, "flat.sigma": 0.0, "optimizer.schedule": "cosine",
            "optimizer.warmup": 10,
        },
        data=Pictures(20),
        seeds=tuple(range(200, 216)),
        margin=0.005,
        measured=(40, 80, 120, 160),
        grid=(3.6e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3),
        tuning=(20, 21, 22, 23),
    ),
    "flat_usual": Experiment(
        question="In a run of usual length, like the preset's for a style (20 pictures, GraLoRA, 160 steps, cosine): "
        "does Flat-LoRA change the loss on unseen icons, and should the preset have it?",
        baseline="flat off",
        arms={
            "flat off": Arm(),
            **{f"flat {sigma}": flat(sigma) for sigma in (0.05, 0.1, 0.3, 0.6)},
            "flat 0.3 constant": flat(0.3, "constant"),
            "weight decay 1": Arm({"optimizer.weight_decay": 1.0}),
            "flat off, strength 0.75": Arm(scale=0.75, like="flat off"),
            "flat 0.3, strength 0.75": Arm(scale=0.75, like="flat 0.3"),
        },
        settings={
            "adapter.kind": "gralora", "adapter.rank": 16, "adapter.k": 2, "flat.sigma": 0.0, "optimizer.lr": 1e-3,
            "optimizer.schedule": "cosine", "optimizer.warmup": 10,
        },
        data=Pictures(20),
        seeds=tuple(range(300, 316)),
        margin=0.005,
        measured=(40, 80, 120, 160),
    ),
    "flat_misnamed": Experiment(
        question="Four of 20 pictures have each other's captions, and the run is long: does Flat-LoRA learn less of "
        "what is wrong than plain LoRA does, and do simpler remedies do as well?",
        baseline="LoRA",
        arms={
            "LoRA": Arm(),
            **{f"flat {sigma}": flat(sigma) for sigma in (0.1, 0.3, 0.6)},
            "flat 0.6 constant": flat(0.6, "constant"),
            "weight decay 1": Arm({"optimizer.weight_decay": 1.0}),
            "LoRA, strength 0.75": Arm(scale=0.75, like="LoRA"),
            "LoRA, best checkpoint": Arm(chosen=True, like="LoRA"),
            "flat 0.6, best checkpoint": Arm(chosen=True, like="flat 0.6"),
        },
        settings={
            "adapter.kind": "lora", "adapter.rank": 8, "flat.sigma": 0.0, "optimizer.lr": 5e-4,
            "optimizer.schedule": "constant", "optimizer.warmup": 0,
        },
        data=Pictures(20, misnamed=0.2),
        seeds=tuple(range(400, 412)),
        margin=0.01,
        measured=(60, 125, 250, 500, 1000),
    ),
}  # fmt: skip
"""Primary measure of all: mean denoising loss on the scoring pictures after the last step, as a share of the base's.
All arms are compared with the baseline by the paired difference (arm - baseline; lower is better), all are reported,
and Holm's correction runs over all arms of an experiment."""
