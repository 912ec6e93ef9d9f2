"""The fast step: fused adapters, compiled blocks, and on CUDA everything of an optimiser step in CUDA graphs.

A step of a large picture model launches some twenty thousand small kernels, and that takes several times as long as
running them. A CUDA graph is launched once (capture.py). A step is three graphs, so that any accumulation window and
any mix of batch shapes needs few captures: ``begin`` makes working pairs and perturbation, ``micro`` does forward and
backward of one micro-batch (one capture per shape), ``end`` clips and updates. They talk through tensors that stay in
place.
Numbers that differ from step to step (learning rate, strength and number of the perturbation) are tensors too.
Noise and timesteps are drawn by the host while the device is at the step before, by the generators that every way of
running a step uses: a run sees the same numbers eager, captured and on a CPU, and the copy costs the device nothing.
Results come back one call late (reports.py). Whether a run can be so fast, plan.py says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_diffusion import devices, kernels, plan
from lowrank_diffusion.config import Config
from lowrank_diffusion.devices import DeviceError
from lowrank_diffusion.flat import seed_of, sigma_at
from lowrank_diffusion.fused import Fused
from lowrank_diffusion.plan import Machine, Plan
from lowrank_diffusion.units import described

from . import compiling, optim
from .capture import Graphs
from .parallel import ALONE, World
from .reports import Reports
from .step import Result, Step
from .task import Batch, Task


class FastStep(Step):
    """A step over fused adapters; captured on CUDA. Its results equal the eager step's up to rounding.

    Only for what a plan says can be fast: AdamW, no dropout, no fp16 loss scaling (:func:`lowrank_diffusion.plan.of`).
    """

    channels_last = True

    def __init__(
        self, task: Task, cfg: Config, device: torch.device, dtype: torch.dtype, plan: Plan, world: World = ALONE
    ):
        super().__init__(task, cfg, device, dtype, plan, world)
        if device.type == "cuda":
            devices.repeatable()
            if self.channels_last:
                # Convolutions run in this layout anyway, and else turn every input and output around.
                task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        number = {"device": device, "dtype": torch.float32}
        self.sigma = torch.zeros((), **number)
        self.rates = [torch.zeros((), **number) for _ in self.optimizer.param_groups]
        self.total, self.count = torch.zeros((), **number), torch.ones((), **number)
        self.step_number = torch.zeros(1, dtype=torch.int64, device=device)
        noise = "none" if not cfg.flat.sigma else "kept" if plan.keep_noise else "redrawn"
        self.fused = Fused(task.model, task.layers, dtype, noise, seed_of(self.noise_seed), self.step_number)
        self.bad = torch.zeros((), **number)  # 1 from the first loss or gradient on that is no number
        self.report = torch.zeros(3, **number)  # loss, norm of the gradient, bad
        self.graphs, self.reports, self.ready = Graphs(plan.mode == "captured", self._changing), Reports(device), False
        self.compiled: list[tuple[nn.Module, str, Any]] = []

    def compile(self) -> None:
        """Let the parts that the model repeats run compiled code."""
        self.compiled = compiling.compiled(self.task.model)

    def __call__(self, step: int) -> Result:
        """Do one step and wait for its result."""
        earlier = self.drain()
        assert not earlier, "results were left behind"
        return (self.advance(step) + self.drain())[0]

    def advance(self, step: int) -> list[Result]:
        """Launch step ``step``; returns the results of earlier ones."""
        begin = time.perf_counter()
        self._prepare()
        window = [self.task.batch(step, micro) for micro in self.window()]
        lr = optim.lr_at(self.cfg.optimizer, step, self.cfg.train.steps)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(lr * group[optim.SHARE])
        self.sigma.fill_(sigma_at(self.cfg.flat.sigma, step, self.cfg.train.steps))
        self.step_number.fill_(step)
        self.count.fill_(sum(batch.count for batch in window))
        if not self.task.model.training:  # asking thousands of modules takes as long as a step
            self.task.model.train()
        with self.fused.active(), self._compiled():
            self.graphs.run("begin", self._begin)
            for batch in window:
                self.graphs.run_on(batch, self._micro)
            self.graphs.run("end", self._end)
        self.done += 1
        results = self.drain()
        self.reports.send(self.done, lr, begin, self.report)
        return results

    def drain(self) -> list[Result]:
        """Wait for what was launched. Raises Diverged; nothing has changed since the step that did."""
        results = []
        for report in self.reports.arrive():
            if report.bad:
                self.done = report.step - 1
                raise self.diverged(report.loss, report.step)
            results.append(Result(report.step, report.loss, report.lr, report.grad_norm, report.seconds))
        return results

    def _begin(self) -> None:
        self.total.zero_()
        for group in self.fused.groups:
            group.grad_a.zero_()
            group.grad_b.zero_()
            group.refresh()
            group.perturb(self.sigma)

    def _micro(self, batch: Batch) -> None:
        """Forward and backward of one micro-batch."""
        contributions, _ = self.task.loss(batch)  # (B,)
        loss = contributions.sum()  # ()
        loss.backward()
        self.total.add_(loss.detach())
        for group in self.fused.groups:
            group.gather()

    @torch.no_grad()
    def _end(self) -> None:
        self.world.add([*(s for g in self.fused.groups for s in (g.grad_a, g.grad_b))])  # (L, P R, n), (L, M, P R)
        self.world.add([self.total, self.count])
        for group in self.fused.groups:
            group.collect(self.count)  # into the gradients of what is trained, (L, ...)
        grads = self.fused.grads()
        norm = torch.stack([grad.norm() for grad in grads]).norm()  # () of each stack -> ()
        loss = self.total / self.count  # (), the mean over all examples of the window
        self.bad.copy_(torch.maximum(self.bad, (~torch.isfinite(loss + norm)).float()))
        if self.cfg.train.clip:
            torch._foreach_mul_(grads, (self.cfg.train.clip / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        for name, average in self.averaged.items():
            average.lerp_(self.parameters[name], (1 - self.cfg.train.ema) * (1 - self.bad))
        self.report.copy_(torch.stack([loss, norm, self.bad]))  # (3,)

    def _prepare(self) -> None:
        """Once, after a checkpoint may have been loaded: an optimiser that a graph can hold."""
        if self.ready:
            return
        optimizer: Any = self.optimizer
        for rate, group in zip(self.rates, optimizer.param_groups, strict=True):
            group["lr"] = rate
            group["capturable"] = self.device.type == "cuda"
        if not optimizer.state:
            optimizer.step()  # without gradients and learning rate: makes the moments, moves nothing
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()
        optimizer.found_inf = self.bad  # the fused update skips where it is not zero
        self.ready = True

    def _changing(self) -> list[Tensor]:
        """Everything that a warm-up run may change and that the real run must find as it was."""
        moments = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        sums = [s for group in self.fused.groups for s in (group.grad_a, group.grad_b)]
        numbers = [self.total, self.count, self.bad]
        return [*self.fused.masters(), *moments, *self.averaged.values(), *sums, *numbers]

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        """Parts run compiled code, inside the context only: evaluation has other layers and would compile again."""
        try:
            for module, place, call in self.compiled:
                module.__dict__[place] = call
            yield
        finally:
            for module, place, _ in self.compiled:
                module.__dict__.pop(place, None)


def build(task: Task, cfg: Config, device: torch.device, dtype: torch.dtype, world: World = ALONE) -> Step:
    """The step that the run's plan asks for.

    Raises:
        DeviceError: a mode was asked for by name that cannot be had.
    """
    chosen = plan.of(cfg, machine(device, dtype), described(task.model, task.layers))
    if chosen.refused:
        raise DeviceError(chosen.refused)
    if not chosen.fast:
        return Step(task, cfg, device, dtype, chosen, world)
    state = FastStep(task, cfg, device, dtype, chosen, world)
    if chosen.compile:
        state.compile()
    return state


def machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """This machine, with ``device`` and the base's ``dtype`` as a run has chosen them."""
    precision = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")
    return Machine(device.type, precision, kernels.missing(device), devices.no_compiler())
