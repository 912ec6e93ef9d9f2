"""What a person says of a run, and what can be asked of one at work."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank_diffusion import about, cli, events, requests, runs
from lowrank_diffusion.about import About
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.runs import Run, RunError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runs.create(Config(), "cats", tmp_path)


def test_a_new_name_is_shown_and_found_and_files_keep_theirs(run: Run):
    about.write(run.path, about.checked("  My  cat ", "better with\nmore steps\n", ["good", " good ", "", "cat"]))
    assert run.about == About("My cat", "better with\nmore steps", ("good", "cat"))
    assert run.title == "My cat" and run.stem == "cats"
    assert runs.find("My cat", run.path.parent).path == runs.find("cats", run.path.parent).path == run.path
    about.write(run.path, About())
    assert run.title == "cats"


def test_everything_that_is_too_long_is_named():
    with pytest.raises(UserError) as caught:
        about.checked("x" * 81, "y" * 20_001, [*map(str, range(21)), "z" * 41])
    assert str(caught.value).splitlines() == [
        "Name: must have at most 80 characters, got 81.",
        "Notes: must have at most 20,000 characters, got 20,001.",
        "Tags: must be at most 20, got 22.",
        f"Tags: must have at most 40 characters each, got {'z' * 41!r}.",
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"title": 5, "tags": "x", "notes": []}', '{"tags": [3, {}]}', "\0"])
def test_a_file_that_makes_no_sense_says_nothing(run: Run, text: str):
    (run.path / about.FILE).write_text(text, encoding="utf-8")
    assert run.about == About() and run.title == "cats"


def test_on_the_command_line(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["about", str(run.path), "--name", "Tom", "--tag", "a", "--tag", "b", "--notes", "n"]) == 0
    assert capsys.readouterr().out == "Tom\ntags: a, b\nn\n"
    assert cli.main(["about", str(run.path), "--tag", "c"]) == 0 and run.about == About("Tom", "n", ("c",))
    assert cli.main(["about", str(run.path), "--name", "x" * 100]) == 1
    assert "at most 80 characters" in capsys.readouterr().err


@pytest.mark.parametrize("ask", [requests.sample_now, requests.save_now, requests.pause, requests.go_on])
def test_nothing_can_be_asked_of_a_run_that_is_not_at_work(run: Run, ask):
    with pytest.raises(RunError, match=r"cats is not running \(it is new\)"):
        ask(run)


def test_a_pause_is_a_state(run: Run):
    log = EventLog(run.events_path)
    log.append(events.Started(0, 60, "cpu", "float32", 1))
    for event, state in ((events.Paused(3), "paused"), (events.Continued(3), "training")):
        log.append(event)
        watch = runs.Watch(run)
        watch.refresh()
        assert watch._folded.state == state and watch._folded.active


def test_prompts_of_a_request(run: Run):
    assert requests.prompts_of(run) == ()
    run.request("sample")
    assert run.requested("sample") and requests.prompts_of(run) == ()
    run.request("sample", '["a cat", 5, "ein Hund"]')
    assert requests.prompts_of(run) == ("a cat", "ein Hund")
    run.request("sample", "{")
    assert requests.prompts_of(run) == ()


def test_samples_that_were_asked_for_do_not_replace_the_others():
    assert requests.file_name(20, "a cat", 0, ".png") == "step-000020-0.png"
    one, other = (requests.file_name(20, prompt, None, ".png") for prompt in ("a cat", "a dog"))
    assert one != other and one.startswith("step-000020-") and len(one) == len("step-000020-12345678.png")
