"""Which adapter a run keeps as its best, when it ends for want of a better one, and what is told at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lowrank_diffusion import events, presets, runs
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.runs import Run, RunError
from trainers.best import Best

HELD_OUT = {"validation.holdout": 2}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runs.create(Config(), "cats", tmp_path)


def state(done: int = 0, **settings: Any) -> Any:
    cfg = presets.build(overrides=HELD_OUT | {key.replace("__", "."): value for key, value in settings.items()})
    return SimpleNamespace(cfg=cfg, done=done, world=SimpleNamespace(first=True))


def validate(best: Best, losses: dict[int, float]) -> None:
    """Validations as the loop makes them."""
    for step, loss in losses.items():
        best.state.done = step
        best.log.append(events.Validated(step, loss))
        best.take(loss, lambda folder: written(best.run, folder))


def written(run: Run, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{run.title}{end}" for end in runs.FORMS["image"]]
    for path in paths[:2]:
        path.write_bytes(b"x")
    paths[2].mkdir()
    return paths


def kept(run: Run) -> list[str]:
    return sorted(path.name for path in run.path.glob("best/*"))


def test_the_lowest_after_the_first_step_is_kept_and_no_other(run: Run):
    best = Best(run, state(), EventLog(run.events_path))
    validate(best, {0: 0.1})
    assert kept(run) == []
    with pytest.raises(RunError, match=r"no best adapter: it was not validated\. Kept steps: none"):
        run.adapter("best")
    validate(best, {10: 0.5, 20: 0.4, 30: 0.45, 40: 0.4})
    assert kept(run) == ["step-000020"]
    assert run.adapter("best") == run.adapter(20) and run.adapter("best").standing == "step 20, lowest validation loss"
    assert run.status().lowest == (20, 0.4)
    told = [record.event for record in events.tail(run.events_path)[0] if isinstance(record.event, events.Best)]
    assert [(event.step, event.loss) for event in told] == [(10, 0.5), (20, 0.4)]
    assert all((run.path / path).exists() for path in told[-1].paths)


def test_it_can_be_left_out(run: Run):
    validate(Best(run, state(save__best=False), EventLog(run.events_path)), {10: 0.5})
    assert kept(run) == []


def test_it_is_listed_between_the_checkpoints(run: Run):
    for step in (10, 30):
        written(run, run.checkpoint(step))
        (run.checkpoint(step) / runs.STATE).write_bytes(b"x")
    written(run, run.best_folder(20))
    assert [(one.step, one.best) for one in run.adapters()] == [(30, False), (20, True), (10, False)]
    written(run, run.path)
    assert [one.step for one in run.adapters()] == [None, 30, 20, 10] and run.adapter().standing == "finished"


def test_a_step_that_is_a_checkpoint_and_the_best_is_one(run: Run):
    written(run, run.checkpoint(10))
    (run.checkpoint(10) / runs.STATE).write_bytes(b"x")
    written(run, run.best_folder(10))
    assert [(one.step, one.best) for one in run.adapters()] == [(10, True)]


@pytest.mark.parametrize(
    ("losses", "enough"),
    [
        ({10: 0.5, 20: 0.6}, False),
        ({10: 0.5, 20: 0.6, 30: 0.55}, True),
        ({10: 0.5, 20: 0.6, 30: 0.4, 40: 0.5}, False),
        ({0: 0.1, 10: 0.5, 20: 0.4}, False),
        ({0: 0.1}, False),
        ({10: 0.5, 20: 0.5, 30: 0.5}, True),
    ],
)
def test_patience_counts_validations_since_the_lowest(run: Run, losses: dict[int, float], enough: bool):
    best = Best(run, state(train__patience=2), EventLog(run.events_path))
    validate(best, losses)
    assert best.enough is enough


def test_a_resumed_run_begins_with_what_was_validated_before_its_checkpoint(run: Run):
    log = EventLog(run.events_path)
    log.append(events.Started(0, 60, "cpu", "float32", 1))
    validate(Best(run, state(train__patience=2), log), {0: 0.9, 10: 0.5, 20: 0.6, 30: 0.3})
    log.append(events.Started(20, 60, "cpu", "float32", 1))
    resumed = Best(run, state(20, train__patience=2), log)
    assert resumed.lowest == (10, 0.5) and not resumed.enough
    validate(resumed, {30: 0.7})
    assert resumed.enough


def test_what_is_told_at_the_end(run: Run):
    best = Best(run, state(train__patience=1), EventLog(run.events_path))
    best.conclude()
    assert run.status().notes == []
    validate(best, {0: 0.4, 10: 0.5, 20: 0.6})
    best.conclude()
    assert run.status().notes == [
        "Ended early: one validation has not been below 0.5000, the loss of step 10.",
        "None of its steps has a lower validation loss than the base alone (0.5000 against 0.4000). Try a lower "
        "optimizer.lr, or other held-out examples.",
    ]


@pytest.mark.parametrize(("task", "hint"), [("image", "Set validation.holdout."), ("text", "or text.held_out")])
def test_patience_needs_held_out_examples(task: str, hint: str):
    with pytest.raises(ConfigError, match="needs held-out examples, got 3") as caught:
        presets.build(overrides={"task": task, "train.patience": 3})
    assert hint in str(caught.value)
