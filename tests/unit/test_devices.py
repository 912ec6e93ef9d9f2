"""Which device and precision a setting gives here, and what is said where it cannot work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lowrank_diffusion import devices, presets
from lowrank_diffusion.config import Config
from lowrank_diffusion.devices import DeviceError
from lowrank_diffusion.paths import PROJECT

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def cuda() -> Config:
    return presets.build({}, {"train.device": "cuda"})


no_amd = pytest.mark.skipif(Path("/dev/kfd").exists(), reason="this machine has an AMD driver")


def test_auto_and_cpu_are_never_a_problem():
    for device in ("auto", "cpu"):
        assert devices.problems(presets.build({}, {"train.device": device})) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="this machine may have it")
def test_mps_is_apples():
    (problem,) = devices.problems(presets.build({}, {"train.device": "mps"}))
    assert str(problem).startswith(
        "train.device: asks for mps, which only Apple's machines have. Set train.device=auto"
    )


@no_amd
@pytest.mark.parametrize("script", [None, "exit 9", "echo 'No devices found.'"])
def test_cuda_without_a_driver_says_what_to_do(path: Path, script: str | None):
    if script:
        program(path, "nvidia-smi", script)
    (problem,) = devices.problems(cuda())
    assert problem.key == "train.device" and "no GPU driver answers" in problem.rule
    assert "Set train.device=auto" in problem.hint


def test_cuda_with_a_driver_is_no_problem(path: Path):
    program(path, "nvidia-smi", "echo 'GPU 0: Something (UUID: GPU-1)'")
    assert devices.problems(cuda()) == []


def test_eight_bit_adamw_needs_its_package(tmp_path: Path):
    config = presets.build({}, {"optimizer.name": "adamw8bit"})
    found = devices.problems(config)
    if importlib.util.find_spec("bitsandbytes"):
        assert found == []
    else:
        assert [str(problem) for problem in found] == [
            "optimizer.name: adamw8bit needs the package bitsandbytes. Install it, or take adamw."
        ]


def test_four_bits_need_bitsandbytes_and_eight_do_not(monkeypatch: pytest.MonkeyPatch):
    assert devices.problems(presets.build({}, {"base.quantize": "8bit"})) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as where nothing is installed
    assert [str(problem) for problem in devices.problems(presets.build({}, {"base.quantize": "nf4"}))] == [
        "base.quantize: nf4 needs the package bitsandbytes. Install it, or take 8bit."
    ]


def test_memory_is_not_counted_or_limited_on_a_cpu():
    devices.limit(CPU, 1e-9)
    assert devices.free(CPU) == float("inf") and devices.peak(CPU) is None


def test_what_there_is_can_be_picked():
    assert devices.pick("cpu") == CPU
    present = [name for name in ("cuda", "mps") if getattr(torch, name).is_available()]
    assert devices.pick("auto").type == (present or ["cpu"])[0]


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_what_there_is_not_is_refused_with_a_way_out(name: str):
    if name == "mps" and torch.mps.is_available():
        pytest.skip("this machine has MPS")
    with pytest.raises(DeviceError, match=rf"train\.device: asks for {name}.* Set train\.device=auto"):
        devices.pick(name)


def test_precision():
    assert devices.dtype("auto", CPU) == torch.float32
    assert [devices.dtype(name, CPU) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32, torch.bfloat16, torch.float16,
    ]  # fmt: skip


def test_describe_and_release():
    assert devices.describe(CPU) == "cpu"
    devices.release(CPU)


@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [({}, None, "10000"), ({"GOMP_SPINCOUNT": "7"}, None, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None)],
)
def test_threads_spin_shortly_unless_a_person_chose(given: dict[str, str], policy: str | None, spins: str | None):
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    code = "import os, lowrank_diffusion; print([os.environ.get(k) for k in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')])"
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == str([policy, spins]), done.stderr
