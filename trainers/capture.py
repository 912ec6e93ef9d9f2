"""Pieces of a step as CUDA graphs: captured when they are first done, and launched at once from then on.

A graph reads and writes the addresses that it was captured with. So batches go through static copies, one for each mix
of shapes, and whatever a warm-up run changes is put back before the real run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .task import Batch

WARM_UPS = 2  # runs before a capture: libraries choose kernels and allocate workspaces


class Graphs:
    """Graphs that share one memory pool; their number is ``len``.

    Args:
        captured: whether work is captured; else it is just done.
        changing: everything that a warm-up run may change and that the real run must find as it was.
    """

    def __init__(self, captured: bool, changing: Callable[[], list[Tensor]]):
        self.captured, self._changing = captured, changing
        self._pool: Any = None
        self._launch: dict[Any, Callable[[], None]] = {}
        self._batches: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self._launch)

    def run(self, key: Any, work: Callable[[], None]) -> None:
        """Do ``work``; when captured, from its graph, which the first call makes."""
        if not self.captured:
            work()
            return
        if key not in self._launch:
            self._launch[key] = self._capture(work)
        self._launch[key]()

    def run_on(self, batch: Batch, work: Callable[[Any], None]) -> None:
        """Do ``work`` on ``batch``, a dataclass of tensors: one graph for each mix of their shapes."""
        if not self.captured:
            work(batch)
            return
        key = tuple((name, tuple(value.shape), value.dtype) for name, value in _tensors(batch))
        if key not in self._batches:
            copies = {name: value.clone() for name, value in _tensors(batch)}
            self._batches[key] = dataclasses.replace(batch, **copies)
        static = self._batches[key]
        for name, value in _tensors(batch):
            getattr(static, name).copy_(value, non_blocking=True)
        self.run(key, lambda: work(static))

    def _capture(self, work: Callable[[], None]) -> Callable[[], None]:
        values = [value.clone() for value in self._changing()]
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's own thread asks CUDA things meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        for changed, before in zip(self._changing(), values, strict=True):
            changed.copy_(before)
        return graph.replay


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
