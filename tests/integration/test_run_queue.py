"""Real runs one after another with nobody looking, and what is asked of one at work."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lowrank_diffusion import cli, comparing, repeat, requests, run_queue, supervisor
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run

from .conftest import make_run, train, wait, wait_for_step

LONG = {"train__steps": 3000, "save__every": 3000, "sample__every": 5000}


def until(run: Run, state: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while run.status().state != state:
        assert time.monotonic() < end, run.status()
        time.sleep(0.05)


def test_the_next_begins_when_one_ends_or_fails_and_nobody_looks(tmp_path: Path):
    first = make_run("first", tmp_path, train__steps=3)
    broken = make_run("broken", tmp_path, train__steps=3, data__instance=str(tmp_path / "gone"))
    last = make_run("last", tmp_path, train__steps=3)
    for run in (first, broken, last):
        run_queue.submit(run)
    assert [run.title for run, _ in run_queue.entries(tmp_path)] == ["broken", "last"]
    assert wait(last).state == "finished"
    assert first.status().state == "finished" and broken.status().state == "failed"
    assert run_queue.entries(tmp_path) == []
    assert f"{broken.name} is next and was started." in first.log_path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, request: pytest.FixtureRequest) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_HOME", str(shared_cache))
        run = make_run("work", tmp_path_factory.mktemp("runs"), **LONG)
        supervisor.start(run)
        wait_for_step(run, 2)
    request.addfinalizer(lambda: (supervisor.stop(run, 30), wait(run)))
    return run


def test_pause_keeps_the_process_and_goes_on_where_it_was(at_work: Run):
    requests.pause(at_work)
    until(at_work, "paused")
    process, step = at_work.process(), at_work.status().step
    time.sleep(1)
    assert at_work.status().step == step and at_work.process() == process
    requests.go_on(at_work)
    until(at_work, "training")
    wait_for_step(at_work, step + 2)
    assert [number for number, _ in at_work.status().losses] == list(range(1, at_work.status().step + 1))


def test_save_now_makes_a_checkpoint_with_its_files(at_work: Run):
    assert at_work.checkpoints == []
    requests.save_now(at_work)
    end = time.monotonic() + 60
    while not at_work.adapters():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert at_work.adapter().step in range(1, 3000) and not at_work.requested("save")


def test_samples_of_other_prompts_stand_beside_the_runs_own(at_work: Run):
    requests.sample_now(at_work, ["a red apple", " a  blue\nbird "])
    end = time.monotonic() + 120
    while len(at_work.status().samples) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    samples = at_work.status().samples[-2:]
    assert [prompt for _, prompt, _ in samples] == ["a red apple", "a blue bird"]
    assert all((at_work.path / path).is_file() for _, _, path in samples)
    assert at_work.status().state == "training"


@pytest.mark.parametrize(
    ("prompts", "rule"), [(["x"] * 17, "at most 16, got 17"), (["x" * 2001], "at most 2000 characters, got 2001")]
)
def test_too_many_or_too_long_prompts_are_refused(at_work: Run, prompts: list[str], rule: str):
    with pytest.raises(UserError, match=rule):
        requests.sample_now(at_work, prompts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_HOME", str(shared_cache))
        root = tmp_path_factory.mktemp("runs")
        return train("one", root, train__steps=4, train__ema=0.5, optimizer__warmup=3)


@pytest.fixture
def one(trained: Run, tmp_path: Path) -> Run:
    """A trained run of each test's own."""
    shutil.copytree(trained.path, tmp_path / trained.name)
    return Run(tmp_path / trained.name)


def test_again_and_longer(one: Run, capsys: pytest.CaptureFixture[str]):
    # What the page does with pictures: they lie in the run.
    copied = repeat._copied(Path(one.config().data.instance), one.path / "data" / "instance")
    one.write_config(
        one.config().model_copy(update={"data": one.config().data.model_copy(update={"instance": str(copied)})})
    )
    other = repeat.again(one, {"optimizer.lr": 5e-4}, "other")
    assert other.path.parent != one.path.parent and other.title == "other"
    assert Path(other.config().data.instance).is_relative_to(other.path)
    assert comparing.settings([one, other]) == {"optimizer.lr": [one.config().optimizer.lr, 5e-4]}
    assert cli.main(["compare", str(one.path), str(other.path)]) == 0
    assert "optimizer.lr" in capsys.readouterr().out

    longer = repeat.longer(one, 2)
    assert longer.title == "one-longer" and longer.config().optimizer.warmup == 2
    assert Path(longer.config().adapter.start).is_relative_to(longer.path)
    supervisor.start(longer)
    assert wait(longer).state == "finished"
    state = load_file(one.checkpoints[-1] / "state.safetensors")
    start = load_file(Path(longer.config().adapter.start) / "state.safetensors")
    assert all(torch.equal(state[name], start[name]) for name in state)


def test_a_longer_run_begins_with_what_the_files_of_the_first_hold(one: Run):
    same = repeat.longer(one, 1, {"optimizer.lr": 1e-30, "optimizer.weight_decay": 0.0})
    supervisor.start(same)
    assert wait(same).state == "finished"
    before, after = load_file(one.adapter().loaded), load_file(same.adapter().loaded)
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)


def test_another_adapter_than_the_start_has_is_refused_in_words(one: Run):
    other = repeat.longer(one, 1, {"adapter.rank": 8})
    supervisor.start(other)
    status = wait(other)
    assert status.state == "failed" and "adapter.start needs the same kind, rank and layers" in status.message
