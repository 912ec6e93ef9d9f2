"""A grid with the embedded base: drawn, left half done, gone on with, by function and by command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lowrank_diffusion
from lowrank_diffusion.image import parameters
from lowrank_diffusion.image.generate import Studio

from .conftest import command

AXES = {"steps": [1, 2], "guidance": "1-5 x2"}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def draw(folder: Path, studio: Studio) -> Path:
    options = {"width": 64, "height": 64, "device": "cpu"}
    return lowrank_diffusion.grid(None, "an emoji of a fox", AXES, folder, studio=studio, **options)


def test_a_grid_is_drawn_and_gone_on_with(studio: Studio, tmp_path: Path):
    sheet = draw(tmp_path / "a", studio)
    described = json.loads((tmp_path / "a" / "grid.json").read_text())
    assert [axis["values"] for axis in described["axes"]] == [["1", "2"], ["1", "5"]]
    files = [tmp_path / "a" / cell["file"] for cell in described["cells"]]
    assert len(files) == 4 and len({pixels(path).tobytes() for path in files}) == 4
    assert parameters.read(files[3]).values["steps"] == 2 and parameters.read(files[3]).values["guidance"] == 5
    first, before = pixels(files[0]), files[1].stat().st_mtime_ns
    whole = pixels(sheet)
    files[0].unlink()
    assert np.array_equal(pixels(draw(tmp_path / "a", studio)), whole)
    assert np.array_equal(pixels(files[0]), first), "the same settings, the same picture"
    assert files[1].stat().st_mtime_ns == before, "what is there is not drawn again"


def test_the_command(tmp_path: Path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("an emoji of a fox\n\nan emoji of a cat\n", encoding="utf-8")
    common = ("--width", "64", "--height", "64", "--device", "cpu", "--out", str(tmp_path))
    done = command(
        "grid", "an emoji of a fox", "--axis", "seed=1-2", "--axis", "sampler=Euler", "--steps", "1", *common
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "grid.png")
    wrong = command("grid", "x", "--axis", "seed=x", "--axis", "mood=good", *common)
    assert wrong.returncode == 1
    assert "axis mood: there is no such axis" in wrong.stderr and "axis seed: 'x' is not a whole number" in wrong.stderr
    several = command("generate", "--prompts", str(prompts), "--steps", "1", "--sampler", "DDIM", *common)
    assert several.returncode == 0, several.stderr
    first, second = (Path(line) for line in several.stdout.splitlines())
    assert first.name.endswith("-000-seed0-base.png") and second.name.endswith("-001-seed0-base.png")
    assert parameters.read(second).values["prompt"] == "an emoji of a cat"
    repeated = command(
        "generate", "x", "--start", str(first), "--change", "2", "--sampler", "y", "--mask", "z", *common
    )
    assert repeated.stderr.startswith("--change: must be a number from 0.01 to 1, got 2")
    changed = command("generate", "x", "--start", str(first), "--change", "0.5", "--steps", "2", *common)
    assert changed.returncode == 0, changed.stderr
    again = command("generate", "--like", str(second), "--device", "cpu", "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert np.array_equal(pixels(Path(again.stdout.strip())), pixels(second)), "the same settings, the same pixels"
