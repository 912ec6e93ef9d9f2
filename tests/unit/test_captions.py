"""Captions from tables and text files, and all that can be wrong with them."""

from __future__ import annotations

import json
import os

import pytest

from lowrank_diffusion.image.data import scan, survey

from .picture_files import problems, save


def test_a_text_beside_a_picture_is_its_caption(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfeine sch\xc3\xb6ne\r\nTasse \r\n")
    (tmp_path / "b.txt").write_text("  \n")
    assert [picture.caption for picture in scan(tmp_path, "a cup")] == ["eine schöne Tasse", "a cup", "a cup"]


def test_pictures_without_any_caption(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    assert "none of its pictures has a caption" in problems(tmp_path, "")[0]
    (tmp_path / "a.txt").write_text("a cup")
    (message,) = problems(tmp_path, " ")
    assert message.startswith(f"{tmp_path / 'b.png'}: has no caption. Write one into b.txt")
    (tmp_path / "b.txt").write_text("")
    assert problems(tmp_path, "")[0].startswith(f"{tmp_path / 'b.png'}: has no caption")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_caption_in_another_encoding(tmp_path, encoding):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("schöne Tasse".encode(encoding))
    assert problems(tmp_path) == [f"{tmp_path / 'a.txt'}: is not UTF-8 text. Save it with the encoding UTF-8."]
    assert len(problems(tmp_path, "")) == 1


def test_a_caption_without_its_picture(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("a cup")
    (message,) = problems(tmp_path)
    assert message.startswith(f"{tmp_path / 'b.txt'}: is a caption without its picture")


def test_pictures_that_would_share_a_caption_file(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "a.jpg")
    assert [picture.caption for picture in scan(tmp_path, "one for all")] == ["one for all"] * 2
    text = tmp_path / "a.txt"
    text.write_text("whose?")
    (message,) = problems(tmp_path)
    assert message.startswith(f"{text}: could be the caption of a.jpg or a.png. Call it a.jpg.txt, or rename")
    text.rename(tmp_path / "a.jpg.txt")
    assert [picture.caption for picture in scan(tmp_path, "the rest")] == ["whose?", "the rest"]
    (tmp_path / "a.jpg.txt").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\na.jpg,two\n")
    assert [picture.caption for picture in scan(tmp_path)] == ["two", "one"]


TABLES = {
    "metadata.csv": "file_name,text\na.png,red cup\nb.png,blue cup\n",
    "captions.csv": "\ufeffCaption;File_Name;n\r\nred cup;a.png;1\r\nblue cup;b.png;2\r\n",
    "Metadata.CSV": 'file,prompt\n./a.png,"red\ncup"\nb,"blue cup"\n',
    "captions.jsonl": '{"image": "a", "caption": "red  cup", "n": 1}\n\n{"image": "b.png", "caption": "blue cup"}',
    "metadata.jsonl": '{"file_name": "b.png", "text": "blue cup"}\r\n{"file_name": "a.png", "text": "red cup"}\r\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_the_captions(tmp_path, name):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / name).write_bytes(TABLES[name].encode())
    assert [picture.caption for picture in scan(tmp_path)] == ["red cup", "blue cup"]


BAD_ROWS = {
    "names a missing picture: 'c.png'": "file_name,text\na.png,x\nb.png,y\nc.png,z\n",
    "line 3: names a.png a second time": "file_name,text\na.png,x\na.png,y\nb.png,z\n",
    "first line: lacks a column of file_name": "name,text\na.png,x\n",
    "first line: lacks a column of text": "file_name,words\na.png,x\n",
    "has the columns text and caption; keep one": "file_name,text,caption\na.png,x,y\n",
    "has more fields than the first line": "file_name,text\na.png,a cup, red\nb.png,y\n",
    "text must be text, got None": "file_name,text\na.png\nb.png,y\n",
    "is not valid CSV": 'file_name,text\na.png,"x" y\n',
    "has no rows": "file_name,text\n",
    "b.png: has no caption in metadata.csv": "file_name,text\na.png,x\n",
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_what_can_be_wrong_with_a_csv(tmp_path, message):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text(BAD_ROWS[message])
    (found,) = problems(tmp_path, "")
    assert message in found
    assert str(tmp_path) in found


def test_what_can_be_wrong_with_a_jsonl(tmp_path):
    save(tmp_path / "a.png")
    rows = ["{bad", "[1]", '{"text": "x"}', '{"file_name": "a.png", "text": 3}', '{"file_name": "a.png", "text": "x"}']
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    found = problems(tmp_path, "")
    table = tmp_path / "captions.jsonl"
    assert [line.split(": ")[0] for line in found] == [f"{table}, line {number}" for number in (1, 2, 3, 4)]
    assert "is not valid JSON" in found[0]
    assert "must be an object" in found[1]
    table.write_bytes('{"file_name": "a.png", "text": "ö"}'.encode("latin-1"))
    assert "is not UTF-8" in problems(tmp_path)[0]


def test_a_prompt_stands_in_for_rows_that_are_not_there(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "red cup"}))
    assert [picture.caption for picture in scan(tmp_path, "a cup")] == ["red cup", "a cup"]


def test_a_name_without_ending_must_mean_one_picture(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "a.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,text\na,x\n")
    assert "several pictures" in problems(tmp_path)[0]


def test_two_sources_of_captions_are_an_error(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\n")
    (tmp_path / "a.txt").write_text("y")
    (message,) = problems(tmp_path)
    assert "Remove metadata.csv to use the .txt files, or the .txt files to use the table" in message
    (tmp_path / "a.txt").unlink()
    (tmp_path / "captions.jsonl").write_text("")
    (message,) = problems(tmp_path)
    assert "captions.jsonl and metadata.csv. Keep one" in message


def test_captions_called_as_the_whole_file_is(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.png.txt").write_text("a red cup")
    assert [picture.caption for picture in scan(tmp_path)] == ["a red cup"]
    (tmp_path / "a.txt").write_text("a blue cup")
    (message,) = problems(tmp_path)
    assert "is a second caption of a.png. Keep one of its .txt files." in message


def test_a_table_names_pictures_of_sub_folders_and_none_outside(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    save(tmp_path / "set" / "images" / "a.png")
    save(tmp_path / "set" / "images" / "extra.png")
    save(tmp_path / "outside.png")
    table = tmp_path / "set" / "metadata.jsonl"
    table.write_text('{"file_name": "images/a.png", "text": "a cup", "width": 24}')
    found = survey(tmp_path / "set")
    assert [(picture.path.name, picture.caption) for picture in found.pictures] == [("a.png", "a cup")]
    assert found.notes == [
        "Left out of images, as the table does not name them: extra.png.",
        "Columns of the table that are not looked at: width (1 rows).",
    ]
    for name in ("../outside.png", str(tmp_path / "outside.png"), "images/../../outside.png", "images/gone.png"):
        table.write_text(json.dumps({"file_name": name, "text": "x"}))
        assert any("names a missing picture" in message for message in problems(tmp_path / "set", ""))


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ({"file_name": "a.png", "text": "x", "caption": None, "prompt": None, "image": None}, "x"),
        ({"file_name": "a.png", "text": None, "caption": "x", "label": None, "weight": None}, "x"),
        ({"file_name": "a.png", "text": None}, "for all"),
    ],
)
def test_columns_of_a_table_that_are_null_are_not_there(tmp_path, row, caption):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert [picture.caption for picture in scan(tmp_path, "for all")] == [caption]


@pytest.mark.parametrize(
    ("picture", "text"),
    [("\u00e9.png", "e\u0301.txt"), ("e\u0301.png", "\u00e9.txt"), ("e\u0301.png", "\u00e9.PNG.txt")],
)
def test_accents_in_either_form_are_one_name(tmp_path, picture, text):
    save(tmp_path / picture)
    (tmp_path / text).write_text("a cup")
    if "PNG" in text:
        assert "differs from e\u0301.png in capital letters. Call it e\u0301.txt" in problems(tmp_path)[0]
        return
    assert [found.caption for found in scan(tmp_path)] == ["a cup"]
    (tmp_path / text).unlink()
    (tmp_path / "metadata.csv").write_text(f"file_name,text\n{text.removesuffix('.txt')},a red cup\n")
    assert [found.caption for found in scan(tmp_path)] == ["a red cup"]


@pytest.mark.parametrize("label", ["False", "false", "FALSE "])
def test_a_label_of_a_table_that_is_false_leaves_out_and_a_class_does_not(tmp_path, label):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,text,label\na.png,x,{label}\nb.png,y,True\n")
    found = survey(tmp_path)
    assert [picture.path.name for picture in found.pictures] == ["b.png"]
    assert found.notes == ["1 pictures are left out, as the table asks for: a.png."]
    (tmp_path / "metadata.csv").write_text("file_name,text,label\na.png,x,0\nb.png,y,cat\n")
    assert survey(tmp_path).notes == ["Columns of the table that are not looked at: label (2 rows)."]


def test_a_row_of_a_table_that_says_its_picture_is_not_to_be_learnt(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text,train\na.png,one,yes\nb.png,two,no\n")
    found = survey(tmp_path)
    assert [picture.path.name for picture in found.pictures] == ["a.png"]
    assert found.notes == ["1 pictures are left out, as the table asks for: b.png."]


def test_a_caption_file_that_is_a_pipe_a_device_huge_or_a_link_out_of_the_set(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "abcd":
        save(folder / f"{name}.png")
    os.mkfifo(folder / "a.txt")
    (folder / "b.txt").symlink_to("/dev/zero")
    (folder / "c.txt").write_bytes(b"x" * 1_000_001)
    (tmp_path / "secret").write_text("a secret")
    (folder / "d.txt").symlink_to(tmp_path / "secret")
    reasons = (
        "is not a regular file",
        "is a link to a file outside",
        "at most 1 MB are read",
        "is a link to a file outside",
    )
    for message, reason in zip(problems(folder), reasons, strict=True):
        assert reason in message and "a secret" not in message


def test_an_empty_caption_gets_the_prompt_and_is_named(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(" \n")
    found = survey(tmp_path, "a cup")
    assert found.pictures[0].caption == "a cup"
    assert found.notes == ["1 captions are empty, and data.prompt stands in for them: a.png."]
