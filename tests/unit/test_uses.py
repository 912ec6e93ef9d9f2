"""How a picture is learnt: repeats, weight, frame and mask, from tables, kohya's folders and files beside pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lowrank_diffusion.config import DataConfig
from lowrank_diffusion.image import masks
from lowrank_diffusion.image.columns import Use, read, written
from lowrank_diffusion.image.crops import fit
from lowrank_diffusion.image.data import Picture, scan, survey

from .picture_files import noise, problems, save


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x"} | row) for row in rows))
    return path


def half_white(path: Path, size: tuple[int, int] = (64, 48), share: float = 0.5) -> Path:
    """A mask that is white on the left."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, round(size[0] * share), size[1]))
    mask.save(path)
    return path


def test_a_table_says_how_pictures_are_learnt(tmp_path: Path):
    for name in "abc":
        noise(tmp_path / f"{name}.png", (64, 48))
    (tmp_path / "masks").mkdir()
    mask = half_white(tmp_path / "masks" / "b.png")
    table(
        tmp_path,
        {"file_name": "a.png", "repeats": 3, "weight": 0.5, "frame": [0, 0.25, 0.5, 1]},
        {"file_name": "b.png", "mask": "masks/b.png", "repeats": None, "weight": ""},
        {"file_name": "c.png", "weight": 0},
    )
    learnt = survey(tmp_path)
    assert learnt.pictures == [
        Picture(tmp_path / "a.png", "x", 64, 48, 3, 0.5, (0, 0.25, 0.5, 1)),
        Picture(tmp_path / "b.png", "x", 64, 48, mask=mask),
    ]
    assert learnt.pictures[0].box == (0, 12, 32, 48) and learnt.pictures[0].seen == (32, 36)
    assert learnt.pictures[1].box is None and learnt.pictures[1].seen == (64, 48)
    assert learnt.notes == ["1 pictures are left out, as the table asks for: c.png."]


def test_a_csv_says_the_same(tmp_path: Path):
    save(tmp_path / "a.png", (40, 40))
    half_white(tmp_path / "b.png", (40, 40))
    (tmp_path / "metadata.csv").write_text(
        'file_name,text,repeats,weight,frame,mask\na.png,x,2,1.5,"[0, 0, 0.5, 1]",b.png\n'
    )
    assert scan(tmp_path) == [Picture(tmp_path / "a.png", "x", 40, 40, 2, 1.5, (0, 0, 0.5, 1), tmp_path / "b.png")]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"repeats": 0}, "repeats must be a whole number from 1 to 1000, got 0."),
        ({"repeats": 1.5}, "repeats must be a whole number from 1 to 1000, got 1.5."),
        ({"repeats": True}, "repeats must be a whole number from 1 to 1000, got True."),
        ({"weight": -1}, "weight must be a number above 0 and at most 100, got -1."),
        ({"weight": "heavy"}, "weight must be a number above 0 and at most 100, got 'heavy'."),
        ({"weight": 1e300}, "weight must be a number above 0 and at most 100, got 1e+300."),
        ({"frame": [0, 0, 1]}, "frame must be four fractions: left, top, right, bottom"),
        ({"frame": "0 0 x 1"}, "frame must be four fractions: left, top, right, bottom"),
        ({"frame": [0, 0, 10**400, 1]}, "frame must be four fractions: left, top, right, bottom"),
        ({"frame": [0, 0, True, 1]}, "frame must be four fractions: left, top, right, bottom"),
        ({"frame": [0, 0, float("nan"), 1]}, "frame must be four fractions: left, top, right, bottom"),
        ({"repeats": 10**400}, "repeats must be a whole number from 1 to 1000"),
        ({"frame": [0.5, 0, 0.5, 1]}, "frame must have 0 <= left < right <= 1"),
        ({"frame": [0, 0, 1, 64]}, "frame must have 0 <= left < right <= 1"),
        ({"mask": "gone.png"}, "mask must be the name of a file in this folder, got 'gone.png'."),
        ({"mask": "../outside.png"}, "mask must be the name of a file in this folder"),
        ({"mask": 7}, "mask must be the name of a file in this folder, got 7."),
    ],
)
def test_a_value_that_means_nothing_is_named_with_its_row(tmp_path: Path, row: dict[str, Any], rule: str):
    save(tmp_path / "outside.png")
    folder = tmp_path / "set"
    folder.mkdir()
    save(folder / "a.png", (40, 40))
    path = table(folder, {"file_name": "a.png"} | row)
    (problem,) = problems(folder)
    assert problem.startswith(f"{path}, line 1: {rule}")


