"""What libraries and the system raise, in words for a person."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from lowrank_diffusion.errors import UserError, is_out_of_memory, of_disk
from lowrank_diffusion.runs import Run
from trainers.__main__ import explain
from trainers.loop import is_disk_full

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.00 GiB, max allowed: 18.13 GiB)"),
    RuntimeError("Invalid buffer size: 12.00 GiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
    ),
    RuntimeError("unable to mmap 6938040682 bytes from file </x>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError("Unable to allocate 3.00 GiB for an array with shape (1024, 1024, 768)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:40])
def test_too_little_memory_is_advised_on_wherever_it_was(error: Exception, tmp_path: Path):
    assert is_out_of_memory(error)
    said = explain(error, Run(tmp_path))
    assert said.startswith("Out of memory. Lower train.batch") and type(error).__name__ not in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        IndexError("list index out of range"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_other_errors_are_not_about_memory(error: Exception, tmp_path: Path):
    assert not is_out_of_memory(error) and "Out of memory" not in explain(error, Run(tmp_path))


@pytest.mark.parametrize(
    ("number", "advice", "waits"),
    [
        (errno.ENOSPC, "Free some space.", True),
        (errno.EDQUOT, "ask for a larger quota", True),
        (errno.EFBIG, "FAT32 ends at 4 GB", False),
        (errno.EROFS, "mounted read-only", False),
        (errno.EACCES, "Change the permissions", False),
        (errno.EIO, "The disk fails", False),
        (errno.EMFILE, "raise ulimit -n", False),
        (errno.ESTALE, "Check the disk and the path", False),
    ],
)
def test_what_a_disk_says_is_told_with_its_file(number: int, advice: str, waits: bool, tmp_path: Path):
    error = OSError(number, os.strerror(number), "/runs/x/state.safetensors")
    said = explain(error, Run(tmp_path))
    assert said.startswith(f"/runs/x/state.safetensors: {os.strerror(number)}.") and advice in said
    assert advice in of_disk(error) and "OSError" not in said
    assert is_disk_full(error) == waits, "what goes away when somebody makes room is waited for"


def test_an_error_for_people_is_said_as_it_is_and_any_other_by_its_name(tmp_path: Path):
    assert explain(UserError("data.prompt: is empty."), Run(tmp_path)) == "data.prompt: is empty."
    assert explain(KeyError("s"), Run(tmp_path)).startswith("KeyError: 's'. Details: ")
