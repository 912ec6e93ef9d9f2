"""Which device and precision a run gets, and what to say where a choice cannot work."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Config, Problem
from .errors import UserError
from .errors import is_out_of_memory as is_out_of_memory  # asked of a device
from .optimizers import OPTIMIZERS

if TYPE_CHECKING:
    import torch


GIB = 2**30


class DeviceError(UserError):
    """The machine does not have what a setting asks for."""


def problems(config: Config) -> list[Problem]:
    """What can be told without importing torch."""
    problems = []
    if config.train.device == "cuda" and not gpu_driver():
        problems.append(Problem("train.device", "asks for cuda, but no GPU driver answers on this machine.", _CPU_HINT))
    if config.train.device == "mps" and sys.platform != "darwin":
        problems.append(Problem("train.device", "asks for mps, which only Apple's machines have.", _CPU_HINT))
    optimizer = OPTIMIZERS[config.optimizer.name]
    if optimizer.package and importlib.util.find_spec(optimizer.package) is None:
        rule = f"{optimizer.name} needs the package {optimizer.package}."
        problems.append(Problem("optimizer.name", rule, "Install it, or take adamw."))
    if config.base.quantize == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        problems.append(Problem("base.quantize", "nf4 needs the package bitsandbytes.", "Install it, or take 8bit."))
    return problems


def needs_bitsandbytes(config: Config) -> bool:
    """Whether a run uses the package, which takes a second to import."""
    return config.base.quantize == "nf4" or OPTIMIZERS[config.optimizer.name].package == "bitsandbytes"


_CPU_HINT = "Set train.device=auto to use what there is (the embedded bases train on a CPU; large ones need a GPU)."


def gpu_driver() -> bool:
    """Whether an NVIDIA driver answers, or AMD's is there (PyTorch calls both 'cuda')."""
    if any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return True  # containers and WSL may have a GPU and no nvidia-smi
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def likely(wanted: str) -> str:
    """What :func:`pick` will take for ``train.device``, as far as it can be told without torch."""
    if wanted != "auto":
        return wanted
    return "cuda" if gpu_driver() else "mps" if sys.platform == "darwin" else "cpu"


def no_compiler() -> str:
    """What torch.compile and Triton's kernels lack on this machine; empty if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    # With it Triton builds what starts a kernel.
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    return "" if compiler else "there is no C compiler"


def no_kernel(device: str) -> str:
    """Why Flat-LoRA's noise has no Triton kernel on "cuda", "mps" or "cpu", as far as torch need not be asked."""
    if device != "cuda":
        return f"The fused kernel needs an NVIDIA GPU; this device is {device}."
    lacking = no_compiler()
    return f"The fused kernel cannot be built: {lacking}." if lacking else ""


def rank() -> int:
    """This process's number among those of its run, as torch.distributed.run and accelerate launch tell it."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes of its run there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick(wanted: str) -> torch.device:
    """The device for ``train.device``; auto takes CUDA, then MPS, then the CPU. Raises DeviceError."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, present in there.items() if present))
    if not there[wanted]:
        raise DeviceError(
            f"train.device: asks for {wanted}, which this machine (or its PyTorch build) does not have. {_CPU_HINT}"
        )
    return torch.device(wanted)


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen base for ``train.precision``. Raises DeviceError."""
    import torch

    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise DeviceError("train.precision: bf16 needs an NVIDIA GPU of the Ampere generation or newer. Take fp16.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def describe(device: torch.device) -> str:
    """The device in words."""
    import torch

    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def repeatable() -> None:
    """Make CUDA add up in one order, so that a run repeats to the bit; operations that cannot do so warn once.

    To be called before the first matrix product: cuBLAS reads its setting then.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    checked: Any = torch.utils.deterministic
    checked.fill_uninitialized_memory = False  # finds bugs, at the price of writing all memory
    torch.backends.cudnn.benchmark = False
    # Its backward adds up in any order; flash attention's can be told not to.
    torch.backends.cuda.enable_cudnn_sdp(False)


def limit(device: torch.device, gib: float | None) -> None:
    """Let this process take at most ``gib`` GiB of a GPU's memory, as if it had no more; what does not fit fails.

    CUDA's own context (about half a GiB) and what other programs take come on top.
    """
    import torch

    if device.type == "cuda" and gib is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(gib * GIB / total, 1.0), device.index)


def free(device: torch.device) -> float:
    """Bytes of a GPU's memory that this process can still take; no limit where PyTorch does not say."""
    import torch

    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else float("inf")


def peak(device: torch.device) -> tuple[int, int] | None:
    """Most bytes (of tensors, taken from the GPU) since the last call; None where PyTorch does not count them."""
    import torch

    if device.type != "cuda":
        return None
    peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return peaks


def release(device: torch.device) -> None:
    """Give freed memory back to the device."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