def test_all_that_is_wrong_with_a_row_comes_at_once(tmp_path: Path):
    save(tmp_path / "a.png", (40, 40))
    table(tmp_path, {"file_name": "a.png", "repeats": -1, "weight": "x", "frame": 3, "mask": "no"})
    assert len(problems(tmp_path)) == 3, "mask=no says that nothing is masked"


def test_a_frame_that_leaves_too_little(tmp_path: Path):
    save(tmp_path / "a.png", (40, 40))
    table(tmp_path, {"file_name": "a.png", "frame": [0, 0, 0.2, 1]})
    (problem,) = problems(tmp_path)
    assert "a.png: has a frame of 8 x 40 px. It needs at least 16 px a side" in problem


def test_what_is_said_is_written_as_it_is_read(tmp_path: Path):
    use = Use(4, 0.25, (0.1, 0, 0.9, 1), tmp_path / "m.png")
    row = written(use, "m.png")
    assert row == {"repeats": 4, "weight": 0.25, "frame": [0.1, 0, 0.9, 1], "mask": "m.png"}
    assert read(row, lambda name: tmp_path / name, set()) == (use, [])
    assert written(Use()) == {} and read({}, lambda name: None, set()) == (Use(), [])


def test_masks_beside_pictures(tmp_path: Path):
    for name in ("a.jpg", "b.png", "c.png", "c.jpg"):
        noise(tmp_path / name, (64, 48))
    half_white(tmp_path / "a-masklabel.png")
    half_white(tmp_path / "b.mask.png", (32, 24))
    half_white(tmp_path / "c.jpg.mask.png")
    learnt = survey(tmp_path, "x")
    assert {p.path.name: p.mask and p.mask.name for p in learnt.pictures} == {
        "a.jpg": "a-masklabel.png", "b.png": "b.mask.png", "c.jpg": "c.jpg.mask.png", "c.png": None,
    }  # fmt: skip
    assert learnt.notes == []


def test_what_can_be_wrong_with_masks_beside_pictures(tmp_path: Path):
    for name in ("a.jpg", "a.png", "b.png", "c.png", "d.png"):
        noise(tmp_path / name, (64, 48))
    half_white(tmp_path / "a.mask.png")
    half_white(tmp_path / "b.mask.png", (48, 64))
    half_white(tmp_path / "c.mask.png")
    half_white(tmp_path / "c-masklabel.png")
    (tmp_path / "d.mask.png").write_bytes(b"no picture")
    half_white(tmp_path / "e.mask.png")
    lines = problems(tmp_path)
    assert len(lines) == 5
    for name, rule in (
        ("a.mask.png", "could be the mask of a.jpg or a.png. Call it a.jpg.mask.png."),
        ("b.mask.png", "is a mask of 48 x 64 px for a picture of 64 x 48 px. Give it the size or the shape of b.png."),
        ("c.mask.png", "is a second mask of c.png. Keep one of them."),
        ("d.mask.png", "is damaged, cut short, or not a picture"),
        ("e.mask.png", "is a mask without its picture. Add a picture e.png"),
    ):
        assert any(line.startswith(f"{tmp_path / name}: {rule}") for line in lines), (name, lines)


