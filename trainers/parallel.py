"""Several processes, one per GPU, that train one adapter: each has micro-batches of its own, their gradients add up.

W processes with ``train.accumulate`` micro-batches each do what one process does with W times as many: process r takes
the micro-batches r, r + W, r + 2 W... of the step's window. So their draws differ without any being sent.
Only the first process writes: events, checkpoints, samples, files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lowrank_diffusion import devices
from lowrank_diffusion.devices import DeviceError

PATIENCE = timedelta(days=7)
"""The others wait this long for the first process, which may stand in the queue or draw samples."""


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    size: int = 1
    control: Any = None
    """Process group on the CPU, for what is not on a GPU."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def add(self, tensors: list[Tensor]) -> None:
        """Replace every tensor by its sum over the processes. All have the same dtype."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def add_on_cpu(self, tensor: Tensor) -> None:
        """The same for one tensor on the CPU."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self.control)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is True in any process. All have to ask."""
        if self.size == 1:
            return flag
        votes = torch.tensor([int(flag)])
        dist.all_reduce(votes, group=self.control)
        return bool(votes.item())

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def leave(self) -> None:
        """Part when all are done: one that is gone early makes the others abort, or their launchers wait."""
        self.wait()
        if self.size > 1 and dist.get_backend() == "gloo":  # captured graphs hold NCCL's until the process ends
            dist.destroy_process_group()


ALONE = World()


def join(gpus: int, device: torch.device) -> tuple[World, torch.device]:
    """Meet the other processes; returns the world and this process's own device.

    Raises:
        DeviceError: another number of processes was started than ``train.gpus`` says.
    """
    size = devices.world_size()
    if size != gpus:
        raise DeviceError(
            f"train.gpus: is {gpus}, but {size} {'process was' if size == 1 else 'processes were'} started. Start the "
            f"run with the command train or resume, or set train.gpus={size}."
        )
    if size == 1:
        return ALONE, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if torch.cuda.device_count() <= int(os.environ["LOCAL_RANK"]):
            raise DeviceError(f"train.gpus: is {gpus}, but there are {torch.cuda.device_count()} GPUs.")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return World(devices.rank(), size, dist.new_group(backend="gloo", timeout=PATIENCE)), device
