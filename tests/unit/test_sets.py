"""Saved data sets: versions that never change, zip files of anybody, and what a run learns from them."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lowrank_diffusion import datasets, metadata, preflight, presets, runs
from lowrank_diffusion.cli import main
from lowrank_diffusion.errors import DataError
from lowrank_diffusion.image import archives, sets
from lowrank_diffusion.image.columns import Use
from lowrank_diffusion.image.data import checked, survey

from .picture_files import noise, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures: captioned and framed, masked and heavy, plain."""
    place = tmp_path / "given"
    place.mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.jpg")):
        noise(place / name, (64, 48 + number))
    Image.new("L", (64, 49), 200).save(place / "m.png")
    rows = [
        {"file_name": "a.png", "text": "an a", "frame": [1 / 3, 0, 1, 1], "repeats": 2},
        {"file_name": "b.png", "text": "a b", "weight": 3, "mask": "m.png"},
        {"file_name": "c.jpg", "text": ""},
    ]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def saved_from(name: str, *sources: Path | str) -> datasets.SavedSet:
    with sets.gathered(sources) as taken:
        return sets.save(name, taken.pictures)


def test_a_set_is_a_folder_that_says_all_of_its_pictures(folder: Path):
    saved = saved_from("cups", folder)
    assert (saved.name, saved.versions) == ("cups", (1,)) and datasets.all_sets() == [saved]
    place = saved.folder()
    assert sorted(path.relative_to(place).as_posix() for path in place.rglob("*")) == [
        "a.png", "b.png", "c.jpg", "masks", "masks/b.png", "metadata.jsonl",
    ]  # fmt: skip
    a, b, c = sets.read("cups")
    assert (a.caption, a.repeats, a.frame) == ("an a", 2, (1 / 3, 0, 1, 1))
    assert (b.caption, b.weight, b.mask) == ("a b", 3, place / "masks" / "b.png") and c.caption == ""
    assert (a.path.read_bytes(), b.mask.read_bytes()) == (
        (folder / "a.png").read_bytes(), (folder / "m.png").read_bytes(),
    )  # fmt: skip
    facts = sets.facts(saved)
    assert facts.pictures == 3 and facts.size == sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    learnt = survey(place, "a c")
    assert [p.caption for p in learnt.pictures] == ["an a", "a b", "a c"]
    assert learnt.notes == ["1 captions are empty, and data.prompt stands in for them: c.jpg."]


def test_a_version_is_never_changed_and_shares_what_stays(folder: Path):
    first = saved_from("cups", folder).folder()
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    a, b, _ = sets.read("cups")
    second = sets.save("cups", [replace(b, caption="another b"), a])
    assert second.versions == (1, 2) and [p.caption for p in sets.read("cups")] == ["an a", "another b"]
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    for name in ("a.png", "masks/b.png"):
        assert os.path.samefile(first / name, second.folder() / name)
    noise(folder / "d.png", (40, 40))
    (folder / "metadata.jsonl").unlink()
    (folder / "m.png").unlink()
    third = saved_from("cups", folder)
    assert os.path.samefile(second.folder() / "a.png", third.folder() / "a.png"), "the same content from elsewhere"
    assert [p.caption for p in sets.read("cups", 1)] == ["an a", "a b", ""]
    assert len(sets.read("cups")) == 4


def test_captions_of_any_letters_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path / "a.png")
    captions = ["schöne Tasse ☕", "half \ud800 a letter", 'quotes " and \\ud800']
    sets.save("words", [checked(tmp_path / "a.png", caption) for caption in captions])
    assert sorted(p.caption for p in sets.read("words")) == sorted(captions)
    assert main(["datasets", "show", "words"]) == 0
    capsys.readouterr().out.encode()
    assert "schöne Tasse ☕" in (datasets.find("words").folder() / "metadata.jsonl").read_text(encoding="utf-8")


def test_an_alpha_mask_is_kept(tmp_path: Path):
    Image.new("RGBA", (40, 40), (1, 2, 3, 100)).save(tmp_path / "a.png")
    sets.save("see-through", [checked(tmp_path / "a.png", "x", Use(mask=tmp_path / "a.png"))])
    (picture,) = sets.read("see-through")
    assert picture.mask == picture.path


