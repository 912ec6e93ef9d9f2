"""What a person reads is ours: no command and no training process repeats what libraries say of themselves.

stderr holds notes of ours and nothing else; a run's log, where its process writes both streams, is empty.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lowrank_diffusion import runs
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run

from .conftest import command

SMALL = (
    "data.instance=assets/examples/subject-cat", "data.resolution=64", "train.batch=1", "train.steps=2",
    "adapter.rank=4", "sample.prompts=['a cat']", "sample.steps=2", "train.device=cpu",
)  # fmt: skip
OWN = ("note: ", "Drawn without CUDA graphs")


def noise(text: str) -> list[str]:
    """The lines of a stream that are not ours."""
    return [line for line in text.splitlines() if not line.startswith(OWN)]


def trained(home: Path, name: str, *settings: str, preset: str = "smoke") -> Run:
    """A run from `train` to its end, which leaves stderr to our notes and the log empty."""
    done = command("train", preset, "--name", name, *settings, LOWRANK_HOME=str(home))
    assert done.returncode == 0, done.stdout + done.stderr
    run = runs.find(name, home / "runs")
    assert noise(done.stderr) == [] and run.log_path.read_text(encoding="utf-8") == ""
    return run


def test_train_and_generate(home: Path, tmp_path: Path):
    first = trained(home, "one", *SMALL, "base.quantize=nf4", "adapter.text_encoders=attention")
    second = trained(home, "two", *SMALL, "optimizer.name=prodigy")
    done = command(
        "generate", "a cat", "--adapter", str(first.path), "--adapter", str(second.path), "--steps", "2",
        "--compare", "--width", "64", "--height", "64", "--out", str(tmp_path), LOWRANK_HOME=str(home),
    )  # fmt: skip
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
    assert noise(done.stderr) == []


def test_the_training_process_itself(home: Path):
    done = command("train", "smoke", "--prepare", *SMALL, LOWRANK_HOME=str(home))
    run = Run(Path(done.stdout.splitlines()[0].removeprefix("run ")))
    command_line = [sys.executable, "-m", "trainers", str(run.path)]
    done = subprocess.run(command_line, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run.status().state == "finished"


def test_a_language_model_that_is_converted_first(tmp_path: Path):
    """A home of its own, where no earlier test has made a folder of the GGUF file."""
    trained(tmp_path, "orders", "train.steps=1", "train.device=cpu", "sample.prompts=[hello]", preset="llm-smoke")
    done = command("ask", "hello", "--adapter", "orders", "--max-tokens", "2", LOWRANK_HOME=str(tmp_path))
    assert done.returncode == 0 and noise(done.stderr) == []
