"""A run that goes on where something is not as it was: said by name, passed over or refused, never believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from lowrank_diffusion import supervisor
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import STATE, Run, RunError

from .conftest import command, make_run, wait, wait_for_step


def own_pictures(run: Run) -> Path:
    """Give a run pictures of its own, as the app does."""
    folder = run.path / "data" / "instance"
    shutil.copytree(PROJECT / "assets" / "examples" / "subject-cat", folder)
    config = run.config()
    data = config.data.model_copy(update={"instance": str(folder)})
    run.write_config(config.model_copy(update={"data": data}))
    return folder


def stopped(run: Run, step: int) -> Run:
    supervisor.start(run)
    wait_for_step(run, step)
    supervisor.stop(run)
    assert wait(run).state == "stopped"
    return run


def edit(run: Run, old: str, new: str) -> None:
    path = run.path / "config.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_moved_changed_and_damaged_it_goes_on_and_says_all(tmp_path: Path):
    run = make_run("cat", tmp_path / "runs", train__steps=60, save__every=2)
    own_pictures(run)
    stopped(run, 5)
    (tmp_path / "elsewhere").mkdir()
    run = Run(run.path.rename(tmp_path / "elsewhere" / run.name))
    picture = sorted((run.path / "data" / "instance").glob("*.png"))[0]
    Image.open(picture).rotate(180).save(picture)
    newest = run.checkpoints[-1]
    (newest / STATE).write_bytes((newest / STATE).read_bytes()[:-100])
    step = int(run.checkpoints[-2].name[5:])
    edit(run, "lr: 0.001", "lr: 0.002")
    edit(run, "steps: 60", f"steps: {step + 3}")
    supervisor.start(run)
    assert wait(run, ("finished", "failed")).state == "finished", run.log_path.read_text()[-3000:]
    notes = "\n".join(run.status().notes)
    assert f"{newest.name}/{STATE}: is damaged" in notes and f"training goes on from step {step}." in notes
    assert f"Resumed from step {step}, but not to the bits of an undisturbed run: " in notes
    assert f"picture {picture.name} is changed" in notes and "optimizer.lr was 0.001 and is 0.002" in notes
    assert [done for done, _ in run.status().losses] == list(range(1, step + 4))


def test_what_makes_its_state_meaningless_is_refused(tmp_path: Path):
    run = stopped(make_run("cat", tmp_path, train__steps=60, save__every=2), 2)
    edit(run, "name: adamw", "name: adafactor")
    supervisor.start(run)
    status = wait(run)
    assert status.state == "failed" and "optimizer.name: is adafactor now" in status.message
    assert "Set optimizer.name=adamw, or start a new run." in status.message and "KeyError" not in status.message
    edit(run, "name: adafactor", "name: adamw")
    edit(run, "steps: 60", f"steps: {status.step + 1}")
    shown = command("resume", str(run.path))
    assert shown.returncode == 0 and "train.steps was 60" in shown.stdout, shown.stdout + shown.stderr


def test_a_loss_that_is_no_number_is_not_repeated(tmp_path: Path):
    """To go on would end the same way, to the bit: nobody is asked to."""
    run = make_run("cat", tmp_path, train__steps=40, optimizer__lr=10, train__clip=0, train__precision="fp16")
    shown = command("resume", str(run.path))
    assert shown.returncode == 1 and "Start a new run with a lower optimizer.lr" in shown.stdout
    assert "Resume with" not in shown.stdout and not run.status().resumable
    for folder in run.checkpoints:
        tensors = load_file(folder / STATE)
        assert all(bool(value.isfinite().all()) for value in tensors.values() if value.is_floating_point())


def test_started_twice_at_once_it_is_trained_once_and_can_be_stopped(tmp_path: Path):
    run = make_run("cat", tmp_path, train__steps=500)
    supervisor.start(run)
    with pytest.raises(RunError, match="running already"):
        supervisor.start(Run(run.path))
    (run.path / "launch.json").unlink()  # as if both had asked in the same moment
    supervisor.start(Run(run.path))
    wait_for_step(run, 1)
    assert "is being trained by another process" in run.log_path.read_text()
    assert run.status().state == "training"
    supervisor.stop(run)
    assert wait(run).state == "stopped" and run.status().starts == 1


def test_a_file_that_may_not_grow_is_explained(tmp_path: Path):
    """As on FAT32 beyond 4 GB: no room that somebody makes would help."""
    run = make_run("cat", tmp_path, train__steps=2)
    shown = command("resume", str(run.path), wrapper=("prlimit", "--fsize=200000"))
    assert shown.returncode == 1 and "ulimit -f" in shown.stdout, shown.stdout[-2000:]
    assert run.status().state == "failed"
