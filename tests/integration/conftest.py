"""Real processes: one short run, shared by the tests that only look at its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lowrank_diffusion import presets, runs, supervisor
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run
from tests.conftest import share_bases

TINY = {
    "data.instance": "assets/examples/subject-cat",
    "data.resolution": 64,
    "sample.prompts": [],
    "adapter.rank": 4,
    "train.batch": 1,
    "train.steps": 6,
    "optimizer.lr": 1e-3,
    "save.every": 1000,
}


def make_run(name: str, root: Path, **settings: object) -> Run:
    """A run directory with small settings; keyword names have '__' for '.'."""
    overrides = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    return runs.create(presets.build({}, overrides), name, root)


def wait(run: Run, states: tuple[str, ...] = ("finished", "stopped", "failed", "interrupted"), seconds: float = 240):
    """Wait until the run is in one of ``states``; returns its status."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = run.status()
        if status.state in states:
            return status
        time.sleep(0.1)
    raise AssertionError(f"{run.name} is still {run.status().state}: {run.log_path.read_text()[-2000:]}")


def wait_for_step(run: Run, step: int, seconds: float = 240) -> None:
    """Wait until ``step`` steps are done."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and run.status().step < step:
        assert run.status().state not in ("failed", "interrupted"), run.log_path.read_text()[-2000:]
        time.sleep(0.05)
    assert run.status().step >= step


def train(name: str, root: Path, **settings: object) -> Run:
    """Make a run and train it to the end."""
    run = make_run(name, root, **settings)
    supervisor.start(run)
    status = wait(run)
    assert status.state == "finished", f"{status.message}\n{run.log_path.read_text()[-3000:]}"
    return run


def command(
    *arguments: str, cwd: Path = PROJECT, wrapper: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, perhaps started by another program."""
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "lowrank_diffusion", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def python(code: str, *arguments: str) -> dict:
    """Run code in a clean process that has none of this project on its path; it prints one JSON value last."""
    ours = ("PYTHONPATH", "DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY")  # our commands quieten libraries by these
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        # Collecting garbage at every 700 objects is a quarter of the time that importing the libraries takes.
        [sys.executable, "-I", "-c", f"import gc; gc.set_threshold(100_000)\n{code}", *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of latents and embeddings for the whole session: they are the same in every test."""
    home = tmp_path_factory.mktemp("home")
    share_bases(home, tmp_path_factory)
    return home


@pytest.fixture(autouse=True)
def home(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LOWRANK_HOME of the session; runs go to a folder of each test's own."""
    monkeypatch.setenv("LOWRANK_HOME", str(shared_cache))
    return shared_cache


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers this narrow take longer to share out than to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
