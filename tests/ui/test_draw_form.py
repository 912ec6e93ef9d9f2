from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from safetensors.numpy import save_file

from lowrank_diffusion import presets, runs
from lowrank_diffusion.errors import UserError
from ui import draw_form
from ui.request_form import suit

Upload = Callable[..., Path]


@pytest.fixture
def answers() -> dict[str, Any]:
    none: list[tuple[str, float]] = [("", 1.0)] * 3
    return {
        "prompt": " a cat ", "negative": "", "base": "embedded", "count": 2, "steps": 20, "guidance": 5, "width": "",
        "height": "", "seed": 7, "compare": True, "adapters": none, "sampler": draw_form.OWN_SAMPLER, "start": "",
        "mask": "", "change": 0.75,
    }  # fmt: skip


def adapter(path: Path) -> Path:
    pair = {f"unet.x.lora_{side}.weight": np.zeros((2, 2), "f4") for side in "AB"}
    save_file(pair, path, {"modelspec.trigger_phrase": "sks"})
    return path


def test_the_fields_become_a_request(answers: dict[str, Any], uploads: Path) -> None:
    path = adapter(uploads / "mine.safetensors")
    chosen = answers | {"adapters": [(f"file:{path}", 0.5), ("", 1.0), ("", 1.0)], "width": "96", "height": 64.0}
    request = draw_form.build_request(chosen)
    assert (request.prompt, request.seed, request.count, request.width, request.height) == ("a cat", 7, 2, 96, 64)
    assert [(item.path, item.strength) for item in request.adapters] == [(str(path), 0.5)]
    assert request.compare


def test_nothing_to_compare_without_an_adapter(answers: dict[str, Any]) -> None:
    assert not draw_form.build_request(answers).compare


def test_every_bad_field_is_named(answers: dict[str, Any]) -> None:
    bad = {"count": 0, "steps": 2.5, "seed": None, "width": "100", "guidance": 99, "base": "/no/model"}
    bad["adapters"] = [("", 1), ("file:/etc/passwd", 1), ("run:../..", 1)]
    with pytest.raises(draw_form.RequestError) as error:
        draw_form.build_request(answers | bad)
    found = {problem.key: str(problem) for problem in error.value.problems}
    assert set(found) == {"Pictures", "Steps", "Seed", "Width", "Guidance", "Base model", "Adapter 2", "Adapter 3"}
    assert "96" in found["Width"]


def written(folder: Path) -> None:
    for end in runs.FORMS["image"][:2]:
        adapter(folder / f"cats{end}")
    (folder / "cats-peft").mkdir()


def test_a_run_is_offered_once_it_has_an_adapter_and_its_newest_is_taken(answers: dict[str, Any], home: Path) -> None:
    run = runs.create(presets.build(), "cats")
    assert draw_form.adapter_choices([]) == [("none", "")]
    choice = f"run:{run.name}"
    with pytest.raises(draw_form.RequestError, match="no adapter file yet"):
        draw_form.build_request(answers | {"adapters": [(choice, 1)]})
    for step in (50, 100):
        folder = run.path / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.safetensors").touch()
        written(folder)
    _, (label, value), earlier = draw_form.adapter_choices([])
    assert value == choice
    assert "step 100" in label
    assert earlier == ("cats · step 50", f"{choice}@50")
    assert "step-000050" in draw_form.build_request(answers | {"adapters": [(earlier[1], 1)]}).adapters[0].path
    assert draw_form.run_settings(earlier[1]) is not None
    with pytest.raises(draw_form.RequestError, match=r"no adapter files yet of step 70\. Kept steps: 100, 50"):
        draw_form.build_request(answers | {"adapters": [(f"{choice}@70", 1)]})
    assert "step-000100" in draw_form.build_request(answers | {"adapters": [(choice, 1)]}).adapters[0].path
    written(run.path)
    assert [" · ".join(label.split(" · ")[:2]) for label, _ in draw_form.adapter_choices([])[1:]] == [
        f"cats · {standing}" for standing in ("finished", "step 100", "step 50")
    ]
    assert draw_form.build_request(answers | {"adapters": [(choice, 1)]}).adapters[0].path == str(
        run.path / "cats-diffusers.safetensors"
    )


def test_an_adapter_file_says_what_it_is(uploads: Path) -> None:
    text = draw_form.describe_adapter(adapter(uploads / "mine.safetensors"))
    assert "1 layers of the UNet" in text
    assert "sks" in text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_x.lora_down.weight"], "has down, not a down and an up"),
        (["lora_unet_x.hada_w1_a"], "is a LoHa adapter"),
        (["base_model.model.x.ia3_l"], "is an IA3 adapter"),
        (["lora_unet_joint_blocks_0_x.lora_down.weight"], "is an adapter of Stable Diffusion 3"),
        (
            ["unet.x.lora_A.weight", "unet.x.lora_B.weight", "step"],
            "1 of 3 tensors are not part of a LoRA, such as step",
        ),
        (["base_model.model.x.lora_A.weight", "base_model.model.x.lora_B.weight"], "whose strength stands in"),
        (["double_blocks.0.img_attn.qkv.weight"], "is a Flux model"),
    ],
)
def test_an_upload_is_named_for_what_it_is(uploads: Path, names: list[str], words: str) -> None:
    save_file({name: np.zeros((2, 2), "f4") for name in names}, uploads / "x.safetensors")
    with pytest.raises(UserError, match=words):
        draw_form.describe_adapter(uploads / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.pt", "pickle"), ("x.ckpt", "pickle"), ("x.png", "not an adapter"), ("x.safetensors", "under another name")],
)
def test_other_files_are_refused_with_a_reason(upload: Upload, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw_form.describe_adapter(upload(name, b"\x80\x04not it"))


def test_a_chosen_run_brings_what_its_samples_were_drawn_with(home: Path) -> None:
    run = runs.create(presets.build({"base.path": "/models/sdxl", "sample.steps": 30, "sample.guidance": 2.5}), "dog")
    *fields, note = suit(f"run:{run.name}", "embedded")
    assert fields == ["/models/sdxl", 30, 2.5]
    assert "base /models/sdxl, 30 steps, guidance 2.5." in note and "was" not in note
    assert "The base was /models/another." in suit(f"run:{run.name}", "/models/another")[3]
    for choice in ("", "file:/x.safetensors", "run:gone", "run:../.."):
        assert suit(choice, "embedded") == [gr.skip()] * 4