def test_nothing_is_saved_that_cannot_be(folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match="there are no pictures"):
        sets.save("empty", [])
    for name in ("", "a b", "-x", "../x", "ä", "x" * 61, "."):
        with pytest.raises(DataError, match=r"^name must be of letters"):
            sets.save(name, [])
    picture = checked(folder / "a.png")
    with pytest.raises(DataError, match=r"gone\.png: does not exist"):
        sets.save("gone", [replace(picture, path=tmp_path / "gone.png"), picture])
    assert datasets.all_sets() == [] and not list((tmp_path / "datasets").glob("gone/*"))


def test_references(folder: Path):
    saved_from("cups", folder)
    saved_from("cups", folder)
    assert datasets.located("set:cups") == datasets.version_folder("cups", 2)
    assert datasets.located("set:cups@1") == datasets.version_folder("cups", 1)
    for reference, rule in (
        ("set:pots", "set:pots: there is no such data set. Saved sets: cups."),
        ("set:cups@7", "set:cups@7: there is no such version. There are: 1, 2."),
        ("set:cups@new", "behind '@' must be the number of a version, got 'new'."),
        ("set:../x", "name must be of letters"),
    ):
        with pytest.raises(DataError) as caught:
            datasets.located(reference)
        assert rule in str(caught.value)
        with pytest.raises(DataError) as again:
            survey(Path(reference), "x")
        assert str(again.value) == str(caught.value)
    assert datasets.reference(datasets.version_folder("cups", 2)) == "set:cups@2" and not datasets.reference(folder)
    shared = metadata.shareable({"data.instance": str(datasets.version_folder("cups", 2)), "x": "/home/ann/dog"})
    assert shared == {"data.instance": "set:cups@2", "x": "dog"}, "in files that are passed on"
    assert datasets.title(datasets.version_folder("cups", 2)) == "cups" and datasets.title(Path("/x/0002")) == "0002"


def test_a_run_keeps_the_version_it_was_made_with(folder: Path, tmp_path: Path):
    saved_from("cups", folder)
    values = {"data.instance": "set:cups", "data.prompt": "x", "data.resolution": 64, "train.device": "cpu"}
    run = runs.create(presets.build({}, values), "run", tmp_path / "runs")
    saved_from("cups", folder)
    assert run.config().data.instance == str(datasets.version_folder("cups", 1))
    assert preflight.look(run.config()).problems == []
    cfg = presets.with_absolute_paths(presets.build({}, values | {"data.instance": "set:pots"}))
    (problem,) = preflight.look(cfg).problems
    assert str(problem) == "data.instance: set:pots: there is no such data set. Saved sets: cups."


def test_rename_and_delete(folder: Path):
    saved_from("cups", folder)
    saved_from("pots", folder)
    with pytest.raises(DataError, match="there is such a data set already"):
        datasets.rename("cups", "pots")
    with pytest.raises(DataError, match="name must be"):
        datasets.rename("cups", "a/b")
    assert datasets.rename("cups", "mugs").name == "mugs"
    datasets.delete("pots")
    assert [saved.name for saved in datasets.all_sets()] == ["mugs"]
    with pytest.raises(DataError, match="there is no such data set"):
        datasets.delete("pots")


def test_a_set_travels_as_a_zip_file(folder: Path, tmp_path: Path):
    saved_from("cups", folder)
    archive = sets.export("cups", tmp_path / "out" / "cups.zip")
    with pytest.raises(DataError, match="is there already"):
        sets.export("cups", archive)
    saved_from("again", archive)
    one, other = (
        [replace(p, path=Path(p.path.name), mask=p.mask and Path(p.mask.name)) for p in sets.read(name)]
        for name in ("cups", "again")
    )
    assert one == other and [p.name for p in archive.parent.iterdir()] == ["cups.zip"]


