from __future__ import annotations

import pytest

from lowrank_diffusion import presets
from lowrank_diffusion.config import Config, ConfigError, fields
from ui.form import MAIN, Form, element_id, from_widget, label, problems_html, to_widget
from ui.toolkit import gr

PRESETS = [preset.name for preset in presets.all_presets()]


@pytest.fixture(scope="module")
def forms() -> dict[str, Form]:
    forms = {task: Form(presets.build(overrides={"task": task})) for task in MAIN}
    with gr.Blocks():
        for task, form in forms.items():
            form.place(*MAIN[task])
            form.place_rest()
    return forms


def through_the_page(forms: dict[str, Form], config: Config) -> Config:
    """What Start would build after the form was filled with ``config``, each widget having its own say."""
    form = forms[config.task]
    shown = form.fill(config)
    sent = {widget: widget.preprocess(widget.postprocess(value)) for widget, value in shown.items()}
    return presets.build(overrides=form.values(sent))


def test_every_setting_of_a_task_has_a_widget_and_no_widget_is_left_over(forms: dict[str, Form]) -> None:
    for task, form in forms.items():
        assert {"task", *form.widgets} == set(fields(task))
        assert form.values(form.fill(Config(task=task)))["task"] == task  # type: ignore[arg-type]


def test_ids_and_visible_names_tell_settings_apart(forms: dict[str, Form]) -> None:
    ids = [widget.elem_id for form in forms.values() for widget in form.widgets.values()]
    assert len(set(ids)) == len(ids)
    for task, form in forms.items():
        assert len({label(key) for key in MAIN[task]}) == len(MAIN[task])
        for key, widget in form.widgets.items():
            assert widget.elem_id == element_id(key, task)
            assert widget.label == label(key)
            assert (fields()[key].description or "") in str(widget.info)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_the_page_unchanged(forms: dict[str, Form], name: str) -> None:
    config = presets.build(presets.find_preset(name).values)
    assert through_the_page(forms, config) == config


@pytest.mark.parametrize(
    "overrides",
    [
        {"adapter.targets": ("to_q", "to_k")},
        {"adapter.targets": r".*attn\d+\.to_[qkv]$"},
        {"adapter.targets": ("to_q",)},
        {"sample.prompts": ("a cat, sitting", "[brackets]", "ünïcode")},
        {"data.resolution": 512, "adapter.alpha": 0.5, "optimizer.lr": 1e-7},
        {"base.revision": "main", "data.flip": True, "train.precision": "bf16"},
        {"task": "text", "text.length": 77, "base.quantize": "nf4", "sample.system": "Say  <b>no</b>."},
    ],
)
def test_unusual_values_come_back_unchanged(forms: dict[str, Form], overrides: dict) -> None:
    config = presets.build(overrides=overrides)
    assert through_the_page(forms, config) == config


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("adapter.alpha", "", None),
        ("adapter.alpha", " 8 ", 8),
        ("adapter.alpha", "1e-3", 1e-3),
        ("data.resolution", "", None),
        ("train.steps", 500.0, 500),
        ("base.vae", "  ", None),
        ("sample.prompts", "a\n\n  b \n", ("a", "b")),
        ("sample.prompts", None, ()),
    ],
)
def test_what_a_widget_holds_is_read(key: str, raw: object, value: object) -> None:
    assert from_widget(key, raw) == value


@pytest.mark.parametrize(
    ("key", "raw"),
    [("adapter.rank", 2.5), ("train.steps", None), ("adapter.alpha", "much"), ("train.batch", 0), ("train.batch", -3)],
)
def test_what_does_not_fit_is_refused_and_not_bent(key: str, raw: object) -> None:
    with pytest.raises(ConfigError) as error:
        presets.build(overrides={key: from_widget(key, raw)})
    assert [problem.key for problem in error.value.problems] == [key]


def test_an_empty_optional_number_is_shown_empty_and_not_as_zero(forms: dict[str, Form]) -> None:
    assert to_widget("adapter.alpha", None) == ""
    assert isinstance(forms["text"].widgets["adapter.alpha"], gr.Textbox)


def test_all_problems_are_listed_and_their_fields_marked() -> None:
    with pytest.raises(ConfigError) as error:
        presets.build(overrides={"adapter.rank": 16, "adapter.k": 3, "train.steps": 0})
    text = problems_html(error.value.problems)
    assert "2 things" in text
    for key in ("adapter.k", "train.steps"):
        assert f"<code>{key}</code>" in text
        assert f">{label(key)}</a>" in text
        assert f"#{element_id(key)}" in text


def test_a_problem_shows_hostile_text_as_text() -> None:
    with pytest.raises(ConfigError) as error:
        presets.build(overrides={"data.background": "<img src=x onerror=alert(1)>"})
    text = problems_html(error.value.problems)
    assert "<img" not in text
    assert "&lt;img" in text


@pytest.mark.parametrize("kind", ["lora", "lokr", "gralora"])
def test_another_adapter_kind_traps_nobody(forms: dict[str, Form], kind: str) -> None:
    """What only the kind before had stays in its fields, is left out, and that is said."""
    form = forms["image"]
    data = form.fill(presets.build(overrides={"adapter.k": 4, "adapter.rank": 4, "adapter.hybrid_rank": 2}))
    data |= {form.widgets["adapter.kind"]: kind}
    config = presets.build(overrides=form.values(data))
    assert config.adapter.kind == kind and (config.adapter.k == 4) == (kind == "gralora")
    notes = form.left_out(data)
    assert notes == [
        f"{label(key)} ({key}) is left out: adapter.kind={kind} has no such setting."
        for key in ("adapter.k", "adapter.hybrid_rank")
        if kind != "gralora"
    ]
