from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ui import picture_files, pictures, safe

Upload = Callable[..., Path]


def test_good_pictures_are_kept_and_each_bad_file_is_named(upload: Upload) -> None:
    good, bad = upload("cat.png"), upload("broken.png", b"not a picture")
    cut = upload("cut.png", Path(upload("whole.png")).read_bytes()[:60])
    items, refused, _ = picture_files.add([str(good), str(bad), str(cut)], [])
    assert [item["name"] for item in items] == ["cat.png"]
    assert (items[0]["width"], items[0]["height"]) == (160, 128)
    assert [line.split(":")[0] for line in refused] == ["broken.png", "cut.png"]
    assert all(str(bad.parent.parent) not in line for line in refused)


def test_texts_become_captions_by_name_even_when_they_come_later(upload: Upload) -> None:
    items, _, _ = picture_files.add([str(upload("cat.png")), str(upload("dog.png", colour="blue"))], [])
    texts = [
        upload("dog.txt", b"a dog,\n running"),
        upload("cow.txt", b"a cow"),
        upload("cat.txt", b"\xff\xfe\xff"),
    ]
    items, refused, _ = picture_files.add([str(text) for text in texts], items)
    assert {item["name"]: item["caption"] for item in items} == {"cat.png": "", "dog.png": "a dog, running"}
    assert len(refused) == 2
    assert "cow.txt: is a caption without its picture" in refused[0]
    assert "UTF-8" in refused[1]


def test_a_text_belongs_to_one_picture_as_in_a_folder(upload: Upload) -> None:
    files = [upload("cat.png"), upload("cat.jpg", colour="blue"), upload("Dog.png", colour="green")]
    texts = [upload("cat.png.txt", b"a red cat"), upload("cat.txt", b"whose?"), upload("dog.txt", b"a dog")]
    items, refused, _ = picture_files.add([str(file) for file in [*files, *texts]], [])
    assert [item["caption"] for item in items] == ["a red cat", "", ""]
    assert refused[0].startswith("cat.txt: could be the caption of cat.png or cat.jpg. Call it cat.png.txt")
    assert refused[1].startswith("dog.txt: differs from Dog.png in capital letters")


def test_the_same_upload_is_not_taken_twice(upload: Upload) -> None:
    path = str(upload("cat.png"))
    items, _, _ = picture_files.add([path], [])
    again, refused, _ = picture_files.add([path], items)
    assert again == items
    assert "already" in refused[0]


def test_a_thumbnail_is_small_and_in_the_folder_pages_may_load(upload: Upload, uploads: Path) -> None:
    path = uploads / "large.png"
    Image.new("RGB", (1600, 900), "green").save(path)
    pictures.of_path(path)
    (thumbnail,) = safe.thumbnails_folder().iterdir()
    assert str(thumbnail.parent) in safe.served_folders()
    with Image.open(thumbnail) as image:
        assert max(image.size) == pictures.THUMBNAIL_SIDE


def test_a_file_outside_the_uploads_is_refused(home: Path) -> None:
    secret = home / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    items, refused, _ = picture_files.add([str(secret), "/etc/passwd", "/nowhere/x.png"], [])
    assert items == []
    assert len(refused) == 3
    forged = {"path": str(secret), "name": "x", "caption": "", "thumb": "", "note": ""}
    with pytest.raises(safe.RefusedError):
        pictures.chosen([forged])


def test_a_link_out_of_the_uploads_is_refused(home: Path, uploads: Path) -> None:
    secret = home / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    link = uploads / "link.png"
    link.symlink_to(secret)
    _, refused, _ = picture_files.add([str(link)], [])
    assert len(refused) == 1


def test_after_a_reload_what_is_gone_or_foreign_is_dropped(upload: Upload, home: Path) -> None:
    items, _, _ = picture_files.add([str(upload("cat.png")), str(upload("dog.png", colour="blue"))], [])
    items[0]["caption"] = "mine"
    secret = home / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    Path(items[1]["path"]).unlink()
    kept = pictures.restored([*items, items[0] | {"path": str(secret)}])
    assert [(item["name"], item["caption"]) for item in kept] == [("cat.png", "mine")]


@pytest.mark.parametrize("value", [None, "text", 5, [1, "a", None], [{"path": 5}], {"path": "x"}])
def test_a_grid_of_another_shape_is_no_pictures(value: object) -> None:
    assert pictures.chosen(value) == []


def test_the_example_sets_load_with_captions() -> None:
    folders = pictures.example_sets()
    assert {folder.name for folder in folders} >= {"style-3d-icons", "subject-cat"}
    for folder in folders:
        items = pictures.example(folder.name)
        assert len(pictures.chosen(items)) >= 5
        assert all(item["caption"] for item in items)


@pytest.mark.parametrize("name", ["../base", "..", "/etc", "no-such-set"])
def test_an_example_is_only_ever_read_from_its_folder(name: str) -> None:
    with pytest.raises(safe.RefusedError):
        pictures.example(name)


@pytest.mark.parametrize("kept", ["", "{", 7, [{"path": 1}], None, [1], [{"path": "\0", "name": "", "caption": ""}]])
def test_what_a_page_remembers_wrongly_is_no_picture(kept: object) -> None:
    assert pictures.restored(kept) == []