def test_a_mask_is_no_picture_and_a_picture_no_mask(tmp_path: Path):
    noise(tmp_path / "a.png", (64, 48))
    noise(tmp_path / "b.png", (64, 48))
    half_white(tmp_path / "a.mask.png")
    table(tmp_path, {"file_name": "a.png", "mask": "b.png"}, {"file_name": "b.png"})
    lines = problems(tmp_path)
    assert any("a.png: has two masks, b.png, as the table says, and a.mask.png" in line for line in lines)
    assert any("b.png: is named as a picture and as the mask of a.png" in line for line in lines)


def test_a_mask_column_that_says_yes_or_no_still_leaves_out(tmp_path: Path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    table(tmp_path, {"file_name": "a.png", "mask": True}, {"file_name": "b.png", "mask": False})
    assert [(p.path.name, p.mask) for p in scan(tmp_path)] == [("b.png", None)]


def test_alpha_as_a_mask(tmp_path: Path):
    picture = Image.new("RGBA", (64, 48), (9, 9, 9, 255))
    picture.paste((9, 9, 9, 0), (0, 0, 32, 48))
    picture.save(tmp_path / "a.png")
    save(tmp_path / "b.png", (64, 48))
    picture.save(tmp_path / "c.png")
    half_white(tmp_path / "c.mask.png")
    learnt = survey(tmp_path, "x", alpha_mask=True)
    assert [p.mask and p.mask.name for p in learnt.pictures] == ["a.png", None, "c.mask.png"]
    alpha = np.asarray(masks.opened(tmp_path / "a.png", tmp_path / "a.png", (64, 48)))
    assert (alpha[:, :32] == 0).all() and (alpha[:, 32:] == 255).all()
    assert next(p.mask for p in scan(tmp_path, "x")) is None
    (tmp_path / "a.png").unlink()
    assert survey(tmp_path, "x", alpha_mask=True).notes == [
        "data.alpha_mask=true masks nothing: no picture without a mask file is transparent."
    ]


def test_numbered_sub_folders_are_read_as_kohyas_scripts_do(tmp_path: Path):
    for folder, names in (("10_sks dog", "ab"), ("2_", "c"), ("0_off", "d"), ("old", "ef")):
        (tmp_path / folder).mkdir()
        for name in names:
            save(tmp_path / folder / f"{name}.png", (40, 40))
    (tmp_path / "10_sks dog" / "b.txt").write_text("sks dog on a chair")
    half_white(tmp_path / "10_sks dog" / "a.mask.png", (40, 40))
    (tmp_path / "notes.md").write_text("x")
    learnt = survey(tmp_path, "for all")
    assert [(p.path.parent.name, p.path.name, p.caption, p.repeats) for p in learnt.pictures] == [
        ("10_sks dog", "a.png", "sks dog", 10), ("10_sks dog", "b.png", "sks dog on a chair", 10),
        ("2_", "c.png", "for all", 2),
    ]  # fmt: skip
    assert learnt.pictures[0].mask == tmp_path / "10_sks dog" / "a.mask.png"
    assert learnt.notes == [
        "10_sks dog: an epoch sees its 2 pictures 10 times, 1 of them captioned 'sks dog'.",
        "2_: an epoch sees its 1 picture 2 times.",
        "Left out, as they are not pictures: notes.md.",
        "Pictures in sub-folders are left out: 0_off (1), old (2).",
    ]


def test_a_table_inside_a_numbered_folder_counts_too(tmp_path: Path):
    folder = tmp_path / "5_cup"
    folder.mkdir()
    save(folder / "a.png")
    table(folder, {"file_name": "a.png", "text": "a red cup", "repeats": 3})
    assert [(p.caption, p.repeats) for p in scan(tmp_path)] == [("a red cup", 15)]
    table(folder, {"file_name": "a.png", "repeats": 900})
    assert "its folder's number and its row make 4500 repeats; at most 1000" in problems(tmp_path)[0]


def test_problems_of_all_numbered_folders_come_at_once(tmp_path: Path):
    for name in ("1_", "2_cup", "5000_pot"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "a.png")
    (tmp_path / "2_cup" / "lost.txt").write_text("x")
    lines = problems(tmp_path, "")
    assert len(lines) == 3
    assert "1_: none of its pictures has a caption" in lines[0] and "lost.txt: is a caption without" in lines[1]
    assert "the number in front says how often an epoch sees its pictures, at most 1000" in lines[2]


def test_a_folder_with_pictures_of_its_own_is_an_ordinary_one(tmp_path: Path):
    save(tmp_path / "a.png")
    (tmp_path / "10_old").mkdir()
    save(tmp_path / "10_old" / "b.png")
    learnt = survey(tmp_path, "x")
    assert [(p.path.name, p.repeats) for p in learnt.pictures] == [("a.png", 1)]
    assert learnt.notes[0] == "Pictures in sub-folders are left out: 10_old (1)."
    assert learnt.notes[1].startswith("Numbered sub-folders are read, as kohya's scripts do it, only where")


@pytest.mark.parametrize("settings", [{}, {"crop": "random", "crops": 3, "flip": True}])
@pytest.mark.parametrize("size", [(64, 64), (80, 48)])
def test_a_frame_is_what_a_picture_cut_to_it_would_be(tmp_path: Path, settings: dict[str, Any], size: tuple[int, int]):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    picture = noise(whole / "a.png", (200, 150))
    half_white(whole / "a.mask.png", (200, 150), 0.4)
    box = (50, 30, 170, 150)
    Image.open(picture).crop(box).save(cut / "a.png")
    Image.open(whole / "a.mask.png").crop(box).save(cut / "a.mask.png")
    table(whole, {"file_name": "a.png", "frame": [50 / 200, 30 / 150, 170 / 200, 1]})
    table(cut, {"file_name": "a.png"})
    cfg = DataConfig(**settings)
    one, other = (fit(scan(folder), [size], cfg, 3)[0] for folder in (whole, cut))
    assert len(one) == len(other) == (6 if settings else 1)
    for framed, plain in zip(one, other, strict=True):
        assert framed.framing == plain.framing and framed.framing[:2] == (120, 120)
        assert framed.pixels("#ffffff").tobytes() == plain.pixels("#ffffff").tobytes()
        latent = (size[0] // 8, size[1] // 8)
        assert np.array_equal(np.asarray(framed.masked(latent)), np.asarray(plain.masked(latent)))


@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_is_cropped_and_mirrored_as_its_picture_and_averaged_over_areas(tmp_path: Path, flip: bool):
    """A picture that is its own mask: the mask's values are the means of the crop's pixels."""
    grey = Image.new("L", (128, 64))
    grey.putdata([(x * 2 + y) % 256 for y in range(64) for x in range(128)])
    grey.save(tmp_path / "a.png")
    grey.save(tmp_path / "a.mask.png")
    for crop in fit(scan(tmp_path, "x"), [(64, 64)], DataConfig(crop="random", crops=2, flip=flip), 0)[0]:
        pixels = np.asarray(crop.pixels("#ffffff"), dtype=float)[..., 0]
        means = pixels.reshape(8, 8, 8, 8).mean(axis=(1, 3))
        assert np.abs(np.asarray(crop.masked((8, 8))) - means).max() < 1e-3


def test_a_mask_of_half_the_size_counts_for_the_same_places(tmp_path: Path):
    noise(tmp_path / "a.png", (128, 64))
    half_white(tmp_path / "a.mask.png", (64, 32), 0.75)
    (crop,) = fit(scan(tmp_path, "x"), [(64, 64)], DataConfig(), 0)[0]
    assert np.asarray(crop.masked((8, 8))).tolist() == [[255.0] * 8] * 8
    (crop,) = fit(scan(tmp_path, "x"), [(128, 64)], DataConfig(), 0)[0]
    assert np.asarray(crop.masked((16, 8))).tolist() == [[255.0] * 12 + [0.0] * 4] * 8
