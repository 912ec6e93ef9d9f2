"""How far a job of an engine is, as the thread that follows it has last heard."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class AtWork:
    """Of one job."""

    done: int = 0
    total: int = 0
    waiting: bool = False
    began: float = 0.0
    cancelled: bool = False

    @property
    def left(self) -> float:
        """Seconds until it is done; 0 while that is not known."""
        if self.done < 2 or not self.total:
            return 0.0
        return (time.monotonic() - self.began) / self.done * (self.total - self.done)
