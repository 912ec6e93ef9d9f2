"""The queue: kept on disk, one run at a time on each device, on after whatever became of the one before."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import events, lanes, presets, queued, run_queue, runs, supervisor
from lowrank_diffusion.config import Config
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.runs import Run, RunError

HERE = {"train.device": "cpu"}
SLEEPS = [sys.executable, "-c", "import sys; sys.stdin.read(); import time; time.sleep(60)"]


@pytest.fixture(autouse=True)
def sleeping(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Instead of training, the process of a run does nothing for a minute; it is started as a training is."""
    monkeypatch.setattr(supervisor, "command", lambda run: SLEEPS)
    yield
    for run in runs.all_runs():
        end(run)


def made(name: str, **settings: Any) -> Run:
    values = HERE | {key.replace("__", "."): value for key, value in settings.items()}
    return runs.create(presets.build(overrides=values), name)


def end(run: Run, *happened: events.Event) -> None:
    for event in happened:
        EventLog(run.events_path).append(event)
    if (process := run.process()) is not None:
        process.kill()
        process.wait(10)


def waiting() -> list[str]:
    return [run.title for run, _ in run_queue.entries()]


def test_one_at_a_time_in_order_and_on_after_a_failure():
    one, two, three = made("one"), made("two"), made("three")
    assert run_queue.submit(one) and not run_queue.submit(two) and not run_queue.submit(three)
    assert waiting() == ["two", "three"] and two.status().state == "queued" and not two.status().active
    assert run_queue.advance() == []
    end(one, events.Began(1), events.Failed("no luck"))
    assert [run.title for run in run_queue.advance()] == ["two"] and waiting() == ["three"]
    end(two)
    assert two.status().state == "interrupted"
    assert [run.title for run in run_queue.advance()] == ["three"] and waiting() == []


def test_order_can_be_changed_and_one_goes_first():
    first, one, two, three = made("first"), made("one"), made("two"), made("three")
    for run in (first, one, two):
        run_queue.submit(run)
    run_queue.submit(three, first=True)
    assert waiting() == ["three", "one", "two"]
    run_queue.move(two, -1)
    run_queue.move(three, 10)
    assert waiting() == ["two", "one", "three"]
    run_queue.move(two, -1)
    assert waiting()[0] == "two"
    run_queue.remove(one)
    assert waiting() == ["two", "three"] and one.status().state == "new"
    with pytest.raises(RunError, match="one is not in the queue"):
        run_queue.move(one, 1)


def test_one_that_is_held_is_passed_over_until_it_is_released():
    first, held, other = made("first"), made("held"), made("other")
    for run in (first, held, other):
        run_queue.submit(run)
    run_queue.hold(held)
    assert held.status().state == "held"
    end(first)
    assert [run.title for run in run_queue.advance()] == ["other"]
    end(other)
    assert run_queue.advance() == []
    run_queue.hold(held, False)
    assert held.process() is not None and waiting() == []


def test_after_a_pause_nothing_is_started():
    first, next_one = made("first"), made("next")
    for run in (first, next_one):
        run_queue.submit(run)
    run_queue.pause()
    end(first)
    assert run_queue.advance() == [] and run_queue.state().paused
    run_queue.pause(paused=False)
    assert next_one.process() is not None


def test_each_device_has_its_own(monkeypatch: pytest.MonkeyPatch):
    cpu, also_cpu = made("cpu"), made("also-cpu")
    one, both, other = (
        made("one", train__device="cuda"),
        made("both", train__device="cuda", train__gpus=2),
        made("other", train__device="cuda", train__gpu=1),
    )
    for run in (cpu, also_cpu, one, both, other):
        run_queue.submit(run)
    assert waiting() == ["also-cpu", "both", "other"], "nobody overtakes the one that waits for both"
    end(one)
    assert [run.title for run in run_queue.advance()] == ["both"]


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        ({"train.device": "cuda"}, ("cuda:0",)),
        ({"train.device": "cuda", "train.gpu": 2, "train.gpus": 2}, ("cuda:2", "cuda:3")),
        ({"train.device": "cpu", "train.gpus": 2}, ("cpu",)),
        ({"train.device": "mps"}, ("mps",)),
    ],
)
def test_devices_of_a_run(settings: dict[str, Any], devices: tuple[str, ...]):
    assert lanes.of(presets.build(overrides=settings)) == devices


