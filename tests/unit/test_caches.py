"""What is made once and kept: a file that is not what was written is made again, and never believed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lowrank_diffusion.image import cache, prior
from lowrank_diffusion.paths import cache_folder
from lowrank_diffusion.text import model

TENSORS = {"mean": torch.ones(2, 3), "std": torch.zeros(2, 3)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWRANK_HOME", str(tmp_path))


@pytest.fixture
def item() -> Path:
    cache.put("latents", "abcd", TENSORS)
    return cache_folder() / "latents" / "ab" / "abcd.safetensors"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another's, whole": lambda path: save_file({"tokens": torch.ones(3)}, path),
    "without a digest": lambda path: save_file(load_file(path), path),
    "one tensor fewer": lambda path: save_file({"mean": TENSORS["mean"]}, path, {"digest": "x"}),
    "one bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "that of another key": lambda path: (
        cache.put("latents", "abzz", TENSORS | {"mean": torch.full((2, 3), 5.0)}),
        shutil.copy(path.with_name("abzz.safetensors"), path),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_item_that_is_not_what_was_written_is_made_again(item: Path, damage: str):
    assert cache.get("latents", "abcd") is not None
    DAMAGES[damage](item)
    assert cache.get("latents", "abcd") is None
    (made,) = cache.fill("latents", ["abcd"], lambda _: TENSORS, lambda *_: None)
    assert all(torch.equal(made[name], value) for name, value in TENSORS.items())
    if not item.is_dir():  # what cannot be replaced is made every time
        assert cache.get("latents", "abcd") is not None


def test_a_class_picture_that_cannot_be_read_is_drawn_again(tmp_path: Path):
    path = tmp_path / "00001.png"
    assert not prior._is_whole(path)
    Image.new("RGB", (64, 64)).save(path)
    assert prior._is_whole(path)
    path.write_bytes(path.read_bytes()[:-20])
    assert not prior._is_whole(path)


@pytest.mark.parametrize("damage", ["cut", "gone", "another", "no sizes", "broken header", ""])
def test_a_converted_model_is_made_again_where_its_files_have_changed(tmp_path: Path, damage: str):
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        folder.mkdir(parents=True)
        save_file(TENSORS, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")

    source = tmp_path / "small.gguf"
    source.touch()
    folder = model._made_once(source, "weights", make)
    weights = folder / "model.safetensors"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-4])
        case "gone":
            (folder / "config.json").unlink()
        case "another":
            (folder / "more.json").write_text("{}")
        case "no sizes":
            (folder / model._SIZES).write_text(json.dumps([]))
        case "broken header":
            weights.write_bytes(b"\xff" * weights.stat().st_size)
    assert model._made_once(source, "weights", make) == folder and len(made) == (2 if damage else 1)
    assert load_file(weights).keys() == TENSORS.keys()
