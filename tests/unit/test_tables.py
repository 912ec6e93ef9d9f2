"""Tables that belong to settings: every value has a row, every row a value, and what follows from a field follows."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace
from typing import Any

import pytest

from lowrank_diffusion import cli_draw, cli_text, devices, plan, presets
from lowrank_diffusion.config import DataConfig, choices, fields
from lowrank_diffusion.declare import fact
from lowrank_diffusion.image import cache, model, prior
from lowrank_diffusion.image.crops import Crop
from lowrank_diffusion.image.data import content_key
from lowrank_diffusion.optimizers import OPTIMIZERS
from lowrank_diffusion.paths import EXAMPLES, PROJECT
from lowrank_diffusion.sections import PriorConfig
from trainers import optim
from ui import row_panel


def test_every_optimiser_has_a_row_and_every_row_a_value():
    assert tuple(OPTIMIZERS) == choices("optimizer.name") == tuple(optim.MAKERS)
    assert all(name == row.name and row.state_bytes > 0 for name, row in OPTIMIZERS.items())
    listed = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    for row in OPTIMIZERS.values():
        assert not row.package or re.search(rf"^{row.package}\W", listed, re.MULTILINE), row


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_row_says_is_obeyed(name: str, monkeypatch: pytest.MonkeyPatch):
    cfg, row = presets.build({}, {"optimizer.name": name}), OPTIMIZERS[name]
    why = plan.of(cfg, plan.Machine("cuda", "bf16")).why_not_faster
    assert why == ("" if row.captured else f"optimizer.name={name} cannot be captured, adamw can")
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    needs = [str(problem) for problem in devices.problems(cfg)]
    words = f"optimizer.name: {name} needs the package {row.package}. Install it, or take adamw."
    assert needs == ([words] if row.package else [])


def test_devices_and_precisions_are_those_of_the_settings():
    assert cli_text.DEVICES == choices("train.device") == ("auto", "cuda", "mps", "cpu")
    assert cli_text.PRECISIONS == choices("train.precision") == ("auto", "fp32", "bf16", "fp16")
    assert (cli_draw.DEVICES, cli_draw.PRECISIONS) == (cli_text.DEVICES, cli_text.PRECISIONS)


def test_only_names_a_task():
    for key, field in fields().items():
        assert fact(field, "only") in (None, "", *choices("task")), key
    text = fields("text").keys()
    assert {"data.instance", "sample.system", "text.length", "optimizer.lr"} <= text
    pictures = ("data.prompt", "data.buckets", "base.vae", "adapter.text_encoders", "prior.weight", "sample.steps")
    assert not text & {*pictures, "optimizer.text_encoder_lr", "loss.min_snr", "base.variant", "base.prediction"}
    assert fields().keys() - text == {key for key in fields("image") if key not in text}


def test_rows_are_looked_at_again_for_what_changes_their_tokens():
    assert row_panel.TOKEN_SETTINGS == (
        "base.path", "base.revision", "text.length", "text.packing", "text.loss_on", "text.template", "text.overlong",
    )  # fmt: skip


CROP = Crop(min((EXAMPLES / "subject-cat").glob("*.png")), "a cat", (64, 64), 256, 192, 3, 5)


def test_latents_keep_the_keys_that_they_had():
    """Written out: with another key every cache there is would be made again."""
    key = cache.key("base", content_key(CROP.path), (85, 64), 3, 5, (64, 64), False, "#ffffff")
    assert model.latent_key("base", CROP, DataConfig()) == key


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_class_pictures_keep_the_keys_that_they_had(quantize: str):
    base: Any = SimpleNamespace(key="base", quantize=quantize, source=SimpleNamespace(prediction="epsilon"))
    stored = [] if quantize == "none" else [quantize]
    key = cache.key("base", "epsilon", "a dog", 4.5, 30, 1024, *stored)
    assert prior.class_key(base, PriorConfig(prompt="a dog", guidance=4.5, steps=30), 1024) == key


PIXELS = {key: field for key, field in fields().items() if fact(field, "pixels")}
OTHER: dict[str, Any] = {"data.background": "#000000", "prior.prompt": "a cat", "prior.guidance": 1.0, "prior.steps": 9}


def test_settings_of_pixels_have_another_value_here():
    assert PIXELS.keys() == OTHER.keys()


@pytest.mark.parametrize("key", PIXELS)
def test_settings_of_pixels_are_in_a_key(key: str):
    base: Any = SimpleNamespace(key="base", quantize="none", source=SimpleNamespace(prediction="epsilon"))
    before, after = presets.build({}), presets.build({}, {key: OTHER[key]})
    keys = [(model.latent_key("base", CROP, cfg.data), prior.class_key(base, cfg.prior, 64)) for cfg in (before, after)]
    changed = [one != other for one, other in zip(*keys, strict=True)]
    assert changed == [key.startswith("data."), key.startswith("prior.")]


def test_a_setting_that_changes_a_crops_pixels_is_one_of_pixels():
    """Whatever else a crop's pixels depend on is in the crop, and so in the key."""
    taken = set(Crop.pixels.__code__.co_varnames[1 : Crop.pixels.__code__.co_argcount])
    assert taken == {key.partition(".")[2] for key in PIXELS if key.startswith("data.")}
