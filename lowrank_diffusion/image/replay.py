"""A denoiser that draws, its repeated calls replayed from CUDA graphs.

One call launches some thousands of kernels, and at the sizes of a picture that takes longer than running them; a graph
is launched once. Nothing is compiled: that takes longer, for every shape, than the pictures of a sitting save by it.
The first calls of a shape are ordinary ones, which warm up what a capture needs. The next is captured, which costs
about as much as an ordinary one, so that even the first picture comes sooner.

With a graph or without, the same kernels run: a picture does not depend on it. Adapters live in static tensors
(static.py), so a graph outlasts any choice of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import devices
from .static import StaticAdapters

ORDINARY_CALLS = 2
"""This many calls of a shape come before its capture: libraries choose kernels and load them."""

MOST_GRAPHS = 8
"""This many shapes are kept; they share their working memory, but not inputs and outputs."""

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Captured:
    """A captured call: where its inputs go, what launches it, where its result is then."""

    inputs: Inputs
    launch: Callable[[], None]
    output: Tensor


class Replay:
    """Runs a denoiser's calls inside :meth:`active`, captured where that can be; ``obstacle`` says why it cannot.

    Args:
        model: A pipeline's denoiser in eval mode, on its device. Graphs read its weights where they are now.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.adapters = StaticAdapters(model)
        self.device = next(model.parameters()).device
        self.own_obstacle = (
            "" if self.device.type == "cuda" else f"the device is {self.device.type}, only CUDA captures"
        )
        self._calls: Counter[Any] = Counter()
        self._graphs: dict[Any, Captured] = {}
        self._pool: Any = None

    @property
    def obstacle(self) -> str:
        """Why calls are not captured now; empty if they are."""
        return self.own_obstacle or self.adapters.obstacle

    @property
    def graphs(self) -> int:
        """How many shapes are captured."""
        return len(self._graphs)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model's calls come here, inside the context; the adapters are those that PEFT has switched on now."""
        self.adapters.update()
        for key in [key for key in self._graphs if key[0] not in (0, self.adapters.newest)]:
            del self._graphs[key]
        model: Any = self.model
        ordinary = model.forward
        with self.adapters.active():
            model.forward = lambda *args, **named: self._call(ordinary, args, named)
            try:
                yield
            finally:
                del model.forward

    def release(self, reason: str = "") -> bool:
        """Give the graphs' memory back; with a ``reason`` none are made any more. Whether there were any."""
        held = bool(self._graphs)
        self._graphs.clear()
        self._calls.clear()
        self._pool = None
        self.own_obstacle = self.own_obstacle or reason
        return held

    def _call(self, ordinary: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a call of the model does. Only calls with tensors alone are captured, as pipelines make them."""
        inputs = None if self.obstacle else _inputs(args, named)
        if inputs is None:
            return ordinary(*args, **named)
        key = (self.adapters.layout, *((name, value.shape, value.dtype) for name, value in inputs.items()))
        if key not in self._graphs:
            self._calls[key] += 1
            if self._calls[key] <= ORDINARY_CALLS:
                return ordinary(*args, **named)
            self._capture(key, ordinary, inputs)
        if key not in self._graphs:  # there is a reason now
            return ordinary(*args, **named)
        return (self._replay(self._graphs[key], inputs),)

    @staticmethod
    def _replay(captured: Captured, inputs: Inputs) -> Tensor:
        for name, value in inputs.items():
            captured.inputs[name].copy_(value, non_blocking=True)
        captured.launch()
        return captured.output.clone()  # another shape's graph may work where this one's result lies

    def _capture(self, key: Any, ordinary: Callable[..., Any], inputs: Inputs) -> None:
        """Capture a call, or note the reason why not."""
        while len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        static = {name: value.to(self.device, copy=True) for name, value in inputs.items()}
        if self._pool is None:
            self._pool = pool()
        failed = ""
        try:
            launch, output = capture(lambda: _outcome(ordinary, static), self._pool)
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            failed = "memory is short" if devices.is_out_of_memory(error) else f"a capture failed: {first}"
        else:
            self._graphs[key] = Captured(static, launch, output)
        if failed:
            self.release(failed)


def _inputs(args: tuple[Any, ...], named: dict[str, Any]) -> Inputs | None:
    """The tensors of a call that asks for a tuple: by place, by name, and "name.key" of those in a dict.

    None for a call with anything else in it.
    """
    others = {name: value for name, value in named.items() if value is not None}
    whole = others.pop("return_dict", True)
    inputs: dict[str, Any] = {str(place): value for place, value in enumerate(args)}
    for name, value in others.items():
        inside = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        inputs |= inside
    if whole or not args or not all(isinstance(value, Tensor) for value in inputs.values()):
        return None
    return None if torch.is_grad_enabled() or torch.is_autocast_enabled(args[0].device.type) else inputs


def _outcome(ordinary: Callable[..., Any], inputs: Inputs) -> Tensor:
    """The model's prediction from the tensors of :func:`_inputs`."""
    args = [value for name, value in inputs.items() if name.isdecimal()]
    named: dict[str, Any] = {}
    for name, value in inputs.items():
        outer, _, inner = name.partition(".")
        if inner:
            named.setdefault(outer, {})[inner] = value
        elif not name.isdecimal():
            named[name] = value
    return ordinary(*args, **named, return_dict=False)[0]


def pool() -> Any:
    """A memory pool that graphs share: they run one after the other."""
    return torch.cuda.graph_pool_handle()


def capture(work: Callable[[], Tensor], shared: Any) -> tuple[Callable[[], None], Tensor]:
    """``work`` as a graph: what launches it, and its result, which every launch writes again. Raises RuntimeError."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: another thread's calls, such as NCCL's, do not spoil the capture.
    with torch.cuda.graph(graph, pool=shared, capture_error_mode="thread_local"):
        output = work()
    return graph.replay, output
