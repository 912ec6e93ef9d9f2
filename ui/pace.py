"""How often a page looks for what is new. It costs a browser a quarter of a second of a core, the app a hundredth."""

from __future__ import annotations

import threading
import time
from collections import deque

from lowrank_diffusion.runs import Status

from . import watching

AT_WORK = 2
ON_CPU = 4
"""While training wants the cores that a look takes."""
IDLE = 20
"""What is then started elsewhere, by a command or another page, is seen that much later."""
MOST_A_SECOND = 1.5
"""Looks of all pages together while training wants the cores: many pages look less often each."""
WINDOW = 100.0
"""Seconds over which pages are counted."""


class Looks:
    """Of all pages beside a training on the CPU. How many they are shows in their looks: one that comes every T seconds
    adds T at each."""

    def __init__(self) -> None:
        self.seconds = ON_CPU
        self._lock, self._recent = threading.Lock(), deque[tuple[float, int]]()

    def next(self, now: float) -> int:
        """A page looks; the seconds to its next look: 4, 8, 16..., so that they rarely change."""
        with self._lock:
            self._recent.append((now, self.seconds))
            while self._recent[0][0] < now - WINDOW:
                self._recent.popleft()
            pages = sum(each for _, each in self._recent) / WINDOW
            self.seconds = ON_CPU
            while pages / self.seconds > MOST_A_SECOND:
                self.seconds *= 2
            return self.seconds


_looks = Looks()


def of(status: Status, busy: bool = False) -> int:
    """Seconds to the next look of a page that shows a run; ``busy``: something else that it shows is at work."""
    if busy or (status.active and status.device != "cpu"):
        return AT_WORK
    return _looks.next(time.monotonic()) if watching.active() else IDLE