def test_folders_zip_files_sets_and_pictures_at_once(folder: Path, tmp_path: Path):
    saved_from("cups", folder)
    kohya = tmp_path / "my pictures"
    (kohya / "10_sks dog").mkdir(parents=True)
    noise(kohya / "10_sks dog" / "a.png", (50, 50))
    archive = tmp_path / "kohya.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(kohya / "10_sks dog" / "a.png", "my pictures/10_sks dog/a.png")
        packed.writestr("__MACOSX/my pictures/._a.png", "x")
        packed.writestr("my pictures/.DS_Store", "x")
        packed.writestr("my pictures/notes.md", "x")
    loose = noise(tmp_path / "loose.png", (51, 50))
    (tmp_path / "loose.txt").write_text("alone")
    with sets.gathered(["set:cups", archive, loose, tmp_path / "loose.txt"], repeats=3) as taken:
        assert [(p.path.name, p.caption, p.repeats) for p in taken.pictures] == [
            ("a.png", "an a", 6), ("b.png", "a b", 3), ("c.jpg", "", 3), ("a.png", "sks dog", 30),
            ("loose.png", "alone", 3),
        ]  # fmt: skip
        assert any("Left out, as they are not pictures: notes.md." in note for note in taken.notes)
        saved = sets.save("all", taken.pictures)
    assert [p.path.name for p in sets.read("all")] == ["a-2.png", "a.png", "b.png", "c.jpg", "loose.png"]
    assert sets.facts(saved).pictures == 5


def test_problems_of_all_sources_come_at_once(folder: Path, tmp_path: Path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no archive")
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught, sets.gathered([folder, tmp_path / "bad.zip", tmp_path / "gone"]):
        pass
    text = str(caught.value)
    assert (
        "a.png: is damaged" in text and "bad.zip: is damaged or no zip file" in text and "gone: does not exist" in text
    )
    with pytest.raises(DataError, match="--repeats: must be from 1 to 1000, got 0"), sets.gathered([folder], repeats=0):
        pass


def entry(name: str, *, mode: int = 0, flags: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.flag_bits = mode << 16, flags
    return info


@pytest.mark.parametrize(
    ("info", "rule"),
    [
        (entry("../out.png"), "leads out of the folder"),
        (entry("a/../../out.png"), "leads out of the folder"),
        (entry("/etc/out.png"), "leads out of the folder"),
        (entry("C:\\out.png"), "leads out of the folder"),
        (entry("..\\out.png"), "leads out of the folder"),
        (entry("link.png", mode=stat.S_IFLNK | 0o777), "is a link"),
        (entry("/".join("abcdefghij") + ".png"), "too long or too deep"),
        (entry("x" * 300 + ".png"), "too long or too deep"),
    ],
)
def test_what_an_archive_must_not_hold_is_refused_before_anything_is_written(
    tmp_path: Path, info: zipfile.ZipInfo, rule: str
):
    archive, target = tmp_path / "x.zip", tmp_path / "inside" / "deep"
    target.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("good.png", b"x")
        packed.writestr(info, b"x")
    with pytest.raises(DataError, match=rule):
        archives.unpack(archive, target)
    assert not list(target.iterdir()) and {path.name for path in tmp_path.rglob("*")} == {"x.zip", "inside", "deep"}


def test_an_archive_that_is_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.png", bytes(3_000_000))
    target = tmp_path / "inside"
    target.mkdir()
    with pytest.raises(DataError, match="times as long as it is packed"):
        archives.unpack(bomb, target)
    many = tmp_path / "many.zip"
    with zipfile.ZipFile(many, "w") as packed:
        for number in range(12):
            packed.writestr(f"{number}.png", b"0123456789")
    monkeypatch.setattr(archives, "MOST_FILES", 10)
    with pytest.raises(DataError, match="holds 12 files; at most 10 are unpacked"):
        archives.unpack(many, target)
    monkeypatch.setattr(archives, "MOST_FILES", 100)
    monkeypatch.setattr(archives, "LARGEST", 100)
    with pytest.raises(DataError, match=r"becomes 0\.0 GB; at most"):
        archives.unpack(many, target)
    assert not list(target.iterdir())


def test_damaged_archives_are_refused_and_nothing_leaves_the_folder(folder: Path, tmp_path: Path):
    saved_from("cups", folder)
    whole = sets.export("cups", tmp_path / "whole.zip").read_bytes()
    draw = random.Random(1)
    outcomes = set()
    for number in range(150):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 3, 20))):
            # The names and lengths at the end, more often than the pixels before.
            place = draw.randrange(len(content) - 700, len(content)) if number % 3 else draw.randrange(len(content))
            content[place] = draw.randrange(256)
        place = tmp_path / "fuzz" / f"{number}"
        (place / "inside").mkdir(parents=True)
        (place / "a.zip").write_bytes(content[: draw.randrange(len(content))] if number % 10 == 0 else content)
        try:
            archives.unpack(place / "a.zip", place / "inside")
            outcomes.add("unpacked")
        except DataError:
            outcomes.add("refused")
        assert {path.name for path in place.iterdir()} == {"a.zip", "inside"}
    assert outcomes == {"unpacked", "refused"}


