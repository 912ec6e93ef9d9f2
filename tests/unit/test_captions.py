"""Captions from tables and text files, and all that can be wrong with them."""

from __future__ import annotations

import json

import pytest

from lowrank_diffusion.image.data import scan

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
    (message,) = problems(tmp_path)
    assert message == f"{tmp_path / 'a.jpg'}: would share a.txt with a.png. Rename all but one."
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
