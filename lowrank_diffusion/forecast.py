"""What a run will take, told before it starts: passes over the data, GPU memory, time. No torch here."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import devices
from .config import Config
from .devices import GIB
from .errors import UserError
from .image import memory
from .plan import here
from .runs import Run, Status

ALIKE = (
    "task", "base.path", "base.quantize", "data.resolution", "data.buckets", "adapter.kind", "adapter.rank",
    "adapter.targets", "adapter.text_encoders", "flat.sigma", "train.batch", "train.accumulate", "train.gpus",
    "train.precision", "train.checkpointing", "train.execution", "train.device", "text.length", "text.packing",
)  # fmt: skip
"""What a step's time depends on."""
LOOKED_AT = 60
"""Runs, the newest ones."""


@dataclass(frozen=True)
class Forecast:
    """Of one run."""

    examples: int
    """Pictures that are learnt from; 0 if that is not known."""
    steps: int
    batch: int
    """Examples of an optimiser step, of all processes."""
    memory: int | None
    """Bytes of each GPU; None: not estimated (language models, other devices)."""
    available: int | None
    """Bytes that the GPU has; None: it did not say."""
    step_seconds: float | None
    """As measured in an earlier run; None: there was none like it."""
    like: str = ""
    """That run's name."""

    def words(self) -> str:
        """One line for a person."""
        epochs = self.steps * self.batch / self.examples if self.examples else 0
        parts = [
            f"{self.steps} steps of {self.batch}" + (f" = {epochs:.3g} passes over the pictures" if epochs else "")
        ]
        if self.memory is not None:
            have = f" of {self.available / GIB:.0f}" if self.available else ""
            parts.append(f"{self.memory / GIB:.1f}{have} GiB of GPU memory")
        if self.step_seconds is not None:
            parts.append(f"about {span(self.steps * self.step_seconds)} of steps, as in {self.like}")
        else:
            parts.append("time: not known before a run like it was made here")
        return " · ".join(parts)


def span(seconds: float) -> str:
    """A time in words, as exact as a forecast is."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def of(cfg: Config, examples: int, runs: Iterable[Run], status: Callable[[Run], Status] = Run.status) -> Forecast:
    """The forecast of a run with these settings.

    Args:
        cfg: With absolute paths.
        examples: Pictures that are learnt from, repeats included; 0: not known.
        runs: Earlier ones, the newest first; ``status`` says how they went.
        status: Of a run.
    """
    like, seconds = _like(cfg, runs, status)
    need = available = None
    if cfg.task == "image" and devices.likely(cfg.train.device) == "cuda":
        available = gpu_memory(cfg.train.gpu)
        try:
            need = memory.estimate(cfg, available or float("inf"), here(cfg)).peak
        except UserError:
            need = None  # said where the base is checked
    batch = cfg.train.batch * cfg.train.accumulate * cfg.train.gpus
    return Forecast(examples, cfg.train.steps, batch, need, available, seconds, like)


def _like(cfg: Config, runs: Iterable[Run], status: Callable[[Run], Status]) -> tuple[str, float | None]:
    """The newest run whose steps take as long, and seconds of a step."""
    wanted = _key(cfg)
    for run, _ in zip(runs, range(LOOKED_AT), strict=False):
        try:
            alike = _key(run.config()) == wanted
        except UserError:
            continue
        if alike and (seconds := status(run).seconds_per_step):
            return run.title, seconds
    return "", None


def _key(cfg: Config) -> tuple[object, ...]:
    values = cfg.dotted()
    return tuple(bool(values[key]) if key == "flat.sigma" else str(values[key]) for key in ALIKE)


@functools.lru_cache(maxsize=1)
def _gpus() -> tuple[int, ...]:
    """Bytes of memory of every GPU that NVIDIA's tool tells of."""
    question = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(question, capture_output=True, timeout=20, text=True)
        return tuple(int(line) * 2**20 for line in answer.stdout.split() if answer.returncode == 0)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()


def gpu_memory(number: int) -> int | None:
    """Bytes of memory of a GPU, counted among those that this process may use; None where nothing is known."""
    visible = [item for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item]
    index = visible[number] if number < len(visible) else str(number)
    return _gpus()[int(index)] if index.isdigit() and int(index) < len(_gpus()) else None
