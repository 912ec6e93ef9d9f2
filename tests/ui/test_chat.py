"""The chat: from the fields to real answers of a tiny base and its adapter, and back to the page."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import presets, runs
from lowrank_diffusion.runs import Run
from lowrank_diffusion.text.rows import Message
from tests import tiny_language as tiny_language_model
from ui import chat_form, draw_form
from ui.chat import ChatTab
from ui.draw_form import RequestError
from ui.engine import CancelledError, Engine, EngineError
from ui.language_worker import Answered, Chat, Saying
from ui.toolkit import gr

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="session")
def adapter(tiny_language: Path) -> Path:
    return tiny_language_model.write_adapter(tiny_language, tiny_language.parent / "adapter")


@pytest.fixture
def run(home: Path, tiny_language: Path, adapter: Path) -> Run:
    """A run of the tiny model with an adapter at step 20."""
    values = {
        "task": "text",
        "base.path": str(tiny_language),
        "sample.prompts": ("Two teas",),
        "sample.system": "JSON.",
    }
    run = runs.create(presets.build(overrides=values), "orders")
    shutil.copytree(adapter, run.path / "checkpoints" / "step-000020" / "orders-peft")
    (run.path / "checkpoints" / "step-000020" / "state.safetensors").touch()
    return run


@pytest.fixture
def answers(run: Run, tiny_language: Path) -> dict[str, Any]:
    return {
        "adapter": run.name, "compare": True, "base": str(tiny_language), "template": "auto", "system": " Be short. ",
        "temperature": 0, "top_p": 1, "max_tokens": 12, "seed": 0, "message": " hello ",
    }  # fmt: skip


def talked(language_engine: Engine, job: Chat) -> Answered:
    *parts, done = language_engine.run("page", job)
    assert all(isinstance(part, Saying) for part in parts)
    assert isinstance(done, Answered)
    return done


def test_the_fields_become_two_conversations_that_each_remember_their_own(answers: dict[str, Any]) -> None:
    job, names = chat_form.build_job(answers, ())
    assert names == ("tiny", "orders")
    assert [side.adapted for side in job.sides] == [False, True]
    asked = (Message("system", "Be short."), Message("user", "hello"))
    assert all(side.messages == asked for side in job.sides)
    turn = chat_form.begun("hello", job, names)
    said = [replace(answer, text=f"I am {answer.by}") for answer in turn.answers]
    again, _ = chat_form.build_job(answers | {"message": "and?"}, (replace(turn, answers=tuple(said)),))
    for side, name in zip(again.sides, names, strict=True):
        assert side.messages == (*asked, Message("assistant", f"I am {name}"), Message("user", "and?"))


def test_one_side_alone(answers: dict[str, Any]) -> None:
    assert [side.adapted for side in chat_form.build_job(answers | {"compare": False}, ())[0].sides] == [True]
    assert [side.adapted for side in chat_form.build_job(answers | {"adapter": ""}, ())[0].sides] == [False]


def test_every_bad_field_is_named(answers: dict[str, Any]) -> None:
    bad = {"message": "  ", "temperature": -1, "top_p": None, "max_tokens": 2.5, "seed": "x"}
    with pytest.raises(RequestError) as error:
        chat_form.build_job(answers | bad | {"base": "/no/model", "adapter": "../.."}, ())
    keys = {problem.key for problem in error.value.problems}
    assert keys == {"Message", "Temperature", "Top-p", "Most tokens", "Seed", "Base model", "Adapter"}


def test_only_runs_with_an_adapter_of_a_language_model_are_offered(run: Run) -> None:
    runs.create(presets.build(overrides={"task": "text"}), "empty")
    pictures = runs.create(presets.build(), "cats")
    shutil.copytree(run.path / "checkpoints" / "step-000020" / "orders-peft", pictures.path / "cats-peft")
    assert [value for _, value in chat_form.adapter_choices()] == ["", run.name]
    assert "step 20" in chat_form.adapter_choices()[1][0]
    assert draw_form.adapter_choices([]) == [("none", "")]


def test_choosing_an_adapter_takes_over_how_it_was_trained(
    run: Run, language_engine: Engine, tiny_language: Path
) -> None:
    with gr.Blocks():
        tab = ChatTab(language_engine)
    filled = tab.choose({tab.adapter: run.name, tab.message: ""})
    assert (filled[tab.base], filled[tab.system], filled[tab.message]) == (str(tiny_language), "JSON.", "Two teas")
    assert tab.choose({tab.adapter: run.name, tab.message: "mine"})[tab.message] == "mine"
    assert "no run" in tab.choose({tab.adapter: "gone", tab.message: ""})[tab.problems]


def test_base_and_adapted_answer_differently_and_each_the_same_again(
    language_engine: Engine, answers: dict[str, Any]
) -> None:
    job, names = chat_form.build_job(answers, ())
    done = talked(language_engine, job)
    base, adapted = done.replies
    assert base.text != adapted.text
    alone = talked(language_engine, chat_form.build_job(answers | {"adapter": ""}, ())[0])
    assert alone.replies[0].text == base.text
    drawn = [
        talked(language_engine, replace(job, settings=replace(job.settings, temperature=1.0, seed=s)))
        for s in (3, 3, 4)
    ]
    texts = [[reply.text for reply in item.replies] for item in drawn]
    assert texts[0] == texts[1] != texts[2]
    shown = chat_form.conversation_html((chat_form.answered(chat_form.begun("hello", job, names), done.replies),))
    assert shown.count("<figure") == 2
    assert all(reply.tokens == 12 and reply.cut for reply in done.replies)
    assert shown.count("12 tokens") == shown.count("no more tokens allowed") == 2


def test_an_answer_can_be_stopped_and_the_next_one_comes(language_engine: Engine, answers: dict[str, Any]) -> None:
    job, _ = chat_form.build_job(answers | {"max_tokens": 400}, ())
    talking = language_engine.run("mine", job)
    while not (isinstance(part := next(talking), Saying) and part.texts[0]):
        pass
    language_engine.cancel("mine")
    with pytest.raises(CancelledError):
        list(talking)
    assert len(talked(language_engine, chat_form.build_job(answers, ())[0]).replies) == 2


def test_what_cannot_be_answered_is_said_and_the_process_stays(
    language_engine: Engine, answers: dict[str, Any]
) -> None:
    talked(language_engine, chat_form.build_job(answers, ())[0])
    before = language_engine.pid
    with pytest.raises(EngineError, match="context"):
        talked(language_engine, chat_form.build_job(answers | {"message": "x" * 600}, ())[0])
    job, _ = chat_form.build_job(answers, ())
    assert job.adapter is not None
    config = job.adapter / "adapter_config.json"
    config.write_text(config.read_text().replace("q_proj", "no_such_layer").replace("down_proj", "nor_this"))
    (job.adapter / "adapter_model.safetensors").touch()
    with pytest.raises(EngineError, match="base"):
        talked(language_engine, job)
    assert language_engine.pid == before


def test_what_is_said_is_text_and_never_markup(answers: dict[str, Any]) -> None:
    job, names = chat_form.build_job(answers | {"message": HOSTILE}, ())
    turn = chat_form.saying(chat_form.begun(HOSTILE, job, names), (HOSTILE, None))
    shown = chat_form.conversation_html((turn, chat_form.stopped(turn)))
    assert HOSTILE not in shown
    assert shown.count("&lt;script&gt;") == 4
    assert "answering" in shown
    assert "stopped" in shown
