"""The picture sets that ship with the project are whole, captioned, licensed, and kept apart."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from lowrank_diffusion.image.data import Picture, content_key, open_picture, scan
from lowrank_diffusion.paths import EXAMPLES, PROJECT

STYLE, SUBJECT, HELDOUT = EXAMPLES / "style-3d-icons", EXAMPLES / "subject-cat", PROJECT / "benchmarks" / "heldout"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_examples", PROJECT / "scripts" / "make_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def things(pictures: list[Picture], template: str) -> set[str]:
    """What stands in the place of {thing}; the rest of the caption is the template's."""
    before, after = template.split("{thing}")
    assert all(p.caption.startswith(before) and p.caption.endswith(after) for p in pictures)
    return {p.caption[len(before) : len(p.caption) - len(after)] for p in pictures}


def test_the_style_set():
    pictures = scan(STYLE)
    assert len(pictures) == 20
    assert {(p.width, p.height) for p in pictures} == {(256, 256)}


def test_the_subject_set(script):
    pictures = scan(SUBJECT)
    assert len(pictures) == 7
    assert {(p.width, p.height) for p in pictures} == {(256, 256)}
    found = {p.path.stem.removeprefix("cat-").replace("-", " "): p.caption for p in pictures}
    assert found == {face: script.subject_caption(face) for face in script.FACES.values()}
    named = [caption for face, caption in found.items() if face not in script.USUAL_FACES]
    assert len(set(named)) == len(named) == 5
    assert all(found[face] == "a photo of sks cat" for face in script.USUAL_FACES)


def test_the_held_out_set():
    pictures = scan(HELDOUT)
    assert len(pictures) == 100
    assert {(p.width, p.height) for p in pictures} == {(128, 128)}
    assert sum(path.stat().st_size for path in HELDOUT.iterdir()) < 700_000


def test_nothing_that_is_measured_on_was_trained_on(script):
    trained, held_out = things(scan(STYLE), script.STYLE_CAPTION), things(scan(HELDOUT), script.STYLE_CAPTION)
    assert len(trained) == 20
    assert len(held_out) == 100
    assert not trained & held_out
    words = {word for thing in trained for word in thing.split()} - {"a", "an"}
    others = {word for thing in held_out for word in thing.split()}
    assert not words & others


def test_no_two_pictures_look_alike():
    """Also finds the same drawing in another size: mean difference of 16 x 16 px versions."""
    paths = [p.path for folder in (STYLE, SUBJECT, HELDOUT) for p in scan(folder)]
    assert len({content_key(path) for path in paths}) == len(paths)
    icons = [p.path for folder in (STYLE, HELDOUT) for p in scan(folder)]
    small = [open_picture(path).resize((16, 16), Image.Resampling.BOX).tobytes() for path in icons]
    for index, one in enumerate(small):
        for other in small[index + 1 :]:
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) > 8


@pytest.mark.parametrize("folder", [STYLE, SUBJECT, HELDOUT])
def test_pictures_stand_on_white_and_captions_read_well(folder: Path):
    for picture in scan(folder):
        corner = open_picture(picture.path).getpixel((0, 0))
        assert isinstance(corner, tuple)
        assert min(corner) > 240
        assert picture.caption == picture.caption.lower()
        assert not re.search(r"\b(a [aeiou]|an [^aeiou\W])", picture.caption.replace("an hourglass", ""))


@pytest.mark.parametrize("folder", [EXAMPLES, HELDOUT])
def test_the_licence_lies_beside_the_pictures(folder: Path):
    text = (folder / "LICENSE.md").read_text(encoding="utf-8")
    for part in ("@lobehub/fluent-emoji-3d", "MIT License", "Copyright (c) Microsoft Corporation", "LobeHub"):
        assert part in text
    assert "Permission is hereby granted" in text


def test_articles_and_names(script):
    said = {script.with_article(script.name_of(emoji)) for emoji in script.STYLE + script.HELDOUT}
    assert {"an octopus", "an alarm clock", "a house", "an hourglass", "grapes", "scissors", "a hot dog"} <= said
