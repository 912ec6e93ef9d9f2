"""A run that was stopped, killed or ran out of disk ends exactly where an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lowrank_diffusion import supervisor
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run, RunError

from .conftest import make_run, train, wait, wait_for_step

FULL = {
    "train__steps": 60, "train__accumulate": 2, "adapter__kind": "gralora", "adapter__dropout": 0.1, "flat__sigma": 0.1,
    "optimizer__schedule": "cosine", "optimizer__warmup": 5, "train__ema": 0.9, "data__flip": True,
    "validation__holdout": 1, "validation__every": 20, "save__every": 25,
}  # fmt: skip


def assert_same_end(one: Run, other: Run) -> None:
    """Loss traces, validation and every final tensor are equal, bit for bit."""
    a, b = one.status(), other.status()
    assert a.losses == b.losses and a.rates == b.rates and a.validation == b.validation
    assert [step for step, _ in a.losses] == list(range(1, a.steps + 1))
    for name in (f"{one.title}-diffusers.safetensors", "checkpoints/step-000060/state.safetensors"):
        left, right = load_file(one.path / name), load_file(other.path / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    os.environ["LOWRANK_HOME"] = str(shared_cache)
    return train("same", tmp_path_factory.mktemp("runs"), **FULL)


def test_stop_at_30_and_resume(undisturbed: Run, tmp_path: Path):
    run = make_run("same", tmp_path, **FULL)
    supervisor.start(run)
    wait_for_step(run, 29)
    supervisor.stop(run)
    status = wait(run)
    assert status.state == "stopped" and 29 <= status.step < 60
    assert run.checkpoints[-1].name == f"step-{status.step:06d}"
    assert all(path.exists() for path in run.files())
    supervisor.start(run)
    assert wait(run, ("finished", "failed")).state == "finished"
    assert_same_end(undisturbed, run)
    with pytest.raises(RunError, match="is finished"):
        supervisor.start(run)


def test_kill_nine_and_resume(undisturbed: Run, tmp_path: Path):
    run = make_run("same", tmp_path, **FULL)
    supervisor.start(run)
    wait_for_step(run, 33)
    process = run.process()
    assert process is not None
    process.kill()
    status = wait(run)
    assert status.state == "interrupted" and "ended without a word" in status.message
    assert [path.name for path in run.checkpoints] == ["step-000025"]
    with run.events_path.open("ab") as log:
        log.write(b'{"kind": "stepped", "st')  # a line that the killed process was in the middle of
    supervisor.start(run)
    wait_for_step(run, 26)
    assert wait(run, ("finished", "failed")).state == "finished"
    assert_same_end(undisturbed, run)


def test_sigterm_saves(tmp_path: Path):
    run = make_run("term", tmp_path, train__steps=500)
    supervisor.start(run)
    wait_for_step(run, 2)
    process = run.process()
    assert process is not None
    process.send_signal(signal.SIGTERM)
    status = wait(run)
    assert status.state == "stopped" and run.checkpoints[-1].name == f"step-{status.step:06d}"


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path):
    run = make_run("once", tmp_path, train__steps=500)
    supervisor.start(run)
    wait_for_step(run, 1)
    with pytest.raises(RunError, match="running already"):
        supervisor.start(run)
    second = subprocess.run(
        [sys.executable, "-m", "trainers", str(run.path)], cwd=PROJECT, capture_output=True, text=True
    )
    assert second.returncode == 1 and "another process" in second.stdout
    supervisor.stop(run)
    assert wait(run).state == "stopped"


def test_runs_take_turns_and_one_that_waits_can_be_stopped(tmp_path: Path):
    first, second, third = (make_run(name, tmp_path, train__steps=40) for name in ("one", "two", "three"))
    supervisor.start(first)
    wait_for_step(first, 1)
    for run in (second, third):
        supervisor.start(run)
        assert wait(run, ("waiting",)).message
    supervisor.stop(third)
    assert wait(third).state == "stopped"
    assert first.status().active
    assert wait(first).state == "finished"
    assert wait(second).state == "finished"
    assert second.status().started >= first.status().updated


def test_full_disk_loses_nothing(tmp_path: Path):
    """A run on a 3 MB disk waits for space with its last step in memory, and ends when there is some."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        run = make_run("full", disk, train__steps=4, adapter__rank=2)
        (disk / "filler").write_bytes(b"x" * 2_500_000)
        supervisor.start(run)
        wait_for_step(run, 4)
        deadline = time.monotonic() + 60
        while not any("disk is full" in note for note in run.status().notes):
            assert time.monotonic() < deadline, run.log_path.read_text()
            time.sleep(0.2)
        assert run.status().active
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert wait(run).state == "finished"
        assert [step for step, _ in run.status().losses] == [1, 2, 3, 4]
        assert all(path.exists() for path in run.files())
    finally:
        process = run.process()
        if process is not None:
            process.kill()
            process.wait(10)
        subprocess.run(["umount", "-l", str(disk)], check=True)
