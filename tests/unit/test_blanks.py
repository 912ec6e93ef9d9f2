"""What a preset asks: its example is answered by it, other pictures by the person, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import blanks, cli, presets
from lowrank_diffusion.config import Config, fields
from lowrank_diffusion.paths import EXAMPLES

OWN = {"data.instance": "/pictures/robots"}
ASKING = ("emoji-style", "emoji-subject", *(f"sdxl-{name}" for name in (
    "8gb", "12gb", "24gb", "subject-lora", "subject-gralora", "style-flat-gralora")))  # fmt: skip


def built(name: str, given: dict[str, Any] | None = None) -> Config:
    return presets.build(presets.find_preset(name).values, given or {})


def said(config: Config) -> list[str]:
    values = config.dotted()
    return [str(values[key]) for key in blanks.FILLED]


@pytest.mark.parametrize(
    "instance", [None, "assets/examples/subject-cat", str(EXAMPLES / "subject-cat"), str(EXAMPLES / "subject-cat/")]
)
def test_the_example_is_a_cat(instance: str | None) -> None:
    config = built("emoji-subject", {"data.instance": instance} if instance else {})
    assert config.data.prompt == "a photo of sks cat" and config.data.trigger == "sks cat"
    assert config.sample.prompts[0] == "a photo of sks cat wearing a hat"
    assert blanks.problems(config) == []


@pytest.mark.parametrize("name", ASKING)
def test_own_pictures_are_never_what_the_preset_showed(name: str) -> None:
    config = built(name, OWN)
    assert not any(word in text for text in said(config) for word in ("cat", "dog", "sks", "3d icon"))
    asked = {problem.key for problem in blanks.problems(config)}
    assert asked == ({"data.word"} if "style" in name else {"data.word", "data.subject"})


@pytest.mark.parametrize("name", ASKING)
def test_the_answers_fill_every_blank(name: str) -> None:
    config = built(name, OWN | {"data.subject": "robot", "data.word": " zwx "})
    assert blanks.problems(config) == []
    assert all("{" not in text for text in said(config))
    assert any("zwx" in text for text in said(config))


def test_half_an_answer_is_not_enough() -> None:
    for key, other in (("data.subject", "data.word"), ("data.word", "data.subject")):
        config = built("emoji-subject", OWN | {key: "robot"})
        assert [problem.key for problem in blanks.problems(config)] == [other]


@pytest.mark.parametrize("prompt", ["a photo of zwx toy robot", "a photo  of zwx toy robot "])
def test_a_caption_of_the_presets_form_is_an_answer(prompt: str) -> None:
    config = built("sdxl-subject-gralora", OWN | {"data.prompt": prompt})
    assert config.sample.prompts == ("a photo of zwx toy robot on a beach",)
    assert config.prior.prompt == "a photo of a toy robot" and config.data.trigger == "zwx"
    assert config.data.prompt == prompt


def test_another_caption_is_no_answer() -> None:
    config = built("emoji-subject", OWN | {"data.prompt": "zwx"})
    assert {problem.key for problem in blanks.problems(config)} == {"data.subject", "data.word"}


@pytest.mark.parametrize(
    ("subject", "prompt"), [("apple", "a photo of an apple"), ("Unicorn", "a photo of an Unicorn")]
)
def test_the_article_suits_the_subject(subject: str, prompt: str) -> None:
    assert built("sdxl-subject-gralora", OWN | {"data.subject": subject, "data.word": "x"}).prior.prompt == prompt


def test_other_braces_are_text_and_an_answer_is_not_filled_again() -> None:
    given = OWN | {"data.prompt": "a {red|blue} {} {word}", "data.word": "{subject}", "sample.prompts": ["{x} {word}"]}
    config = presets.build(overrides=given)
    assert config.data.prompt == "a {red|blue} {} {subject}"
    assert config.sample.prompts == ("{x} {subject}",)
    assert [problem.key for problem in blanks.problems(config)] == ["data.subject"]


def test_a_written_run_means_the_same_again() -> None:
    config = built("emoji-subject", OWN | {"data.subject": "robot", "data.word": "zwx"})
    assert presets.from_yaml(presets.to_yaml(config), "x") == config


@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}, "\0", "x" * 5000, None])
def test_an_instance_of_another_kind_is_for_the_settings_to_name(value: Any) -> None:
    merged = blanks.merged({"data.instance": "assets/x", "data.word": "sks"}, {"data.instance": value})
    assert "data.word" not in merged


def test_the_command_line_refuses_before_anything_starts(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "emoji-subject", f"data.instance={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "data.subject: is empty" in error and "data.subject=robot" in error and "data.word: is empty" in error
    assert not list((home / "runs").glob("*"))


def test_what_may_have_blanks_and_answers_are_settings() -> None:
    assert {*blanks.FILLED, *blanks.ANSWERS.values()} <= set(fields("image"))
