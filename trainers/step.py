"""One optimiser step: an accumulation window of forward and backward passes at one perturbation, then the update."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank_diffusion import adapters, kernels, seeds
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import Hopeless
from lowrank_diffusion.flat import Flat
from lowrank_diffusion.plan import Plan, forced

from . import optim
from .parallel import ALONE, World
from .task import Task


class Diverged(Hopeless):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Result:
    """What one step reports."""

    step: int
    """Steps done with it."""
    loss: float
    lr: float
    grad_norm: float
    seconds: float


class Step:
    """Everything that changes while training: adapter, optimiser, loss scale, averaged weights.

    ``done`` counts the steps taken. ``whole`` is False only while the update itself is being written: an interruption
    elsewhere leaves a state worth saving. ``plan``: how steps run; None: eager, whatever else could be had.
    """

    def __init__(
        self, task: Task, cfg: Config, device: torch.device, dtype: torch.dtype, plan: Plan | None = None,
        world: World = ALONE,
    ):  # fmt: skip
        self.plan = plan or forced(cfg, "eager", kernels.missing(device))
        self.world = world
        self.task, self.cfg, self.device, self.dtype = task, cfg, device, dtype
        self.parameters = adapters.trainable(task.model)
        self.optimizer = optim.build(cfg.optimizer, self.parameters)
        # Every process perturbs in its own way: more samples of the expectation, at no cost.
        self.noise_seed = cfg.seed if world.first else seeds.number(cfg.seed, world.rank, "flat of a process")
        steps, noise_seed = cfg.train.steps, self.noise_seed
        self.flat = Flat(task.model, task.layers, cfg.flat.sigma, steps, noise_seed, self.plan.keep_noise)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)  # type: ignore[attr-defined]
        self.averaged = {n: p.detach().clone() for n, p in self.parameters.items()} if cfg.train.ema else {}
        self.done, self.whole = 0, True
        self.fingerprint: dict[str, Any] | None = None

    def __call__(self, step: int) -> Result:
        """Do optimiser step ``step`` (from 0). Raises Diverged, before anything has changed."""
        begin = time.perf_counter()
        # Dropout draws from the global generator.
        torch.manual_seed(
            seeds.number(self.cfg.seed, step, "dropout" if self.world.first else f"dropout {self.world.rank}")
        )
        self.task.model.train()
        loss = self._backward(step)
        if not math.isfinite(loss):
            self.optimizer.zero_grad(set_to_none=True)
            raise self.diverged(loss, step + 1)
        lr = optim.lr_at(self.cfg.optimizer, step, self.cfg.train.steps)
        norm = self._update(lr)
        return Result(self.done, loss, lr, norm, time.perf_counter() - begin)

    def diverged(self, loss: float, step: int) -> Diverged:
        """The error for a loss that is no number."""
        return Diverged(
            f"The loss is {loss} at step {step}. Start a new run with a lower optimizer.lr (now "
            f"{self.cfg.optimizer.lr}), or with train.precision=bf16 or fp32. The last checkpoint is kept."
        )

    def advance(self, step: int) -> list[Result]:
        """Do step ``step`` and return the results that are known by now: a captured step's come one call later."""
        return [self(step)]

    def drain(self) -> list[Result]:
        """The results that are still on their way."""
        return []

    def _backward(self, step: int) -> float:
        """Gradients of the window's mean loss."""
        total = count = 0.0
        with self.flat.perturbed(step):
            for micro in self.window():
                with self.autocast():
                    contributions, weight = self.task.loss(self.task.batch(step, micro))  # (B,), a number
                self.scaler.scale(contributions.sum()).backward()
                total, count = total + float(contributions.detach().sum()), count + weight
        grads = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        sums = torch.tensor([total, count], dtype=torch.float64)  # (2,)
        self.world.add_on_cpu(sums)
        self.world.add(grads)
        total, count = sums.tolist()
        for grad in grads:
            grad /= count
        return total / count

    def window(self) -> range:
        """This process's micro-batches of a step."""
        return range(self.world.rank, self.cfg.train.accumulate * self.world.size, self.world.size)

    def _update(self, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group[optim.SHARE]
        self.scaler.unscale_(self.optimizer)
        limit = self.cfg.train.clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)  # ()
        self.whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average()
        self.done, self.whole = self.done + 1, True
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @torch.no_grad()
    def _average(self) -> None:
        for name, average in self.averaged.items():
            average.lerp_(self.parameters[name], 1 - self.cfg.train.ema)

    def autocast(self) -> AbstractContextManager:
        """Matrix products in the base's precision where that is half; nothing in float32 and float64."""
        half = self.dtype in (torch.float16, torch.bfloat16)
        return torch.autocast(self.device.type, self.dtype) if half else nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Unperturbed, without gradients or dropout, with the averaged weights where there are any."""
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items() if self.averaged}
        was_training = self.task.model.training
        try:
            self._put(self.averaged)
            self.task.model.eval()
            with torch.no_grad():
                yield
        finally:
            self._put(trained)
            self.task.model.train(was_training)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)
