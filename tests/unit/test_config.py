"""Every parameter is declared once, with a meaning, bounds that hold, and rules between fields that say the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lowrank_diffusion import adapters, presets
from lowrank_diffusion.adapters import layers
from lowrank_diffusion.config import AdapterConfig, Config, ConfigError, Problem, fields, sections

FIELDS = fields()


def refused(**overrides: Any) -> list[Problem]:
    """The problems of settings; keyword names have '__' for '.'."""
    with pytest.raises(ConfigError) as caught:
        presets.build({}, {key.replace("__", "."): value for key, value in overrides.items()})
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return caught.value.problems


def limits(key: str) -> dict[str, float]:
    """The bounds of a field: {"ge": 1, "lt": 5...}."""
    found: dict[str, float] = {}
    for rule in FIELDS[key].metadata:
        found |= {name: getattr(rule, name) for name in ("ge", "gt", "le", "lt", "multiple_of") if hasattr(rule, name)}
    return found


BOUNDED = [(key, name, bound) for key in FIELDS for name, bound in limits(key).items()]


def test_every_parameter_says_what_it_means():
    assert len(FIELDS) > 50
    for key, field in FIELDS.items():
        assert field.description and len(field.description.split()) > 1 and field.description.endswith("."), key
        extra = field.json_schema_extra
        assert isinstance(extra, dict) and "unit" in extra, key
        assert not key.rpartition(".")[2].startswith(("use_", "enable_")), key


def test_keys_follow_the_declaration_and_match_the_values():
    assert list(FIELDS)[:2] == ["task", "seed"]
    assert Config().dotted().keys() == FIELDS.keys()
    assert {key.partition(".")[0] for key in FIELDS if "." in key} == set(sections())
    assert Config().dotted()["adapter.rank"] == 16 and Config().dotted()["seed"] == 0


def test_a_task_has_its_own_parameters_and_the_shared_ones():
    image, text = fields("image").keys(), fields("text").keys()
    assert image | text == FIELDS.keys()
    assert {"data.instance", "train.steps", "adapter.targets", "sample.prompts", "validation.holdout"} <= image & text
    assert {key.partition(".")[0] for key in image - text} == {
        "base", "data", "prior", "adapter", "optimizer", "loss", "sample",
    }  # fmt: skip
    assert {key.partition(".")[0] for key in text - image} == {"text", "sample"}


def test_a_run_from_before_there_were_language_models_is_one_of_pictures():
    assert presets.from_yaml("task: dreambooth", "x") == Config()


def test_a_config_cannot_be_changed():
    config = Config()
    for section, name, value in (
        (config, "seed", 1),
        (config.adapter, "rank", 8),
        (config, "adapter", AdapterConfig()),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, value)
    assert config == Config()


@pytest.mark.parametrize(("key", "name", "bound"), BOUNDED, ids=lambda value: str(value))
def test_bounds_hold_and_the_message_names_key_rule_and_value(key: str, name: str, bound: float):
    outside = {"ge": bound - 8, "gt": bound, "le": bound + 8, "lt": bound, "multiple_of": bound + 64 + 1}[name]
    problems = refused(**{key: outside})
    assert [problem.key for problem in problems] == [key]
    assert str(problems[0]).endswith(f"got {outside!r}.") and f" {bound}" in problems[0].rule


@pytest.mark.parametrize(("key", "name", "bound"), [item for item in BOUNDED if item[1] in ("ge", "le")], ids=str)
def test_the_bounds_themselves_are_allowed(key: str, name: str, bound: float):
    section, _, field = key.rpartition(".")
    kind = sections()[section] if section else Config
    assert getattr(kind(**{field: bound}), field) == bound


def test_numbers_are_finite_and_true_is_not_one():
    assert "finite" in refused(train__clip=float("inf"))[0].rule
    assert "finite" in refused(optimizer__lr=float("nan"))[0].rule
    assert str(refused(train__steps=True)[0]) == "train.steps: must not be true or false, got True."
    assert "true or false" in refused(adapter__alpha=False)[0].rule
    assert "true or false" in refused(data__prompt=True)[0].rule


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"adapter__rank": 12, "adapter__k": 5}, "adapter.k", "adapter.rank=12, got 5. Allowed: [1, 2, 3, 4, 6, 12]."),
        ({"adapter__rank": 7}, "adapter.k", "Allowed: [1, 7]."),
        (
            {"adapter__kind": "lora", "adapter__hybrid_rank": 4},
            "adapter.hybrid_rank",
            "belongs to GraLoRA, got 4. Set it to 0, or",
        ),
        ({"adapter__targets": "to_(q"}, "adapter.targets", "is not a regular expression"),
        ({"adapter__targets": ()}, "adapter.targets", "at least one layer"),
        ({"adapter__targets": ""}, "adapter.targets", "at least one layer"),
        ({"prior__weight": 1}, "prior.prompt", "is needed with prior.weight > 0"),
        ({"data__crops": 4}, "data.crops", "must be 1 with data.crop=center, got 4. Set data.crop=random."),
        ({"data__background": "white"}, "data.background", "must look like #ffffff, got 'white'"),
        ({"data__background": "#ffff"}, "data.background", "must look like #ffffff"),
        ({"task": "text", "prior__count": 7}, "prior.count", "means nothing with task=text, got 7. Leave it out."),
        ({"text__length": 64}, "text.length", "means nothing with task=image, got 64"),
        ({"task": "text", "text__answers": 3}, "text.answers", "needs held-out rows"),
        (
            {"task": "text", "text__held_out": "x.jsonl", "validation__holdout": 3},
            "validation.holdout",
            "must be 0 with text.held_out",
        ),
        ({"train__steps": 10, "optimizer__warmup": 11}, "optimizer.warmup", "at most train.steps=10, got 11"),
    ],
)
def test_rules_between_fields(settings: dict[str, Any], key: str, says: str):
    (problem,) = refused(**settings)
    assert problem.key == key and says in str(problem)


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter__kind": "lora", "adapter__rank": 7},  # GraLoRA's k, at its default, means nothing to LoRA
        {"adapter__rank": 12, "adapter__k": 4, "adapter__hybrid_rank": 5},
        {"adapter__targets": r".*attn\d+\.to_(q|v)"},
        {"adapter__targets": ["to_q", "to_out.0"]},
        {"prior__weight": 1, "prior__prompt": "a photo of a dog"},
        {"data__crops": 4, "data__crop": "random"},
        {"train__steps": 10, "optimizer__warmup": 10},
    ],
)
def test_what_the_rules_allow(settings: dict[str, Any]):
    wanted = {key.replace("__", "."): value for key, value in settings.items()}
    built = presets.build({}, wanted).dotted()
    assert {key: built[key] for key in wanted} == wanted


def test_scaling_is_alpha_over_the_total_rank():
    assert AdapterConfig(rank=8).scaling == 1
    assert AdapterConfig(rank=8, alpha=4).scaling == 0.5
    assert AdapterConfig(rank=8, hybrid_rank=8, alpha=4).scaling == 0.25
    assert AdapterConfig(kind="lora", rank=8, alpha=16).scaling == 2


ENDLESS = ["(a+)+$", "(a|a)*x", r"(\w+\.)+x", ".*" * 6 + "x", "(a{1,9}){9}", "(.|.)" * 30 + "x", "a?" * 30 + "a" * 30]
SOUND = [
    r".*\.(q_proj|v_proj)",
    r"(?:.*?(?:language|text).*?(?:self_attn|attn|mlp).*?(?:q_proj|k_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.x)",
    r"down_blocks\.\d+\.attentions\.[01]\..*to_[qkv]",
    r"a\)*\(+[)*]+",
    "x(a)?(b)?",
]


@pytest.mark.parametrize("expression", ENDLESS)
def test_an_expression_for_layers_that_could_take_for_ever_is_refused(expression: str):
    with pytest.raises(ConfigError, match=r"adapter\.targets: could take forever"):
        presets.build({}, {"adapter.targets": expression})


@pytest.mark.parametrize("expression", SOUND)
def test_expressions_that_people_write_are_taken(expression: str):
    assert presets.build({}, {"adapter.targets": expression}).adapter.targets == expression


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "alpha_pattern", "rank_pattern"])
@pytest.mark.parametrize("expression", [*ENDLESS, *SOUND])
def test_the_same_of_a_peft_folder_for_a_language_model(expression: str, field: str, tmp_path: Path):
    value = {expression: 1} if "pattern" in field else expression
    if expression in SOUND:
        layers._refuse_endless(tmp_path, {field: value})
        return
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", field: value}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(adapters.AdapterError, match=f"its {field} has the expression .* could take forever"):
        adapters.load(None, tmp_path)
