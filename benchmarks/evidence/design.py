"""What an experiment is: a question, the arms that answer it, what they learn, and the runs that this takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

AUTO = "auto"
"""The course of sigma that :class:`.candidates.AutoSigma` is."""
BY_WIDTH = "k by width"
"""The candidate that :func:`.candidates.cut_by_width` is."""


class Data(Protocol):
    """What the runs of an experiment learn and are measured on: a dataclass."""

    trainer: ClassVar[str]
    """The module of this package whose ``train`` makes a run of it, and whose ``prepare`` is called once before."""

    @property
    def loss(self) -> str:
        """The primary measure in words: a loss, which is given as a share of the base's."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What all runs on such data have set."""
        ...

    def facts(self) -> dict[str, Any]:
        """What tells its runs from those on other data, by names of their own; part of a run's key."""
        ...

    def tuning(self) -> Self:
        """The same, measured by no more than a learning rate is chosen by."""
        ...

    def quick(self) -> Self:
        """The same, small."""
        ...


@dataclass(frozen=True)
class Arm:
    """One way of training, by its differences from the experiment's settings."""

    settings: dict[str, Any] = field(default_factory=dict)
    strength: str = "cosine"
    """Course of Flat-LoRA's sigma: the paper's half cosine from 0 up, constant, the cosine downwards, or auto, chosen
    during the run (:class:`.candidates.AutoSigma`)."""
    candidate: str = ""
    """A way of training that the project does not have: a name of :data:`.candidates.STEPS`."""
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
    data: Data
    seeds: tuple[int, ...]
    """For scoring."""
    margin: float
    """Differences smaller than this share of the base's loss count as none (two one-sided tests)."""
    measured: tuple[int, ...]
    """After which steps the losses are measured; the last is the last step."""
    grid: tuple[float, ...] = ()
    """Learning rates of which each arm takes its best, by the validation loss, on the tuning seeds."""
    tuning: tuple[int, ...] = ()
    """Seeds for that; not used again."""
    beyond: bool = False
    """Whether the question is of more than the margin, so that the verdict says whether the whole interval is."""
    also: tuple[str, ...] = ()
    """Other measures that are reported, as they are, beside the primary one; nothing is decided by them."""

    def __post_init__(self) -> None:
        assert not set(self.seeds) & set(self.tuning) and self.baseline in self.arms

    def quick(self) -> Experiment:
        """The same on few short runs."""
        first = list(self.arms)[:3]
        arms = {name: arm for name, arm in self.arms.items() if name in first or arm.like == self.baseline}
        return replace(
            self, arms=arms, data=self.data.quick(), seeds=self.seeds[:3], tuning=self.tuning[:1], grid=self.grid[:2],
            measured=(6, 12),
        )  # fmt: skip


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
    measured: tuple[int, ...]
    data: Data
    candidate: str = ""

    def facts(self) -> dict[str, Any]:
        """All that the run's result depends on; a candidate only where there is one, so that old keys stay."""
        candidate = {"candidate": self.candidate} if self.candidate else {}
        return {
            "seed": self.seed, "lr": self.lr, "strength": self.strength, "measured": self.measured, **candidate,
            **self.data.facts(), "settings": self.settings,
        }  # fmt: skip

    @property
    def key(self) -> str:
        """The same for the same run, whatever arms stand beside it."""
        return hashlib.blake2b(json.dumps(self.facts(), sort_keys=True).encode(), digest_size=10).hexdigest()

    def described(self) -> dict[str, Any]:
        """How its result begins."""
        return {"key": self.key, "experiment": self.experiment, "arm": self.arm, **self.facts()}


def job(name: str, experiment: Experiment, arm: str, seed: int, lr: float | None = None) -> Job:
    """The run of one arm with one seed."""
    chosen = experiment.arms[arm]
    settings = {**experiment.data.settings, **experiment.settings, **chosen.settings}
    settings |= {"train.steps": experiment.measured[-1], "seed": seed}
    settings |= {"optimizer.lr": lr} if lr else {}
    return Job(
        name, arm, seed, lr, settings, chosen.strength, experiment.measured, experiment.data, chosen.candidate
    )  # fmt: skip


def tuning_jobs(name: str, experiment: Experiment) -> Iterator[Job]:
    """The runs that find each arm's learning rate."""
    experiment = replace(experiment, data=experiment.data.tuning())
    for arm in (arm for arm, what in experiment.arms.items() if not what.like):
        for lr in experiment.grid:
            for seed in experiment.tuning:
                yield job(name, experiment, arm, seed, lr)


def scoring_jobs(name: str, experiment: Experiment, rates: dict[str, float]) -> Iterator[Job]:
    """The runs that are compared, each arm at its own rate; seed by seed, so that a cut-off command has whole pairs."""
    for seed in experiment.seeds:
        for arm in (arm for arm, what in experiment.arms.items() if not what.like):
            yield job(name, experiment, arm, seed, rates.get(arm))


def flat(sigma: float, strength: str = "cosine") -> Arm:
    """Trained flat."""
    return Arm({"flat.sigma": sigma}, strength)
