"""What was measured of a run: written whole, read tolerantly; and which adapters were meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowrank_diffusion import evaluations, events, presets, runs
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.evaluations import TextRow, Texts

ENDS = ("-diffusers.safetensors", "-comfyui-forge.safetensors", "-peft")


def adapter(folder: Path, name: str = "cats") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for end in ENDS:
        (folder / f"{name}{end}").touch()


@pytest.fixture
def run(home: Path) -> runs.Run:
    """Finished after 120 steps, with checkpoints of 50, 100 and 120, and the best at 70."""
    run = runs.create(presets.build(), "cats")
    log = events.EventLog(run.events_path)
    log.append(events.Started(0, 120, "cpu", "float32", 1000))
    log.append(events.Stepped(120, 0.3, 1e-3, 1.0, 0.5))
    log.append(events.Finished(120))
    for step in (50, 100, 120):
        adapter(run.checkpoint(step))
        (run.checkpoint(step) / runs.STATE).touch()
    adapter(run.best_folder(70))
    adapter(run.path)
    return run


def test_all_are_each_kept_adapter_once_in_order(run: runs.Run):
    chosen = evaluations.chosen(run, "all")
    assert [(one.step, one.best) for one in chosen] == [(50, False), (70, True), (100, False), (120, False)]


def test_some_by_number_and_the_best(run: runs.Run):
    assert [one.step for one in evaluations.chosen(run, "120, best,50,best")] == [50, 70, 120]
    (last,) = evaluations.chosen(run, "best")
    assert last.best and last.adapter.loaded.parent == run.best_folder(70)


def test_the_last_step_is_the_finished_adapter(run: runs.Run):
    for path in run.checkpoint(120).iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    (one,) = evaluations.chosen(run, "120")
    assert one.step == 120 and one.adapter.loaded.parent == run.path


@pytest.mark.parametrize("steps", ["", "fifty", "50;100", "-1", "all,50", "\u0665"])
def test_what_is_no_list_of_steps_is_refused(run: runs.Run, steps: str):
    with pytest.raises(UserError, match="--steps: must be 'all', or numbers"):
        evaluations.chosen(run, steps)


def test_steps_that_are_not_there_are_named(run: runs.Run):
    with pytest.raises(UserError, match=r"no adapter files yet of step 60\. Kept steps: 120, 100, 70, 50"):
        evaluations.chosen(run, "50,60")


def row(perplexity: float | None) -> TextRow:
    return TextRow(step=None, best=False, perplexity=perplexity, exact_match=None, answered=0)


def test_an_evaluation_is_read_as_it_was_written(run: runs.Run):
    assert evaluations.read(run, Texts) is None
    kept = Texts(command="c", made=1.0, examples=3, rows=(row(2.5), row(evaluations.figure(float("nan")))))
    evaluations.write(run, kept)
    assert evaluations.read(run, Texts) == kept and kept.rows[1].perplexity is None
    assert [path.name for path in (run.path / evaluations.FOLDER).iterdir()] == [Texts.file]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"rows": 3}', "NaN"])
def test_what_cannot_be_read_counts_as_not_measured(run: runs.Run, text: str):
    path = run.path / evaluations.FOLDER / Texts.file
    path.parent.mkdir()
    path.write_text(text)
    assert evaluations.read(run, Texts) is None


def test_numbers_that_no_chart_can_show_are_not_read(run: runs.Run):
    evaluations.write(run, Texts(command="c", made=1.0, examples=3, rows=(row(2.5),)))
    path = run.path / evaluations.FOLDER / Texts.file
    values = json.loads(path.read_text())
    values["rows"][0]["perplexity"] = float("inf")
    path.write_text(json.dumps(values))
    assert evaluations.read(run, Texts) is None


def test_the_command_repeats_what_was_given():
    given = {"steps": "all", "prompt": ["a cat", "it's"], "count": None, "device": "auto", "flatness": True}
    assert evaluations.command("evaluate", ["my run"], given) == (
        "python -m lowrank_diffusion evaluate 'my run' --steps all --prompt 'a cat' --prompt 'it'\"'\"'s' --flatness"
    )
