"""Which devices a run takes, and whose turn it is on each: one run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from . import devices
from .config import Config


def of(config: Config) -> tuple[str, ...]:
    """The devices of a run with these settings, such as ("cuda:0", "cuda:1"), in the order in which they are taken."""
    kind, train = devices.likely(config.train.device), config.train
    return tuple(f"cuda:{train.gpu + number}" for number in range(train.gpus)) if kind == "cuda" else (kind,)


def take(root: Path, lanes: Sequence[str]) -> ExitStack | None:
    """All of them for the runs in ``root``, or None; the kernel frees those of a process that has died."""
    with ExitStack() as held:
        try:
            for lane in lanes:
                held.enter_context(FileLock(root / f".training-{lane.replace(':', '')}.lock").acquire(timeout=0))
        except Timeout:
            return None
        return held.pop_all()
