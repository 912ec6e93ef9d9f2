"""What is asked, how it is decided, and which runs decide it. Committed before they are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

COMMON: dict[str, Any] = {
    "data.instance": "assets/examples/style-3d-icons", "data.caption_dropout": 0.0, "sample.prompts": (),
    "adapter.targets": "attention", "adapter.text_encoders": "none", "optimizer.text_encoder_lr": None,
    "loss.min_snr": 0, "validation.holdout": 0, "train.batch": 4, "train.precision": "fp32",
}  # fmt: skip
"""On top of the preset emoji-style: adapters of the attention of the embedded base's UNet, as every trainer has."""


@dataclass(frozen=True)
class Arm:
    """One way of training, by its differences from the experiment's settings."""

    settings: dict[str, Any] = field(default_factory=dict)
    strength: str = "cosine"
    """Course of Flat-LoRA's sigma: the paper's half cosine from 0 up, constant, or the cosine downwards."""
    scale: float = 1.0
    """Strength of the adapter when it is measured."""
    chosen: bool = False
    """Measured at the checkpoint with the lowest validation loss instead of the last."""
    like: str = ""
    """The arm whose runs it measures otherwise, where it has none of its own."""


@dataclass(frozen=True)
class Experiment:
    """A question and what answers it."""

    question: str
    baseline: str
    arms: dict[str, Arm]
    settings: dict[str, Any]
    pictures: int
    """Drawn for each seed out of the style's 20."""
    seeds: tuple[int, ...]
    """For scoring."""
    margin: float
    """Differences smaller than this share of the base's held-out loss count as none (two one-sided tests)."""
    measured: tuple[int, ...]
    """After which steps the losses are measured; the last is the last step."""
    grid: tuple[float, ...] = ()
    """Learning rates of which each arm takes its best, by the validation pictures, on the tuning seeds."""
    tuning: tuple[int, ...] = ()
    """Seeds for that; not used again."""
    held_out: int = 100
    """Pictures that are measured: three in ten choose checkpoints and learning rates, the others score."""
    misnamed: float = 0.0
    """Share of the pictures that have each other's captions."""

    def __post_init__(self) -> None:
        assert not set(self.seeds) & set(self.tuning) and self.baseline in self.arms

    def quick(self) -> Experiment:
        """The same on few short runs."""
        arms = {
            name: arm for name, arm in self.arms.items() if name in list(self.arms)[:3] or arm.like == self.baseline
        }
        changes: dict[str, Any] = {"seeds": self.seeds[:3], "tuning": self.tuning[:1], "grid": self.grid[:2]}
        changes |= {"measured": (6, 12), "arms": arms, "held_out": 12}
        return Experiment(**(self.__dict__ | changes))


@dataclass(frozen=True)
class Job:
    """One run."""

    experiment: str
    arm: str
    seed: int
    lr: float | None
    """Other than the arm's own."""
    settings: dict[str, Any]
    strength: str
    pictures: int
    measured: tuple[int, ...]
    held_out: int
    misnamed: float = 0.0

    @property
    def key(self) -> str:
        """The same for the same run, whatever arms stand beside it, and as it was before there were wrong names."""
        facts = {name: value for name, value in self.__dict__.items() if name not in ("experiment", "arm")}
        if not self.misnamed:
            del facts["misnamed"]
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=10).hexdigest()


def job(name: str, experiment: Experiment, arm: str, seed: int, lr: float | None = None) -> Job:
    """The run of one arm with one seed."""
    chosen = experiment.arms[arm]
    settings = COMMON | experiment.settings | chosen.settings | {"train.steps": experiment.measured[-1], "seed": seed}
    settings |= {"optimizer.lr": lr} if lr else {}
    return Job(name, arm, seed, lr, settings, chosen.strength, experiment.pictures, experiment.measured,
               experiment.held_out, experiment.misnamed)  # fmt: skip


