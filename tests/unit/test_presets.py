"""From YAML files and ``key=value`` to a config: what is read, every problem at once, and the way back to YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from lowrank_diffusion import plain_yaml, presets
from lowrank_diffusion.adapters.kinds import KINDS
from lowrank_diffusion.config import Config, ConfigError, fields
from lowrank_diffusion.paths import PRESETS

from .test_config import limits

TRICKY = [
    "12e4",
    "no",
    "0x1f",
    "1_000",
    "1:30",
    "2024-01-01",
    "null",
    "~",
    "=",
    "<<",
    "a: b # c",
    " x ",
    "{[",
    "é 🦊\n\t'\"",
]
"""Texts that one YAML or another takes for something else."""


def problems(values: dict[str, Any] | None = None, *pairs: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        presets.build(values, presets.parse_overrides(pairs))
    return str(caught.value).splitlines()


def one(*pairs: str) -> Config:
    return presets.build({}, presets.parse_overrides(pairs))


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_builds_and_says_what_it_is_for(path: Path):
    preset = presets.find_preset(path.stem)
    assert preset == presets.read_preset(path) and preset.path == path
    assert preset.about and "\n" not in preset.about
    config = presets.build(preset.values)
    assert presets.from_yaml(presets.to_yaml(config), "x") == config
    assert config != Config()


def test_all_presets_come_by_name():
    names = [preset.name for preset in presets.all_presets()]
    assert names == sorted(path.stem for path in PRESETS.glob("*.yaml")) and {"smoke", "emoji-style"} <= set(names)


def test_a_preset_is_found_by_path_too(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("adapter: {rank: 6}\n")
    preset = presets.find_preset(str(path))
    assert (preset.name, preset.about, presets.build(preset.values).adapter.rank) == ("mine", "", 6)


def test_an_unknown_preset_names_the_ones_there_are():
    with pytest.raises(ConfigError) as caught:
        presets.find_preset("smok")
    assert "no file or preset 'smok'" in str(caught.value)
    assert all(path.stem in str(caught.value) for path in PRESETS.glob("*.yaml"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"adapter:\n  rank: 4\n  rank: 8\n", "key 'rank' stands twice"),
        (b"adapter: {rank: 4}\nadapter: {k: 1}\n", "key 'adapter' stands twice"),
        (b"adapter: [rank\n", "is not valid YAML"),
        (b"? [a]\n: b\n", "is not valid YAML"),
        (b"- adapter\n", "must be a mapping of sections"),
        (b"adapter\n", "must be a mapping of sections"),
        (b"\xff\xfe\n", "is not UTF-8 text"),
        (b"[" * 600, "is not valid YAML"),
        (b"!!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_preset_is_named(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        presets.read_preset(path)
    assert str(path) in str(caught.value) and says in str(caught.value)


def test_a_config_file_that_is_no_mapping_is_named():
    for text in ("- a", "5", "text"):
        with pytest.raises(ConfigError, match=r"config\.yaml: must be a mapping"):
            presets.from_yaml(text, "config.yaml")
    assert presets.from_yaml("", "config.yaml") == Config()


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-04", ".1e-3", "+1e-4"])
def test_a_learning_rate_in_every_spelling(text: str):
    assert presets.from_yaml(f"optimizer: {{lr: {text}}}", "x").optimizer.lr == 1e-4
    assert one(f"optimizer.lr={text}").optimizer.lr == 1e-4


def test_numbers_are_what_they_look_like():
    config = presets.from_yaml("{train: {steps: 010}, seed: +7, adapter: {alpha: 4.}}", "x")
    assert (config.train.steps, config.seed, config.adapter.alpha) == (10, 7, 4.0)
    assert problems({}, "train.steps=1:30") == [
        "train.steps: must be a valid integer, unable to parse string as an integer, got '1:30'."
    ]


def test_texts_stay_texts():
    config = presets.from_yaml("data: {prompt: no, trigger: 2024-13-45}", "x")
    assert (config.data.prompt, config.data.trigger) == ("no", "2024-13-45")
    assert problems({"data": {"trigger": 12}}) == ["data.trigger: must be a text, got 12. Put it in quotes."]


@pytest.mark.parametrize(
    "text", ["a photo of [sks]: dog", "#1 dog", "12e4", "no", "it's", '"a" or "b', "- x", "*", "x=y"]
)
def test_texts_on_the_command_line_are_taken_as_they_stand(text: str):
    assert one(f"data.prompt={text}").data.prompt == text


def test_quotes_around_a_whole_text_come_off():
    assert one('data.prompt="a dog"').data.prompt == "a dog"
    assert one("data.background='#000000'").data.background == one("data.background=#000000").data.background


def test_empty_values():
    config = one("data.prompt=", "adapter.alpha= ", "base.revision=", "sample.prompts=", "data.resolution=")
    assert config == Config()
    assert config.data.prompt == "" and config.adapter.alpha is None and config.sample.prompts == ()
    assert problems({}, "train.steps=") == ["train.steps: must be a valid integer, got None."]


def test_lists():
    assert one("sample.prompts=[a fox, 'b, c']").sample.prompts == ("a fox", "b, c")
    assert presets.from_yaml("sample:\n  prompts:\n  - a\n  - b\n", "x").sample.prompts == ("a", "b")
    assert one("adapter.targets=[to_q, to_out.0]").adapter.targets == ("to_q", "to_out.0")
    assert one(r"adapter.targets=.*\.to_(q|k)").adapter.targets == r".*\.to_(q|k)"
    assert problems({}, "sample.prompts=a fox") == ["sample.prompts: must be a list such as [a, b], got 'a fox'."]
    assert problems({}, "sample.prompts=[1, 2]") == ["sample.prompts: must be a text, got 1. Put it in quotes."]
    assert problems({}, "adapter.targets=5") == ["adapter.targets: must be a text, got 5. Put it in quotes."]


def test_overrides_win_over_the_preset_and_the_preset_over_defaults():
    config = presets.build({"adapter": {"rank": 4, "k": 1}, "seed": 5}, {"adapter.rank": 8})
    assert (config.adapter.rank, config.adapter.k, config.seed, config.train.batch) == (8, 1, 5, 1)
    assert presets.build({"adapter": None}) == Config()


@pytest.mark.parametrize(
    ("key", "means"),
    [
        ("rnak", "adapter.rank"),
        ("rank", "adapter.rank"),
        ("adapter.rnak", "adapter.rank"),
        ("adaptor.rank", "adapter.rank"),
        ("optimizer.rank", "adapter.rank"),
        ("data.promt", "data.prompt"),
        ("trian.steps", "train.steps"),
        ("train.lr", "optimizer.lr"),
        ("steps", "prior.steps or train.steps or sample.steps"),
    ],
)
def test_did_you_mean(key: str, means: str):
    assert problems({}, f"{key}=8") == [f"{key}: there is no such setting. Did you mean {means}?"]


def test_names_that_are_like_nothing_or_a_group():
    assert problems({}, "xyzzy=1") == ["xyzzy: there is no such setting. The command `settings` lists all of them."]
    assert problems({}, "flat=1") == ["flat: is a group of settings. Set one of them: flat.sigma, flat.keep."]
    assert problems({"adapter": 16}) == ["adapter: must be a mapping of settings, got 16."]
    assert problems({"adaptor": {"rank": 1}}) == ["adaptor: there is no such setting. Did you mean adapter?"]
    assert problems({"adapter": {"rank": 1}, "adapter.rank": 2}) == ["adapter.rank: is given twice. Keep one of them."]


def test_every_problem_at_once():
    found = problems(
        {"adapter": {"rnak": 4, "dropout": 1}, "train": {"steps": 0, "batch": "two"}},
        "optimizer.name=sgd", "data.crops=3", "prior.weight=1", "sample.prompts=x",
    )  # fmt: skip
    assert [line.partition(":")[0] for line in found] == [
        "adapter.rnak", "data.crops", "prior.prompt", "adapter.dropout", "optimizer.name", "train.steps",
        "train.batch", "sample.prompts",
    ]  # fmt: skip
    assert "optimizer.name: must be 'adamw', 'adamw8bit', 'prodigy' or 'adafactor', got 'sgd'." in found
    with pytest.raises(ConfigError) as caught:
        presets.parse_overrides(["x", "sample.prompts=[a", "train.steps=5"])
    assert [problem.key for problem in caught.value.problems] == ["x", "sample.prompts"]
    assert "is not key=value. Write for example adapter.rank=8." in str(caught.value)


def changed(key: str, text: str) -> Any:
    """A valid value of a field that is not its default."""
    field, rules = fields()[key], limits(key)
    kind, default = field.annotation, field.default
    choices = [value for value in get_args(kind) if value != default]
    special = {
        "data.background": "#12ab00", "data.bucket_step": 16, "data.max_aspect": 7 / 3,
        "adapter.targets": ("to_q", text),
    }  # fmt: skip
    if key in special:
        return special[key]
    if kind in (bool, tuple[str, ...]):
        return (text, "b", text) if kind is not bool else not default
    if kind is str or str in choices:
        return text
    if isinstance(default, float) or float in choices:
        return default / 3 if default else 3e-05
    if isinstance(default, int) or int in choices:
        return default + 1 if default is not None else rules["ge"]
    return choices[0] if choices else default


@pytest.mark.parametrize("task", ["image", "text"])
@pytest.mark.parametrize("text", TRICKY)
def test_to_yaml_and_back_with_every_field_changed(text: str, task: str):
    values = {key: changed(key, text) for key in fields(task)} | {"task": task}
    if task == "text":
        values["validation.holdout"] = 0  # text.held_out is the other way
    for kind in KINDS.values():
        others = [f"adapter.{field}" for other in KINDS.values() if other is not kind for field in other.fields]
        alone = {"adapter.rank": 18, "adapter.k": 3} if "k" in kind.fields else {}
        if kind.name == "lokr":
            others.append("adapter.dropout")
        of_others = {key: Config().dotted()[key] for key in others}
        config = presets.build({}, values | of_others | alone | {"adapter.kind": kind.name})
        written = presets.to_yaml(config)
        assert presets.from_yaml(written, "x") == config
        assert presets.build({}, config.dotted()) == config
        same = {key for key in fields(task) if config.dotted()[key] == Config().dotted()[key]}
        kept = {"task"} if task == "image" else {"validation.holdout"}
        default = {"adapter.kind"} if config.adapter.kind == Config().adapter.kind else set()
        assert same == kept | set(others) | default


def test_yaml_holds_every_value_so_that_new_defaults_change_nothing():
    written = plain_yaml.parse(presets.to_yaml(Config()), "x")
    inside = {f"{name}.{key}" for name, group in written.items() if isinstance(group, dict) for key in group}
    assert inside | {"task", "seed"} == set(fields())


def test_settings_are_read_by_the_names_that_they_had(tmp_path: Path):
    old = {"train": {"step": "eager"}}
    assert presets.build(old).train.execution == "eager"
    assert presets.from_yaml("train: {step: eager}", "x").train.execution == "eager"
    given = presets.parse_overrides(["train.step=eager"])
    assert presets.build({}, given).train.execution == "eager"
    assert presets.build(old, {"train.execution": "compiled"}).train.execution == "compiled"
    assert presets.build({"train": {"execution": "compiled"}}, given).train.execution == "eager"
    for values, overrides in ((old, {}), ({}, given)):
        assert presets.notes(values, overrides) == ["train.step is now called train.execution."]
    assert presets.notes({"train": {"execution": "eager"}}, {"train.steps": 3}) == []
    file = tmp_path / "old.yaml"
    file.write_text("about: of old\ntrain: {step: eager}\n")
    assert presets.build(presets.find_preset(str(file)).values).train.execution == "eager"


@pytest.mark.parametrize("where", ["file", "command"])
def test_a_setting_by_both_of_its_names_is_refused(where: str):
    twice = {"train.step": "eager", "train.execution": "auto"}
    with pytest.raises(ConfigError) as caught:
        presets.build(twice, {}) if where == "file" else presets.build({}, twice)
    assert str(caught.value) == "train.step: is now called train.execution, which is given too. Keep that one."


def test_what_another_adapter_kind_has_is_left_out_of_what_was_written_earlier():
    """It had no effect then; now whoever gives it is told."""
    with pytest.raises(ConfigError, match=r"adapter\.k: belongs to GraLoRA"):
        presets.build({"adapter": {"kind": "lora", "k": 4}})
    read = presets.from_yaml("adapter: {kind: lora, rank: 4, k: 4, hybrid_rank: 2}", "config.yaml").adapter
    assert (read.kind, read.rank, read.k, read.hybrid_rank) == ("lora", 4, 2, 0)
    assert presets.from_yaml("adapter: {kind: gralora, rank: 4, k: 4}", "config.yaml").adapter.k == 4
    with pytest.raises(ConfigError, match=r"adapter\.kind"):
        presets.from_yaml("adapter: {kind: lora2, k: 4}", "config.yaml")