def test_devices_are_taken_all_or_none(tmp_path: Path):
    taken = lanes.take(tmp_path, ("cuda:0",))
    assert taken is not None and lanes.take(tmp_path, ("cuda:1", "cuda:0")) is None
    other = lanes.take(tmp_path, ("cuda:1",))
    assert other is not None, "the failed attempt has kept nothing"
    taken.close()
    assert lanes.take(tmp_path, ("cuda:0",)) is not None


def test_what_cannot_be_started_is_held_with_the_reason_and_the_next_begins(monkeypatch: pytest.MonkeyPatch):
    first, broken, good = made("first"), made("broken"), made("good")
    for run in (first, broken, good):
        run_queue.submit(run)
    (broken.path / "config.yaml").write_text("adapter: {rank: many}", encoding="utf-8")
    end(first)
    assert [run.title for run in run_queue.advance()] == ["good"]
    status = broken.status()
    assert status.state == "held" and "adapter.rank" in status.message


def test_what_cannot_be_started_at_once_is_not_kept():
    run = made("broken")
    (run.path / "config.yaml").write_text("adapter: {rank: many}", encoding="utf-8")
    with pytest.raises(RunError, match=r"adapter\.rank"):
        run_queue.submit(run)
    assert waiting() == []


def test_what_is_at_work_or_finished_is_not_queued():
    run = made("one")
    run_queue.submit(run)
    with pytest.raises(RunError, match="one is running already"):
        run_queue.submit(run)
    end(run, events.Began(1), events.Finished(5))
    with pytest.raises(RunError, match="one is finished"):
        run_queue.submit(run)


def test_runs_that_are_gone_or_were_started_otherwise_leave_the_queue():
    first, gone, started, last = made("first"), made("gone"), made("started"), made("last")
    for run in (first, gone, started, last):
        run_queue.submit(run)
    (gone.path / "config.yaml").unlink()
    supervisor.start(started)
    EventLog(started.events_path).append(events.Began(1))
    end(first)
    assert run_queue.advance() == [], "the one that was started by hand has the device"
    assert waiting() == ["last"]


def test_deleting_takes_it_out():
    first, second = made("first"), made("second")
    run_queue.submit(first), run_queue.submit(second)
    with pytest.raises(RunError, match="Stop it first"):
        run_queue.delete(first)
    run_queue.delete(second)
    assert not second.path.exists() and waiting() == [] and queued.read(runs.runs_folder()).entries == ()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"entries": 3}', '{"entries": [3, {"run": 4}, {"run": "../x"}, {"run": "a/b"}]}', "\0" * 5],
)
def test_a_file_that_makes_no_sense_is_an_empty_queue(text: str):
    folder = runs.runs_folder()
    folder.mkdir(parents=True)
    (folder / queued.FILE).write_text(text, encoding="utf-8")
    assert queued.read(folder) == queued.Queue() and run_queue.advance() == []


def test_what_a_stranger_wrote_into_it_is_read_as_far_as_it_makes_sense():
    run = made("one")
    rows = [{"run": run.name, "held": "yes", "reason": 5}, {"run": run.name, "held": True}]
    (run.path.parent / queued.FILE).write_text(json.dumps({"entries": rows, "paused": 1}), encoding="utf-8")
    assert queued.read(run.path.parent) == queued.Queue((queued.Entry(run.name, True),))


def test_a_run_sees_its_own_gpus_and_hands_on_what_its_process_saw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def visible(**settings: Any) -> tuple[str | None, str | None]:
        values = {key.replace("__", "."): value for key, value in settings.items()}
        run = runs.create(presets.build(overrides=values), "x", tmp_path)
        own = supervisor.environment(run)
        return own.get("CUDA_VISIBLE_DEVICES"), own.get("LOWRANK_VISIBLE_DEVICES")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible() == (None, None) and visible(train__gpu=1) == ("1", "")
    assert visible(train__gpu=2, train__gpus=2) == ("2,3", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert visible() == ("4,5,6", None) and visible(train__gpu=1) == ("5", "4,5,6")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # inside such a run, which starts the next one
    monkeypatch.setenv("LOWRANK_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    assert visible() == ("4,5,6", None) and visible(train__gpu=2) == ("6", "4,5,6")
    own = supervisor.environment(runs.create(Config(), "y", tmp_path))
    assert not {"RANK", "TORCHELASTIC_RUN_ID"} & own.keys()
