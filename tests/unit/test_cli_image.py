"""What `generate` asks of the studio: a run brings its base, and the steps and guidance of its samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank_diffusion import presets, runs
from lowrank_diffusion.cli import parse
from lowrank_diffusion.cli_image import request_of
from lowrank_diffusion.image.request import DrawRequest


@pytest.fixture
def a_run(home: Path) -> runs.Run:
    settings = {"base.path": "someone/sdxl", "base.variant": "fp16", "base.quantize": "nf4", "sample.steps": 30}
    run = runs.create(presets.build(settings | {"sample.guidance": 2}), "mine")
    for name in ("mine-diffusers.safetensors", "mine-comfyui-forge.safetensors", "mine-peft"):
        (run.path / name).touch()
    return run


def asked(*words: str) -> DrawRequest:
    return request_of(parse(["generate", "a cat", *words]))


def test_a_run_is_drawn_as_its_samples_were(a_run: runs.Run):
    request = asked("--adapter", "mine@0.5")
    assert (request.base.path, request.base.variant, request.base.quantize) == ("someone/sdxl", "fp16", "none")
    assert (request.steps, request.guidance) == (30, 2.0)
    mine = str(a_run.path / "mine-diffusers.safetensors")
    assert [(item.path, item.strength) for item in request.adapters] == [(mine, 0.5)]


def test_what_is_said_goes_before_what_the_run_has(a_run: runs.Run):
    request = asked("--adapter", "mine", "--base", "embedded", "--steps", "8", "--guidance", "0")
    assert (request.base.path, request.base.variant) == ("embedded", None)
    assert (request.steps, request.guidance) == (8, 0.0)


def test_without_a_run_the_defaults_are_those_of_a_request(home: Path, tmp_path: Path):
    (tmp_path / "file.safetensors").touch()
    for request in (asked(), asked("--adapter", str(tmp_path / "file.safetensors"))):
        assert (request.base, request.steps, request.guidance) == (DrawRequest("").base, 20, 5.0)
