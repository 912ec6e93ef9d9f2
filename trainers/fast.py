"""The fast step: fused adapters, compiled blocks, and on CUDA everything of an optimiser step in CUDA graphs.

A step of a large picture model launches some twenty thousand small kernels, and that takes several times as long as
running them. A CUDA graph is launched once. A step is three graphs, so that any accumulation window and any mix of
batch shapes needs few captures: ``begin`` makes working pairs and perturbation, ``micro`` does forward and backward of
one micro-batch (one capture per shape), ``end`` clips and updates. They share one memory pool, and talk through tensors
that stay in place.
Numbers that differ from step to step (learning rate, strength and number of the perturbation) are tensors too.
Noise and timesteps are drawn by the host while the device is at the step before, by the generators that every way of
running a step uses: a run sees the same numbers eager, captured and on a CPU, and the copy costs the device nothing.
Results come back one call late, so that the host prepares a step while the device is at the one before.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowrank_diffusion import devices, execution, kernels
from lowrank_diffusion.config import Config
from lowrank_diffusion.devices import DeviceError
from lowrank_diffusion.flat import seed_of, sigma_at
from lowrank_diffusion.fused import Fused
from lowrank_diffusion.units import obstacle

from . import compiling, optim
from .parallel import ALONE, World
from .step import Result, Step
from .task import Task

WARM_UPS = 2  # runs before a capture: libraries choose kernels and allocate workspaces


class FastStep(Step):
    """A step over fused adapters; ``captured`` on CUDA. Its results equal the eager step's up to rounding.

    AdamW only; no dropout, no fp16 loss scaling (:func:`obstacle_of`).
    """

    channels_last = True

    def __init__(
        self, task: Task, cfg: Config, device: torch.device, dtype: torch.dtype, mode: str, world: World = ALONE
    ):
        super().__init__(task, cfg, device, dtype, world)
        self.mode = mode
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
        keep = execution.keeps_noise(cfg, captured=True, no_kernel="")
        noise = "none" if not cfg.flat.sigma else "kept" if keep else "redrawn"
        self.fused = Fused(task.model, task.layers, dtype, noise, seed_of(self.noise_seed), self.step_number)
        self.bad = torch.zeros((), **number)  # 1 from the first loss or gradient on that is no number
        self.report = torch.zeros(3, **number)  # loss, norm of the gradient, bad
        self.pool = torch.cuda.graph_pool_handle() if mode == "captured" else None
        self.graphs: dict[Any, Callable[[], None]] = {}
        self.slots: dict[Any, Any] = {}
        self.pending: list[tuple[int, float, float, Tensor, Any]] = []
        self.ready, self.reported = False, 0.0
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
            self._run("begin", self._begin)
            for batch in window:
                self._micro(batch)
            self._run("end", self._end)
        self.done += 1
        results = self.drain()
        self.pending.append((self.done, lr, begin, *self._send()))
        return results

    def drain(self) -> list[Result]:
        """Wait for what was launched. Raises Diverged; nothing has changed since the step that did."""
        found = []
        for done, lr, begin, values, event in self.pending:
            if event is not None:
                event.synchronize()
            loss, norm, bad = values.tolist()
            if bad:
                self.pending.clear()
                self.done = done - 1
                raise self.diverged(loss, done)
            now = time.perf_counter()
            found.append(Result(done, loss, lr, norm, now - max(begin, self.reported)))
            self.reported = now
        self.pending.clear()
        return found

    def _begin(self) -> None:
        self.total.zero_()
        for group in self.fused.groups:
            group.grad_a.zero_()
            group.grad_b.zero_()
            group.refresh()
            group.perturb(self.sigma)

    def _micro(self, batch: Any) -> None:
        """Forward and backward of one micro-batch, through the static copy of its shape."""
        key = tuple((name, tuple(value.shape), value.dtype) for name, value in _tensors(batch))
        if self.mode != "captured":
            self._forward_backward(batch)
            return
        if key not in self.slots:
            cloned = {name: value.clone() for name, value in _tensors(batch)}
            self.slots[key] = dataclasses.replace(batch, **cloned)
        static = self.slots[key]
        for name, value in _tensors(batch):
            getattr(static, name).copy_(value, non_blocking=True)
        self._run(key, lambda: self._forward_backward(static))

    def _forward_backward(self, batch: Any) -> None:
        contributions, _ = self.task.loss(batch)
        loss = contributions.sum()
        loss.backward()
        self.total.add_(loss.detach())
        for group in self.fused.groups:
            group.gather()

    @torch.no_grad()
    def _end(self) -> None:
        self.world.add([*(s for g in self.fused.groups for s in (g.grad_a, g.grad_b))])
        self.world.add([self.total, self.count])
        for group in self.fused.groups:
            group.collect(self.count)
        grads = self.fused.grads()
        norm = torch.stack([grad.norm() for grad in grads]).norm()
        loss = self.total / self.count
        self.bad.copy_(torch.maximum(self.bad, (~torch.isfinite(loss + norm)).float()))
        if self.cfg.train.clip:
            torch._foreach_mul_(grads, (self.cfg.train.clip / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        for name, average in self.averaged.items():
            average.lerp_(self.parameters[name], (1 - self.cfg.train.ema) * (1 - self.bad))
        self.report.copy_(torch.stack([loss, norm, self.bad]))

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

    def _run(self, key: Any, work: Callable[[], None]) -> None:
        """Do ``work``; when captured, from its graph, which the first call makes."""
        if self.mode != "captured":
            work()
            return
        if key not in self.graphs:
            self.graphs[key] = self._capture(work)
        self.graphs[key]()

    def _capture(self, work: Callable[[], None]) -> Callable[[], None]:
        kept = [value.clone() for value in self._changing()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's own thread asks CUDA things meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            work()
        for value, before in zip(self._changing(), kept, strict=True):
            value.copy_(before)
        return graph.replay

    def _changing(self) -> list[Tensor]:
        """Everything that a warm-up run may change and that the real run must find as it was."""
        moments = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        sums = [s for group in self.fused.groups for s in (group.grad_a, group.grad_b)]
        numbers = [self.total, self.count, self.bad]
        return [*self.fused.masters(), *moments, *self.averaged.values(), *sums, *numbers]

    def _send(self) -> tuple[Tensor, Any]:
        """The report on its way to the host, and the event that says it has come."""
        if self.device.type != "cuda":
            return self.report.clone(), None
        values = torch.empty(3, pin_memory=True)
        values.copy_(self.report, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return values, event

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
    """The step that ``train.step`` asks for; its ``reason`` says why it is not a faster one.

    Raises:
        DeviceError: a mode was asked for by name that cannot be had.
    """
    wanted = cfg.train.step
    hindrance = obstacle_of(task, cfg, device, dtype)
    missing = compiling.missing()
    refused = hindrance or (missing if wanted == "compiled" else "")
    if wanted in ("compiled", "captured") and refused:
        raise DeviceError(f"train.step: {wanted} cannot be had: {refused}. Take train.step=auto.")
    if wanted == "eager" or hindrance:
        state = Step(task, cfg, device, dtype, world)
        state.reason = hindrance
        return state
    mode = "captured" if wanted == "auto" else wanted
    state = FastStep(task, cfg, device, dtype, mode, world)
    if not missing:
        state.compile()
    state.reason = f"blocks run uncompiled: {missing}" if missing else ""
    return state


def obstacle_of(task: Task, cfg: Config, device: torch.device, dtype: torch.dtype) -> str:
    """Why this run has to be eager; empty if it has not."""
    stored = ((layer.path, layer.base.in_features) for layer in task.layers if layer.base.weight.dtype == torch.uint8)
    precision = "fp16" if dtype == torch.float16 else "another"
    said = execution.obstacle(cfg, device.type, precision, kernels.missing(device), stored)
    return said or obstacle(task.layers)


def _tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
