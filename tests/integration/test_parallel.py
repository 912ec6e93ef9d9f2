"""Two processes that train one adapter on the CPU, started as a user's are: by us, or by accelerate launch."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lowrank_diffusion import supervisor
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run, RunError
from tests.app_process import free_port

from .conftest import make_run, train, wait, wait_for_step

SETTINGS = {
    "train__steps": 8, "train__gpus": 2, "train__device": "cpu", "adapter__kind": "gralora", "train__ema": 0.5,
    "validation__holdout": 1, "validation__every": 4, "save__every": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    os.environ["LOWRANK_HOME"] = str(shared_cache)
    return train("same", tmp_path_factory.mktemp("runs"), **SETTINGS)


def accelerated(run: Run) -> subprocess.Popen[bytes]:
    """Start it as a person does after --prepare; accelerate takes the number of GPUs for what it is told."""
    with run.log_path.open("ab") as log:
        (command,) = supervisor.accelerate(run)
        return subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT)


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "same-diffusers.safetensors")


def test_two_processes_do_what_one_does_with_twice_the_window(pair: Run, tmp_path: Path):
    one = train("same", tmp_path, **SETTINGS | {"train__gpus": 1, "train__accumulate": 2})
    a, b = pair.status(), one.status()
    assert [step for step, _ in a.losses] == list(range(1, 9)), "told once, by one process"
    assert [loss for _, loss in a.losses] == pytest.approx([loss for _, loss in b.losses], rel=1e-4)
    assert [loss for _, loss in a.validation] == pytest.approx([loss for _, loss in b.validation], rel=1e-4)
    # Adam turns the last bits of a gradient near zero into a step of either sign: single elements may differ by more.
    for name, value in tensors(one).items():
        assert (tensors(pair)[name] - value).norm() <= 1e-3 * value.norm(), name


def test_stopped_and_killed_it_still_ends_the_same(pair: Run, tmp_path: Path):
    run = make_run("same", tmp_path, **SETTINGS | {"save__every": 1})
    with accelerated(run):
        wait_for_step(run, 2)
        supervisor.stop(run)
        status = wait(run)
    assert status.state == "stopped" and 2 <= status.step < 7
    supervisor.start(run)
    wait_for_step(run, status.step + 1)
    launcher = run.launcher()
    assert launcher is not None
    workers = launcher.children(recursive=True)
    os.kill(next(worker.pid for worker in workers if worker.environ().get("RANK") == "1"), signal.SIGKILL)
    assert wait(run).state in ("failed", "interrupted") and run.checkpoints
    assert not psutil.wait_procs(workers, timeout=60)[1], "no process is left behind"
    supervisor.start(run)
    assert wait(run, ("finished", "failed")).state == "finished"
    assert run.status().losses == pair.status().losses
    assert all(torch.equal(value, tensors(pair)[name]) for name, value in tensors(run).items())


def test_two_machines_do_what_one_does(pair: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two launches that find each other by an address, here of this machine; stopped and gone on with on the way."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run = make_run("same", tmp_path, **SETTINGS)
    for stops in (True, False):
        address = f"127.0.0.1:{free_port()}"
        logs = [(tmp_path / f"machine-{number}.txt").open("ab") for number in range(2)]
        launches = [
            subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=subprocess.STDOUT)
            for command, log in zip(supervisor.accelerate(run, address, 2), logs, strict=True)
        ]
        if stops:
            wait_for_step(run, 2)
            supervisor.stop(run)
        ends = [launch.wait(120) for launch in launches]
        assert ends == [0, 0], [(tmp_path / f"machine-{number}.txt").read_text() for number in range(2)]
    assert run.status().state == "finished" and run.status().losses == pair.status().losses
    assert all(torch.equal(value, tensors(pair)[name]) for name, value in tensors(run).items())


@pytest.mark.parametrize(("address", "machines"), [("", 2), ("here:port", 2), ("here", 3), ("here", 0)])
def test_machines_that_cannot_share_the_gpus_are_refused(tmp_path: Path, address: str, machines: int):
    run = make_run("same", tmp_path, **SETTINGS)
    with pytest.raises(RunError, match="--machines"):
        supervisor.accelerate(run, address, machines)


def test_another_number_of_processes_is_refused_unless_asked_for(pair: Run, tmp_path: Path):
    run = make_run("same", tmp_path, **SETTINGS)
    text = (run.path / "config.yaml").read_text(encoding="utf-8")
    assert "gpus: 2" in text
    (run.path / "config.yaml").write_text(text.replace("gpus: 2", "gpus: 1"), encoding="utf-8")
    copy = run.path / "checkpoints" / "step-000004"
    copy.mkdir(parents=True)
    (copy / "state.safetensors").write_bytes((pair.path / "checkpoints/step-000004/state.safetensors").read_bytes())
    supervisor.start(run)
    status = wait(run)
    assert status.state == "failed" and "train.gpus=2" in status.message and "train.regroup=true" in status.message
    changed = (run.path / "config.yaml").read_text(encoding="utf-8").replace("regroup: false", "regroup: true")
    (run.path / "config.yaml").write_text(changed, encoding="utf-8")
    supervisor.start(run)
    assert wait(run, ("finished", "failed")).state == "finished"
