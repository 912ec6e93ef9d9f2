"""What is told of a run before it starts, presets of one's own, and base models that are on the machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import blanks, forecast, model_library, own_presets, presets, runs
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.paths import EMBEDDED_BASE, PRESETS
from lowrank_diffusion.purposes import PURPOSES
from lowrank_diffusion.runs import Run, Status

GIB = 2**30


def build(**settings: Any) -> Config:
    return presets.build(overrides={key.replace("__", "."): value for key, value in settings.items()})


# the forecast


def test_passes_and_time_of_the_newest_run_like_it():
    cfg = build(train__steps=60, train__batch=2, train__accumulate=2, train__device="cpu")
    old, new = runs.create(cfg, "old"), runs.create(build(train__batch=8), "other")
    seconds = {old.name: 0.5, new.name: 9.0}
    coming = forecast.of(cfg, 12, [new, old], lambda run: Status(seconds_per_step=seconds[run.name]))
    assert (coming.batch, coming.step_seconds, coming.like, coming.memory) == (4, 0.5, "old", None)
    assert coming.words() == "60 steps of 4 = 20 passes over the pictures · about 30 s of steps, as in old"


def test_what_is_not_known_is_said():
    coming = forecast.of(build(train__device="cpu"), 0, [])
    assert coming.words() == "500 steps of 1 · time: not known before a run like it was made here"


def test_a_run_that_cannot_be_read_or_has_no_speed_is_passed_over():
    cfg = build(train__device="cpu")
    broken, silent, good = (runs.create(cfg, name) for name in ("broken", "silent", "good"))
    (broken.path / "config.yaml").write_text("adapter: [", encoding="utf-8")

    def status(run: Run) -> Status:
        return Status(seconds_per_step=2.0 if run.title == "good" else 0.0)

    assert forecast.of(cfg, 1, [broken, silent, good], status).like == "good"


@pytest.mark.parametrize("key", ["adapter.rank", "train.batch", "train.execution", "base.quantize", "flat.sigma"])
def test_another_setting_that_costs_time_is_another_run(key: str):
    values = {
        "adapter.rank": 4,
        "train.batch": 3,
        "train.execution": "eager",
        "base.quantize": "8bit",
        "flat.sigma": 0.1,
    }
    other = runs.create(presets.build(overrides={key: values[key]}), "other")
    assert forecast.of(Config(), 1, [other], lambda run: Status(seconds_per_step=1.0)).step_seconds is None


def test_memory_of_a_gpu_beside_what_it_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forecast, "_gpus", lambda: (8 * GIB, 24 * GIB, 80 * GIB))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert forecast.gpu_memory(1) == 24 * GIB and forecast.gpu_memory(7) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert forecast.gpu_memory(0) == 80 * GIB and forecast.gpu_memory(1) == 8 * GIB
    coming = forecast.of(build(train__device="cuda"), 10, [])
    assert coming.memory and 0 < coming.memory < GIB
    assert f"{coming.memory / GIB:.1f} of 80 GiB of GPU memory" in coming.words()


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times(seconds: float, words: str):
    assert forecast.span(seconds) == words


# own presets, and settings to copy


HARD = {
    "data.prompt": "a 'photo' of \"it\": {x} # no", "sample.prompts": ("a, b", "[c]", "x: y", "2"),
    "data.trigger": " padded ", "adapter.targets": ("to_q", "to_k"), "optimizer.lr": 1e-5, "data.flip": True,
    "base.variant": "fp16", "train.memory": 7.5, "optimizer.text_encoder_lr": None, "sample.negative": "two\nlines",
    "adapter.text_encoders": "attention",
}  # fmt: skip


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_the_command_line_means_the_same(preset: str):
    chosen = presets.find_preset(preset)
    own = (
        {"data.instance": "/somewhere/else", "data.subject": "robot", "data.word": "sks"}
        if chosen.task == "image"
        else {}
    )
    hard = HARD if chosen.task == "image" else {"sample.prompts": HARD["sample.prompts"], "optimizer.lr": 1e-5}
    cfg = presets.build(chosen.values, hard | own)
    words = shlex.split(own_presets.command(cfg, chosen, "my run"))
    assert words[:5] == ["python", "-m", "lowrank_diffusion", "train", preset] and words[-2:] == ["--name", "my run"]
    assert presets.build(chosen.values, presets.parse_overrides(words[5:-2])) == cfg


def test_only_what_is_different_is_on_it():
    chosen = presets.find_preset("smoke")
    assert own_presets.command(presets.build(chosen.values, {"train.steps": 7}), chosen).endswith(
        "train smoke train.steps=7"
    )


def test_a_preset_of_ones_own_is_kept_chosen_and_deleted(home: Path):
    cfg = presets.build(
        presets.find_preset("emoji-style").values, HARD | {"adapter.start": "", "data.instance": "/my/cats"}
    )
    path = own_presets.save("mine", cfg, "for tests")
    assert (
        path.is_relative_to(home) and presets.named("mine") == presets.find_preset("mine") == presets.own_presets()[0]
    )
    kept = presets.find_preset("mine")
    assert kept.about == "for tests" and kept.task == "image"
    assert presets.build(kept.values, {"data.instance": "/my/cats"}).dotted() | {"data.word": ""} == cfg.dotted() | {
        "data.word": ""
    }
    own_presets.delete("mine")
    assert presets.named("mine") is None and presets.own_presets() == []


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b", "x" * 61, "smoke", "ä"])
def test_names_that_a_preset_cannot_have(name: str):
    with pytest.raises(ConfigError, match="Preset name"):
        own_presets.save(name, Config())
    with pytest.raises(ConfigError, match="not one of your own"):
        own_presets.delete(name)


@pytest.mark.parametrize("name", ["../presets/smoke", "smoke.yaml", "", None, 5, "x" * 200, "a\0b"])
def test_a_page_names_presets_and_no_files(name: Any):
    assert presets.named(name) is None


def test_one_that_cannot_be_read_is_left_out(home: Path):
    own_presets.save("good", Config())
    (home / "my-presets" / "bad.yaml").write_text("about: [", encoding="utf-8")
    assert [preset.name for preset in presets.own_presets()] == ["good"] and presets.named("bad") is None


# purposes


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_purpose_has_presets_and_builds_over_each_of_them(purpose: str):
    made = [preset for preset in presets.all_presets() if purpose in preset.purposes]
    assert made
    for preset in made:
        answers = {"data.subject": "robot", "data.word": "sks", "data.instance": "/my/pictures"}
        cfg = presets.build(preset.values, PURPOSES[purpose].settings | answers)
        assert (
            blanks.problems(cfg) == []
            and "sks" in cfg.data.trigger
            and all("sks" in text for text in cfg.sample.prompts)
        )


def test_a_preset_for_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("purposes: [portrait]", encoding="utf-8")
    with pytest.raises(ConfigError, match="purposes: must be a list of subject, face, style, concept"):
        presets.read_preset(path)


# base models


def test_models_of_a_folder_say_what_is_wrong_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path):
    (tmp_path / "copy").symlink_to(EMBEDDED_BASE)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    (tmp_path / "notes.txt").write_text("x")
    (home / "models" / "half").mkdir(parents=True)
    (home / "models" / "half" / "model_index.json").write_text("{}")
    monkeypatch.setenv(model_library.MODELS, f"{tmp_path}:{tmp_path / 'gone'}")
    there = {model.title: model for model in model_library.models("image")}
    assert there["embedded"].obstacle == "" and there["copy"].obstacle == ""
    assert "half" in there["half"].obstacle and there["half"].place == "models"
    assert there["broken.safetensors"].obstacle and "notes.txt" not in there
    assert [model.title for model in model_library.models("text")] == ["embedded"]
