"""Settings from strangers: whatever a YAML file holds, it is read or refused in words, and costs little."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lowrank_diffusion import plain_yaml, presets
from lowrank_diffusion.config import Config, ConfigError

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Aliases of aliases: some hundred bytes that mean gigabytes."""


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        presets.from_yaml(text, "x.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "anchors and aliases"),
        ("adapter: &a {rank: 8}\n", "anchors and aliases"),
        ("adapter: *a\n", "anchors and aliases"),
        ("data: {prompt: *}\n", "is not valid YAML"),
        ("seed: !!int x\n", "tags (!) are not read"),
        ("seed: !!timestamp x\n", "tags (!) are not read"),
        ("seed: !!float 5\n", "tags (!) are not read"),
        ("data: !!python/object/apply:os.system ['true']\n", "tags (!) are not read"),
        ("data: !local {prompt: x}\n", "tags (!) are not read"),
        ("!!map {seed: 1}\n", "tags (!) are not read"),
        ("!!binary a: 1\n", "tags (!) are not read"),
        ("seed: " + "9" * 5000 + "\n", "a number of 5,000 digits"),
        ("seed: -" + "1" * 100 + "\n", "a number of 101 digits"),
        ("data: " + "[" * 5000, "more than 10 lists and mappings"),
        ("data: " + "{a: " * 5000, "more than 10 lists and mappings"),
        ("- " * 3000, "more than 10 lists and mappings"),
        ("a: [" + "1," * 20_000 + "]", "more than 10,000 values"),
        ("a: " + "x" * 1_100_000, "at most 1,000,000 are read"),
        ("[a, b]: c", "a key must be a word"),
        ("{a: b}: c", "a key must be a word"),
        ("adapter: {rank: 4, k: 2, rank: 8}", "key 'rank' stands twice"),
        ("1: a\n1: b", "key '1' stands twice"),
        ("'a': 1\n\"a\": 2", "key 'a' stands twice"),
        ("data: {prompt: \x00}", "is not valid YAML"),
        ("data: {prompt: \x1b[2J}", "is not valid YAML"),
        ('data: {prompt: "\\0"}', "must not hold a zero byte"),
        ("a: 1\n---\nb: 2", "is not valid YAML"),
        ("adapter: {targets: '" + "(" * 5000 + ")" * 5000 + "'}", "is not a regular expression"),
        ("adapter: {targets: 'a{99999999999999999999}'}", "is not a regular expression"),
        ("sample: {prompts: [" + "x, " * 5000 + "]}", "at most 100,000 in 5,000"),
        ("data: {prompt: " + "x" * 200_000 + "}", "at most 100,000 in 5,000"),
        ("data: {word: " + "x" * 500_000 + ", prompt: '" + "{word}" * 50_000 + "'}", "at most 200 characters"),
    ],
)
def test_what_no_settings_need_is_refused_in_a_few_words(text: str, says: str):
    message = refused(text)
    assert says in message and len(message) < 2000


@pytest.mark.parametrize(
    "text",
    ["seed: .inf", "seed: .nan", "seed: 1e999", "about: {a: b}", "train: {steps: " + "9" * 39 + "}", "<<: {seed: 1}",
     '"\\uD800": 1', 'data: {prompt: "\\uD800"}', "? a", "a: >\n" * 50, "%YAML 9.9\n---\na: 1", "seed: 1.0.0",
     "seed: ١٢x", "null: 1", "=: 1", "train:\n  ? steps\n  : [1]"],
)  # fmt: skip
def test_odd_values_are_problems_of_their_own_setting(text: str):
    assert len(refused(text)) < 1000


def test_values_are_shortened_where_an_error_repeats_them():
    for text in (
        "data: " + "x" * 900_000,
        "adapter: {rank: " + "x" * 900_000 + "}",
        "adapter: {rank: [" + "x, " * 5000 + "]}",
        "data: {background: " + "x" * 90_000 + "}",
        "x" * 900_000 + ": 1",
        "task: text\ndata: {prompt: " + "x" * 90_000 + "}",
    ):
        assert len(refused(text)) < 1500
    for pair in ("x" * 100_000, "x" * 100_000 + "=1", "train.steps=" + "9" * 5000, "train.steps=[" + "x" * 10**6 + "]"):
        with pytest.raises(ConfigError) as caught:
            presets.build({}, presets.parse_overrides([pair]))
        assert len(str(caught.value)) < 1500


def test_the_first_of_many_problems_are_listed_and_the_rest_are_counted():
    lines = refused("".join(f"key{number}: 1\n" for number in range(4000))).splitlines()
    assert len(lines) == 21 and lines[-1] == "... and 3,980 more problems of this kind."
    assert lines[0].startswith("key0: there is no such setting.")


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path):
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "gone.yaml", Path("/dev/zero"), tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError):
            presets.read_preset(path)
    for name in ("x" * 5000, "a\0b", str(pipe), str(tmp_path)):
        with pytest.raises(ConfigError, match="there is no file or preset"):
            presets.find_preset(name)


def test_quoted_texts_may_hold_what_would_mean_something_else():
    config = presets.from_yaml("data: {prompt: '*a !!int &b', trigger: \"!x\"}", "x")
    assert (config.data.prompt, config.data.trigger) == ("*a !!int &b", "!x")
    written = presets.to_yaml(presets.build({"sample": {"prompts": ["!!int", "&a", "*a", "<<", "x"] * 2}}))
    assert presets.from_yaml(written, "x").sample.prompts == ("!!int", "&a", "*a", "<<", "x") * 2
    assert plain_yaml.parse(plain_yaml.one_line(["a", "*b", "é"]), "x") == ["a", "*b", "é"]


def test_the_largest_settings_that_are_kept_are_read_back():
    for text in ("\x85", "\U000e0001", "\t\n", "🦊"):
        prompts = (text * (presets.MOST_TEXT // len(text) - 200),)
        config = presets.build({"sample": {"prompts": list(prompts)}})
        assert presets.from_yaml(presets.to_yaml(config), "x") == config
    assert presets.from_yaml(presets.to_yaml(Config()), "x") == Config()


def test_a_preset_that_names_its_word_twice_is_compared_with_a_caption():
    template = {"data.instance": "a", "data.prompt": "{word} as {word} {subject}"}
    for prompt in ("sks as sks dog", "sks as zwx dog", "x" * 100_000):
        presets.build({}, {}) and presets.blanks.merged(template, {"data.instance": "b", "data.prompt": prompt})
    found = presets.blanks.merged(template, {"data.instance": "b", "data.prompt": "sks as sks dog"})
    assert (found["data.word"], found["data.subject"]) == ("sks", "dog")
