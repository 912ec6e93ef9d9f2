"""What a launched step says of itself, on its way to the host: it comes one call late.

So the host prepares a step while the device is at the one before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Report:
    """What came of one step."""

    step: int
    """Steps done with it."""
    lr: float
    loss: float
    grad_norm: float
    bad: bool
    """Whether a loss or gradient since the beginning was no number."""
    seconds: float


class Reports:
    """The reports that are still on their way from ``device``."""

    def __init__(self, device: torch.device):
        self.device = device
        self._pending: list[tuple[int, float, float, Tensor, Any]] = []
        self._last = 0.0

    def send(self, step: int, lr: float, begin: float, values: Tensor) -> None:
        """Send ``values`` (3,), float32 on the device: loss, norm of the gradient, and 1 where one is no number.

        ``begin``: when the host began with the step, by ``time.perf_counter()``.
        """
        if self.device.type != "cuda":
            self._pending.append((step, lr, begin, values.clone(), None))
            return
        arriving = torch.empty(3, pin_memory=True)
        arriving.copy_(values, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((step, lr, begin, arriving, event))

    def arrive(self) -> Iterator[Report]:
        """Wait for every report that was sent, in order; those after the last that is looked at are dropped."""
        pending, self._pending = self._pending, []
        for step, lr, begin, values, event in pending:
            if event is not None:
                event.synchronize()
            loss, norm, bad = values.tolist()
            now = time.perf_counter()
            seconds, self._last = now - max(begin, self._last), now
            yield Report(step, lr, loss, norm, bool(bad), seconds)