def test_an_archive_that_lies_about_lengths_or_names_a_file_twice(tmp_path: Path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.png", b"x" * 5000)
    raw = content.getvalue().replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little"))
    (tmp_path / "lies.zip").write_bytes(raw)
    (tmp_path / "inside").mkdir()
    with pytest.raises(DataError, match="is damaged or no zip file"):
        archives.unpack(tmp_path / "lies.zip", tmp_path / "inside")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as packed:
        packed.writestr("a.png", b"1")
        packed.writestr("A.png", b"2")
    with pytest.raises(DataError, match="is in it twice"):
        archives.unpack(tmp_path / "twice.zip", tmp_path / "inside")


def test_captions_are_edited_as_the_next_version(folder: Path, capsys: pytest.CaptureFixture[str]):
    saved_from("cups", folder)

    def edited(*options: str, code: int = 0) -> str:
        assert main(["datasets", "edit", "cups", *options]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert edited("--find", "a", "--replace", "the", "--whole-words", "--prefix", "sks,") == (
        "--find: 2 of 3 captions changed\n--prefix: 3 of 3 captions changed\n"
        "cups: version 2, 3 pictures. Train with data.instance=set:cups\n"
    )
    assert [p.caption for p in sets.read("cups")] == ["sks, an the", "sks, the b", "sks"]
    first = [(p.caption, p.repeats, p.weight) for p in sets.read("cups", 1)]
    assert first == [("an a", 2, 1), ("a b", 1, 3), ("", 1, 1)]
    assert "no version is made" in edited("--prefix", "sks,") and datasets.find("cups").versions == (1, 2)
    assert main(["datasets", "edit", "cups@1", "--caption", "a cup", "--trigger", "sks", "--only-empty"]) == 0
    assert [(p.caption, p.repeats) for p in sets.read("cups")] == [("an a", 2), ("a b", 1), ("sks, a cup", 1)]
    assert main(["datasets", "show", "cups", "--tags"]) == 0
    assert "     1 a cup" in capsys.readouterr().out
    assert "give both" in edited("--find", "x", code=1) and "say what to change" in edited(code=1)
    assert "which is not given" in edited("--regex", "--prefix", "x", code=1)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def said(*arguments: str, code: int = 0) -> str:
        assert main(["datasets", *arguments]) == code
        captured = capsys.readouterr()
        return captured.out + captured.err

    assert said() == ""
    assert said("save", "cups", str(folder)) == "cups: version 1, 3 pictures. Train with data.instance=set:cups\n"
    assert "version 2, 4 pictures" in said("save", "cups", str(noise(tmp_path / "d.png")), "--add", "--repeats", "5")
    assert "cups" in said() and "version 2" in said() and "4 pictures" in said()
    shown = said("show", "cups")
    assert "d.png" in shown and "64 x 48, 5 repeats" in shown and "(no caption)" in shown
    assert "weight 3, mask b.png" in shown and "2 repeats, frame 0.333 0 1 1" in shown
    assert "d.png" not in said("show", "set:cups@1")
    archive = tmp_path / "cups.zip"
    assert said("export", "cups@1", "--out", str(archive)) == f"{archive}\n"
    values = {"data.instance": "set:cups", "data.prompt": "x", "data.resolution": 64}
    run = runs.create(presets.build({}, values), "run")
    assert f"unfinished runs learn from it: {run.name}" in said("rename", "cups", "mugs", code=1)
    assert "or give --force" in said("delete", "cups", code=1)
    assert said("delete", "cups", "--force") == "" and said() == ""
    assert "there is no such data set" in said("show", "cups", code=1)
    assert said("save", "mugs", str(archive)).startswith("mugs: version 1, 3 pictures.")
    assert said("rename", "mugs", "pots") == "" and "pots" in said()
    save(tmp_path / "x.png")
    assert "name must be of letters" in said("save", "a/b", str(tmp_path / "x.png"), code=1)
