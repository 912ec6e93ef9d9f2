"""Files of conversations and texts: what is read, and what is said about everything else."""

from __future__ import annotations

import json

import pytest

from lowrank_diffusion.errors import DataError
from lowrank_diffusion.text.rows import SHOWN, Message, Row, read

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
TURNS = (Message("user", "Hi"), Message("assistant", "Hello"))


def write(folder, *lines, name="a.jsonl"):
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def problems(path) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("item", "messages"),
    [
        (CHAT, TURNS),
        ({"id": 7, "source": "x", "tools": [], **CHAT}, TURNS),
        ({"messages": [{"role": "system", "content": ""}, *CHAT["messages"]]}, (Message("system", ""), *TURNS)),
        ({"prompt": "Hi", "completion": "Hello"}, TURNS),
        ({"system": "Be brief.", "prompt": "Hi", "completion": "Hello"}, (Message("system", "Be brief."), *TURNS)),
        ({"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, TURNS),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, TURNS),
        ({"instruction": "Hi", "output": "Hello"}, TURNS),
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            (Message("user", "Add\n\n1 2"), Message("assistant", "3")),
        ),
    ],
)
def test_formats_of_conversations(tmp_path, item, messages):
    assert read(write(tmp_path, item)) == [Row(1, messages)]
    assert read(write(tmp_path, json.dumps([item]), name="a.json")) == [Row(1, messages)]


def test_plain_text(tmp_path):
    assert read(write(tmp_path, {"text": " once\nupon "})) == [Row(1, text=" once\nupon ")]
    assert read(write(tmp_path, "one", "", "two", name="a.TXT")) == [Row(1, text="one\n\ntwo")]


def test_empty_lines_a_byte_order_mark_and_strange_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two \xe2\x80\xa8 lines"}\n')
    assert [(row.line, row.text) for row in read(path)] == [(1, "one"), (3, "two \u2028 lines")]


def turn(role="user", content="x"):
    return {"messages": [{"role": role, "content": content}, {"role": "assistant", "content": "y"}]}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ('{"text": "a"', "is not valid JSON (Expecting ',' delimiter: line 1 column 13 (char 12)). Put one complete"),
        ("[" * 100_000, "is not valid JSON (maximum recursion"),
        ("[1]", 'must be an object like {"messages": [...]}, got a list.'),
        ({}, "has only the fields (none); expected those of messages, prompt/completion, instruction/output, text."),
        ({"question": "a", "answer": "b"}, "has only the fields question, answer; expected those of messages,"),
        ({**CHAT, "text": "a"}, "has the fields of several formats (messages and text); keep one of"),
        ({"text": "  "}, "text is empty. Write its text, or remove the row."),
        ({"text": None}, "text must be text, got nothing."),
        ({"text": "\ud83d"}, "text holds '\\ud83d', half of a character. Write the whole character."),
        ({"prompt": "a"}, "lacks the field completion."),
        ({"prompt": "a", "completion": ""}, "completion is empty."),
        (
            {"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]},
            "prompt must be a list of one or more",
        ),
        ({"instruction": "a", "output": 3}, "output must be text, got 3."),
        ({"messages": []}, "messages must be a list of one or more messages, got an empty list."),
        ({"messages": "Hi"}, 'messages must be a list of one or more messages, got "Hi".'),
        ({"messages": ["Hi"]}, 'messages[0] must be an object like {"role": "user", "content": "..."}, got "Hi".'),
        ({"messages": [{"content": "a"}]}, "messages[0] lacks the field role. Give one of system, user, assistant."),
        (turn(role="gpt"), "messages[0].role must be one of system, user, assistant, got 'gpt'."),
        (turn(role=["user"]), "messages[0].role must be one of system, user, assistant, got ['user']."),
        (turn(content=" "), "messages[0].content is empty."),
        (turn(content=None), "messages[0].content must be text, got nothing."),
        (turn(content=[{"type": "text", "text": "a"}]), "messages[0].content must be text, got a list."),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages[0].content is empty."),
        ({"messages": [{"role": "user", "content": "a"}]}, "has no assistant turn, so there is nothing to learn."),
        ({"conversations": [{"from": "human", "value": "a"}]}, "the field conversations is ShareGPT's name. Rename it"),
        ({**CHAT, "tools": [{}]}, "the field tools (tool use) is not supported."),
    ],
)
def test_a_row_that_cannot_be_learnt(tmp_path, item, message):
    (problem,) = problems(write(tmp_path, {"text": "fine"}, item))
    assert problem.startswith(f", line 2: {message}")


def test_all_problems_come_at_once_but_not_without_end(tmp_path):
    path = write(tmp_path, {"messages": [{"role": "x", "content": ""}, 3]}, CHAT, "nonsense")
    assert [problem[:20] for problem in problems(path)] == [", line 1: messages[0"] * 2 + [
        ", line 1: messages[1", ", line 3: is not val"
    ]  # fmt: skip
    found = problems(write(tmp_path, *["{}"] * (SHOWN + 5)))
    assert len(found) == SHOWN + 1 and found[-1] == "... and 5 more problems of this kind."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b", ": ends in .csv. Give a file that ends in .jsonl, .json, .txt."),
        ("a", b"a", ": ends in nothing. Give a file"),
        ("a.jsonl", b" \n", ": is empty. Add at least one row."),
        ("a.json", b"[]", ": has no rows."),
        ("a.json", b'{"text": "a"}', ": must hold a list of objects, got an object."),
        (
            "a.json",
            b'{"text": "a"}\n{"text": "b"}',
            ": is not valid JSON (Extra data: line 2 column 1 (char 14)). If it",
        ),
        ("a.json", b'[{"text": "a"}, 3]', ", row 2: must be an object"),
        ("a.txt", "schön".encode("latin-1"), ": is not UTF-8 text. Save it with the encoding UTF-8."),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16-le"), ": is not UTF-8 text."),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    (problem,) = problems(path)
    assert problem.startswith(message)


def test_a_path_that_is_none(tmp_path):
    assert problems(tmp_path)[0].startswith(": is a folder. Give a file that ends in")
    assert problems(tmp_path / "gone.jsonl") == [": cannot be read (No such file or directory). Check the path."]
