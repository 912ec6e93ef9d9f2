"""What comes in with pictures: folders, zip files, tables and masks; what is not taken is named."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ui import picture_files, pictures

Upload = Callable[..., Path]


def mask_file(path: Path, size: tuple[int, int] = (160, 128)) -> bytes:
    Image.new("L", size, 255).save(path)
    return path.read_bytes()


def folder_of(upload: Upload, home: Path) -> list[tuple[str, str]]:
    """As a page sends a folder as kohya's scripts have it, with one broken picture and a stray text in it."""
    mask = mask_file(home / "m.png")
    files = {
        "dogs/10_sks dog/one.png": upload("one.png"),
        "dogs/10_sks dog/two.png": upload("two.png", colour="blue"),
        "dogs/10_sks dog/two.txt": upload("two.txt", b"a blue dog"),
        "dogs/10_sks dog/two.mask.png": upload("two.mask.png", mask),
        "dogs/10_sks dog/broken.png": upload("broken.png", b"no picture"),
        "dogs/10_sks dog/stray.txt": upload("stray.txt", b"whose?"),
        "dogs/10_sks dog/Thumbs.db": upload("Thumbs.db", b"junk"),
    }
    return [(name, str(path)) for name, path in files.items()]


def test_a_numbered_folder_keeps_repeats_words_and_masks(upload: Upload, home: Path) -> None:
    files = folder_of(upload, home)
    items, refused, notes = picture_files.add_tree(files, [])
    assert [(item["name"], item["caption"], item["repeats"]) for item in items] == [
        ("one.png", "sks dog", 10),
        ("two.png", "a blue dog", 10),
    ]
    assert [bool(item["mask"]) for item in items] == [False, True]
    told = "\n".join(refused)
    assert "broken.png: is damaged" in told and "stray.txt: is a caption without its picture" in told
    assert "an epoch sees its 2 pictures 10 times" in notes[0] and str(home) not in told
    again, notes, _ = picture_files.add_tree(files, items)
    assert again == items
    assert any("is in the set already" in note for note in notes)
    assert any("broken.png" in note for note in notes), "what is wrong is said each time"
    assert len(pictures.chosen(items)) == 2


def test_a_numbered_folder_by_itself_keeps_its_repeats(upload: Upload) -> None:
    items, _, _ = picture_files.add_tree([("3_a toy/one.png", str(upload("one.png")))], [])
    assert [(item["caption"], item["repeats"]) for item in items] == [("a toy", 3)]


def test_names_that_lead_out_of_a_folder_are_refused(upload: Upload) -> None:
    path = str(upload("one.png"))
    bad = ["../one.png", "/".join("abcdefghijk"), "a\0b/one.png", "x" * 300 + "/one.png", ""]
    items, notes, _ = picture_files.add_tree([(name, path) for name in bad], [])
    assert items == [] and len(notes) == len(bad)
    items, notes, _ = picture_files.add_tree([("a/one.png", "/etc/passwd")], [])
    assert items == [] and len(notes) == 1


def test_a_zip_file_comes_in_with_its_table(upload: Upload, home: Path) -> None:
    archive = home / "set.zip"
    row = {"file_name": "one.png", "text": "a cat", "repeats": 3, "weight": 0.5, "frame": [0, 0, 0.5, 0.5]}
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(upload("one.png"), "set/one.png")
        packed.writestr("set/metadata.jsonl", json.dumps(row))
        packed.writestr("set/readme.md", "words")
    items, _, notes = picture_files.add([str(upload("set.zip", archive.read_bytes()))], [])
    (item,) = items
    assert (item["caption"], item["repeats"], item["weight"]) == ("a cat", 3, 0.5)
    assert item["frame"] == [0, 0, 0.5, 0.5]
    assert any("readme.md" in note for note in notes)


def test_a_zip_file_that_leads_out_is_refused(upload: Upload, home: Path) -> None:
    archive = home / "bad.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../out.png", b"x")
    items, notes, _ = picture_files.add([str(upload("bad.zip", archive.read_bytes()))], [])
    assert items == [] and "leads out" in notes[0]


def test_loose_masks_and_tables_find_pictures_that_are_there(upload: Upload, home: Path) -> None:
    items, _, _ = picture_files.add([str(upload("cat.png")), str(upload("dog.png", colour="blue"))], [])
    table = b"file_name,text,repeats\ncat.png,a cat,2\ncow.png,a cow,1\n"
    beside = [
        upload("metadata.csv", table),
        upload("dog.mask.png", mask_file(home / "good.png")),
        upload("cat-masklabel.png", mask_file(home / "bad.png", (50, 128))),
        upload("cow.mask.png", mask_file(home / "cow.png")),
    ]
    items, notes, _ = picture_files.add([str(path) for path in beside], items)
    cat, dog = items
    assert (cat["caption"], cat["repeats"], cat["mask"]) == ("a cat", 2, "")
    assert dog["mask"] == str(beside[1])
    assert len(notes) == 3
    assert "names a missing picture: 'cow.png'" in notes[0]
    assert "is a mask of 50 x 128 px for a picture of 160 x 128 px" in notes[1]
    assert "is a mask without its picture" in notes[2]


def test_hundreds_of_pictures_come_in_once(upload: Upload) -> None:
    files = [("many/" + f"{number}.png", str(upload(f"{number}.png"))) for number in range(300)]
    items, _, _ = picture_files.add_tree(files, [])
    assert len(items) == 300
    assert len(json.dumps(items)) < 400_000, "the page holds addresses, not pictures"
