"""Folders of pictures: reading one with all its problems at once, and writing one whole or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import features

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.data import DataError, Picture, scan, survey, write_set

from .picture_files import BLUE, noise, problems, save


def test_pictures_come_sorted_with_their_sizes_and_the_prompt_as_caption(tmp_path):
    save(tmp_path / "b.png", (40, 30))
    save(tmp_path / "a.JPG", (20, 30))
    save(tmp_path / "c.webp", (16, 16))
    assert scan(tmp_path, "  a thing\n of mine ") == [
        Picture(tmp_path / "a.JPG", "a thing of mine", 20, 30),
        Picture(tmp_path / "b.png", "a thing of mine", 40, 30),
        Picture(tmp_path / "c.webp", "a thing of mine", 16, 16),
    ]


def test_a_folder_that_is_missing_or_a_file(tmp_path):
    assert problems(tmp_path / "gone") == [
        f"{tmp_path / 'gone'}: does not exist. Check the path; a link may point to something that has gone."
    ]
    path = save(tmp_path / "a.png")
    assert "is a file. Give the folder" in problems(path)[0]


def test_an_empty_folder_says_which_formats_are_read(tmp_path):
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (message,) = problems(tmp_path)
    for name in ("png", "jpg", "jpeg", "webp", "bmp", "tiff", "gif"):
        assert name in message
    assert ("avif" in message) == features.check("avif")


def test_a_folder_of_folders_says_so(tmp_path):
    (tmp_path / "one").mkdir()
    assert "only a sub-folder" in problems(tmp_path)[0]
    (tmp_path / "two.png").mkdir()
    assert "only 2 sub-folders" in problems(tmp_path)[0]


def test_pictures_are_told_by_their_content_and_everything_else_is_named(tmp_path):
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("c.jpg_large", "JPEG"), ("d", "PNG"), ("e.dat", "WEBP")):
        save(tmp_path / name, format=kind)
    save(tmp_path / "f.png", format="JPEG")
    save(tmp_path / "g.psd", format="PNG")
    (tmp_path / "notes.md").write_text("hello")
    (tmp_path / "cache.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "inner").mkdir()
    save(tmp_path / "inner" / "h.png")
    (tmp_path / "empty").mkdir()
    found = survey(tmp_path, "x")
    names = [picture.path.name for picture in found.pictures]
    assert names == ["a.jfif", "b.jpe", "c.jpg_large", "d", "e.dat", "f.png", "g.psd"]
    assert found.notes == [
        "Left out, as they are not pictures: cache.npz, notes.md.",
        "Pictures in sub-folders are left out: inner (1).",
    ]


def test_raw_pictures_and_others_that_cannot_be_read_are_refused_whatever_they_are_called(tmp_path):
    save(tmp_path / "a.nef", format="TIFF")
    (tmp_path / "b.jpg2").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(30))
    found = problems(tmp_path)
    assert len(found) == 3 and "has no pictures" in found[0]
    assert "a.nef: cannot be read" in found[1] and "b.jpg2: is a HEIC/HEIF" in found[2]


def test_hidden_files_and_sub_folders_are_not_looked_at(tmp_path):
    save(tmp_path / "a.png")
    for name in (".DS_Store", "._a.png", ".b.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"\x00\x01")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "bad.png").write_bytes(b"bad")
    assert [picture.path.name for picture in scan(tmp_path, "x")] == ["a.png"]


def test_all_problems_come_at_once_each_with_its_file(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    save(tmp_path / "tiny.png", (15, 40))
    (tmp_path / "lost.txt").write_text("a caption")
    (tmp_path / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    found = problems(tmp_path)
    assert len(found) == 5
    for name in ("empty.png", "text.jpg", "tiny.png", "lost.txt", "phone.heic"):
        assert sum(str(tmp_path / name) in line for line in found) == 1
    with pytest.raises(UserError) as caught:
        scan(tmp_path, "x")
    assert str(caught.value) == "\n".join(found)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_files_and_folders_that_may_not_be_read():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        secret = save(folder / "a.png")
        (folder / "a.txt").write_text("caption")
        locked = folder / "locked"
        locked.mkdir()
        for path in (secret, folder / "a.txt", locked):
            path.chmod(0)
        with as_nobody():
            found = problems(folder)
            found += problems(locked)
        assert [line.split(": ")[0] for line in found] == [str(folder / "a.txt"), str(secret), str(locked)]
        assert all("permission denied" in line for line in found)


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert "a.png: does not exist" in problems(tmp_path)[0]


def test_files_that_people_take_for_pictures_are_named(tmp_path):
    save(tmp_path / "a.png")
    for name in ("b.psd", "c.MOV", "a.caption"):
        (tmp_path / name).write_bytes(b"x")
    found = problems(tmp_path)
    assert len(found) == 3
    assert any("a.caption: is not looked at. Give captions the ending .txt." in line for line in found)


def test_a_written_set_is_read_back_the_same(tmp_path):
    odd = save(tmp_path / "my cup: (1).png", (30, 40))
    (tmp_path / "other").mkdir()
    twin = save(tmp_path / "other" / "My-Cup-1.png", colour=BLUE)
    named_wrong = save(tmp_path / "photo.png", format="JPEG")
    items = [(odd, "a red\n cup"), (twin, "a blue cup"), (named_wrong, "a täglich cup"), (odd, "again")]
    folder = tmp_path / "runs" / "set"
    assert write_set(folder, items) == folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "My-Cup-1-2.png", "My-Cup-1-2.txt", "my-cup-1-3.png", "my-cup-1-3.txt",
        "my-cup-1.png", "my-cup-1.txt", "photo.jpg", "photo.txt",
    ]  # fmt: skip
    found = {picture.path.name: picture for picture in scan(folder)}
    assert found["my-cup-1.png"].caption == "a red cup"
    assert found["My-Cup-1-2.png"].caption == "a blue cup"
    assert found["photo.jpg"].caption == "a täglich cup"
    assert found["my-cup-1.png"].path.read_bytes() == odd.read_bytes()
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        (".hidden", "hidden"),
        ("con", "_con"),
        ("NUL.1", "_NUL.1"),
        ("?!", "picture"),
        ("Größe", "Größe"),
        ("x" * 200, "x" * 60),
        ("dog.mask", "dog.mask-1"),
        ("dog-MaskLabel", "dog-MaskLabel-1"),
    ],
)
def test_names_that_would_be_trouble(tmp_path, stem, expected):
    path = save(tmp_path / f"{stem}.png")
    folder = write_set(tmp_path / "set", [(path, "x")])
    assert [picture.path.name for picture in scan(folder)] == [f"{expected}.png"]


def test_a_blank_caption_is_left_to_the_prompt(tmp_path):
    path = save(tmp_path / "a.png")
    folder = tmp_path / "set"
    folder.mkdir()
    write_set(folder, [(path, " ")])
    assert [file.name for file in folder.iterdir()] == ["a.png"]
    assert scan(folder, "a cup")[0].caption == "a cup"


def test_a_set_with_problems_is_not_written(tmp_path):
    good, bad = save(tmp_path / "a.png"), noise(tmp_path / "b.png")
    bad.write_bytes(bad.read_bytes()[:500])
    (tmp_path / "c.png").write_bytes(b"")
    folder = tmp_path / "new" / "set"
    with pytest.raises(DataError) as caught:
        write_set(folder, [(good, "x"), (bad, "y"), (tmp_path / "c.png", "z")])
    assert len(caught.value.problems) == 2
    assert not folder.parent.exists()
    with pytest.raises(DataError, match="there are no pictures"):
        write_set(folder, [])
    with pytest.raises(DataError, match="is not an empty folder"):
        write_set(tmp_path, [(good, "x")])
    with pytest.raises(DataError, match="cannot be written"):
        write_set(good / "set", [(good, "x")])


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    small, large = save(tmp_path / "a.png"), noise(tmp_path / "b.bmp", (200, 200))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DataError) as caught:
            write_set(tmp_path / "sets" / "one", [(small, "x"), (large, "y")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in str(caught.value)
    assert list((tmp_path / "sets").iterdir()) == []


def test_reading_pictures_needs_no_torch():
    code = "import sys, lowrank_diffusion.image.data; print({'torch', 'numpy', 'diffusers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
