"""The training loop of every stage: one optimiser step, captured as a CUDA graph where there is a GPU.

Capturing matters here: these networks are so small that launching their kernels one by one takes most of
the time. Everything the step needs is on the device: it draws its own rows, noise and timesteps from a
generator that is reseeded with (seed, step) before every replay. So a step depends on nothing but the
weights, the optimiser's state and its number, and a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from .nets import Average
from .settings import Stage, rate_at

Loss = Callable[[torch.Generator], torch.Tensor]
CLIP = 1.0  # norm of the gradient
WARM_STEPS = 3  # eager steps before the capture: compilation, lazy buffers


@dataclass
class Run:
    """Where a stage works and when it must stop."""

    folder: Path
    device: torch.device
    seed: int
    seconds: float | None = None  # stop and save after this long; None means run to the last step
    fill: float | None = None  # choose the number of steps that fills so many seconds on this machine


class Fit:
    """Weights, optimiser, moving average and the step that advances them."""

    def __init__(self, module: nn.Module, loss: Loss, stage: Stage, run: Run) -> None:
        self.module, self.loss, self.stage, self.run = module, loss, stage, run
        self.on_gpu = run.device.type == "cuda"
        self.generator = torch.Generator(device=run.device)
        self.rate = torch.zeros((), device=run.device)
        self.weights = [p for p in module.parameters() if p.requires_grad]
        decayed = [p for p in self.weights if p.dim() > 1]
        plain = [p for p in self.weights if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
        flags = {"fused": True, "capturable": True} if self.on_gpu else {}
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.99), eps=1e-8, **flags)
        self.average = Average(module, stage.ema)
        self.value = torch.zeros((), device=run.device)
        self.step = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def _seed(self) -> None:
        key = hashlib.sha256(f"{self.run.seed}/{self.step}".encode()).digest()
        self.generator.manual_seed(int.from_bytes(key[:7], "little"))
        self.rate.fill_(rate_at(self.stage, self.step))
        self.average.at(self.step)

    def _advance(self) -> None:
        """Gradient, clipping, optimiser, average: the part that is captured."""
        for weight in self.weights:
            if weight.grad is not None:
                weight.grad.zero_()
        loss = self.loss(self.generator)
        loss.backward()
        gradients = [p.grad for p in self.weights if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (CLIP / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        self.average.update()
        self.value.copy_(loss.detach())

    def _capture(self) -> None:
        """Record one step. The recording itself executes nothing."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self._advance()
        self.graph = graph

    def _fill(self, trial: int = 40) -> None:
        """Replace the recipe's number of steps by what `fill` seconds allow, judged by a few steps."""
        if self.run.fill is None:
            return
        begin = time.monotonic()
        for _ in range(trial):
            self.one()
        torch.cuda.synchronize()
        steps = int(self.run.fill * trial / (time.monotonic() - begin))
        self.stage = replace(self.stage, steps=steps)
        print(f"{self.run.folder.name}: {steps} steps fill {self.run.fill:.0f} s", flush=True)

    def one(self) -> None:
        """Do the next step."""
        self._seed()
        if self.graph is not None:
            self.graph.replay()
        elif self.on_gpu:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._advance()
            torch.cuda.current_stream().wait_stream(stream)
        else:
            self._advance()
        self.step += 1

    def go(self, report: int = 250) -> bool:
        """Run to the last step or the time limit; True when the last step is done."""
        self.resume()
        begin = saved = mark = time.monotonic()
        first, warm = self.step, 0
        while self.step < self.stage.steps:
            self.one()
            warm += 1
            if self.on_gpu and self.graph is None and warm == WARM_STEPS:
                self._capture()
                self._fill()
                mark, first = time.monotonic(), self.step
            if self.step % report == 0 or self.step == self.stage.steps:
                self._log(time.monotonic() - mark, self.step - first)
                mark, first = time.monotonic(), self.step
            # The replays are queued: wait now and then, or the clock says nothing.
            if self.step % 20 == 0 and self.on_gpu:
                torch.cuda.synchronize()
            now = time.monotonic()
            if self.run.seconds is not None and now - begin > self.run.seconds:
                break
            if now - saved > self.stage.save_every:
                self.save()
                saved = now
        self.save()
        return self.step >= self.stage.steps

    def _log(self, seconds: float, steps: int) -> None:
        line = {
            "step": self.step,
            "loss": round(self.value.item(), 5),
            "rate": round(self.rate.item(), 7),
            "ms": round(1000 * seconds / max(1, steps), 2),
        }
        print(self.run.folder.name, json.dumps(line), flush=True)
        with (self.run.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Everything a resumed run needs, replaced in one move."""
        self.run.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.shadow,
        }
        partial = self.run.folder / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.run.folder / "checkpoint.pt")

    def resume(self) -> None:
        """Continue from the folder's checkpoint, if it has one."""
        self.run.folder.mkdir(parents=True, exist_ok=True)
        path = self.run.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.run.device, weights_only=True)
        self.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate  # the loaded copy would no longer follow the schedule
        for mine, stored in zip(self.average.shadow, state["average"], strict=True):
            mine.copy_(stored)
        self.step = state["step"]
        print(f"{self.run.folder.name}: resumed at step {self.step}", flush=True)


def averaged(module: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a stage's checkpoint, by name, buffers included."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    names = [n for n, _ in module.named_parameters()]
    return {**state["weights"], **dict(zip(names, state["average"], strict=True))}