def tuning_jobs(name: str, experiment: Experiment) -> Iterator[Job]:
    """The runs that find each arm's learning rate."""
    for arm in (arm for arm, what in experiment.arms.items() if not what.like):
        for lr in experiment.grid:
            for seed in experiment.tuning:
                yield job(name, experiment, arm, seed, lr)


def scoring_jobs(name: str, experiment: Experiment, rates: dict[str, float]) -> Iterator[Job]:
    """The runs that are compared, each arm at its own rate; seed by seed, so that a cut-off command has whole pairs."""
    for seed in experiment.seeds:
        for arm in (arm for arm, what in experiment.arms.items() if not what.like):
            yield job(name, experiment, arm, seed, rates.get(arm))


def _flat(sigma: float, strength: str = "cosine") -> Arm:
    return Arm({"flat.sigma": sigma}, strength)


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
        pictures=20,
        seeds=tuple(range(first, first + 12)),
        margin=0.005,
        measured=(40, 80, 120, 160),
        grid=(3.6e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3),
        tuning=(24, 25, 26, 27),
    )  # fmt: skip


EXPERIMENTS = {
    **{f"gralora_rank{rank}": _of_rank(rank, k, first) for rank, k, first in (
        (4, 2, 500), (8, 2, 520), (32, 2, 540), (64, 4, 560),
    )},
    "flat_overfit": Experiment(
        question="Trained far too long on five pictures at a usual rate: does Flat-LoRA keep the loss on unseen icons "
        "of the same style lower than plain LoRA does, and do simpler remedies do as well?",
        baseline="LoRA",
        arms={
            "LoRA": Arm(),
            **{f"flat {sigma}": _flat(sigma) for sigma in (0.1, 0.3, 0.6, 1.0)},
            **{f"flat {sigma} constant": _flat(sigma, "constant") for sigma in (0.3, 0.6)},
            **{f"flat {sigma} falling": _flat(sigma, "falling") for sigma in (0.3, 0.6)},
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
        pictures=5,
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
        pictures=20,
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
            **{f"flat {sigma}": _flat(sigma) for sigma in (0.05, 0.1, 0.3, 0.6)},
            "flat 0.3 constant": _flat(0.3, "constant"),
            "weight decay 1": Arm({"optimizer.weight_decay": 1.0}),
            "flat off, strength 0.75": Arm(scale=0.75, like="flat off"),
            "flat 0.3, strength 0.75": Arm(scale=0.75, like="flat 0.3"),
        },
        settings={
            "adapter.kind": "gralora", "adapter.rank": 16, "adapter.k": 2, "flat.sigma": 0.0, "optimizer.lr": 1e-3,
            "optimizer.schedule": "cosine", "optimizer.warmup": 10,
        },
        pictures=20,
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
            **{f"flat {sigma}": _flat(sigma) for sigma in (0.1, 0.3, 0.6)},
            "flat 0.6 constant": _flat(0.6, "constant"),
            "weight decay 1": Arm({"optimizer.weight_decay": 1.0}),
            "LoRA, strength 0.75": Arm(scale=0.75, like="LoRA"),
            "LoRA, best checkpoint": Arm(chosen=True, like="LoRA"),
            "flat 0.6, best checkpoint": Arm(chosen=True, like="flat 0.6"),
        },
        settings={
            "adapter.kind": "lora", "adapter.rank": 8, "flat.sigma": 0.0, "optimizer.lr": 5e-4,
            "optimizer.schedule": "constant", "optimizer.warmup": 0,
        },
        pictures=20,
        seeds=tuple(range(400, 412)),
        margin=0.01,
        measured=(60, 125, 250, 500, 1000),
        misnamed=0.2,
    ),
}  # fmt: skip
"""Primary measure of all: mean denoising loss on the scoring pictures after the last step, as a share of the base's.
All arms are compared with the baseline by the paired difference (arm - baseline; lower is better), all are reported,
and Holm's correction runs over all arms of an experiment."""
