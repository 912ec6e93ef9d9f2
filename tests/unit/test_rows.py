"""Files of conversations and texts: what is read, and what is said about everything else."""

from __future__ import annotations

import json

import pytest

from lowrank_diffusion.errors import SHOWN, DataError
from lowrank_diffusion.text.rows import Message, Row, read, survey

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
        ({"instruction": "Hi", "input": None, "output": "Hello", "text": "Below is an instruction..."}, TURNS),
        ({"prompt": "Hi", "prompt_id": "f3", **CHAT}, TURNS),
        ({"text": None, "completion": None, **CHAT}, TURNS),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, TURNS),
        ({"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, TURNS),
        (
            {
                "system": "Be brief.",
                "conversations": [{"from": "user", "value": "Hi"}, {"from": "chatgpt", "value": "Hello"}],
            },
            (Message("system", "Be brief."), *TURNS),
        ),
        ({"system": "Be brief.", **CHAT}, (Message("system", "Be brief."), *TURNS)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, CHAT["messages"][1]]}, TURNS),
        ({"messages": [{"role": "developer", "content": "X"}, *CHAT["messages"]]}, (Message("system", "X"), *TURNS)),
        ({"messages": [{**CHAT["messages"][0], "tool_calls": None}, CHAT["messages"][1]]}, TURNS),
        ({"label": True, "weight": 1, **CHAT}, TURNS),
        ({"label": None, "weight": None, "tools": None, "chosen": None, "history": None, **CHAT}, TURNS),
        ({"conversations": [{"from": "Human", "value": "Hi"}, {"from": "GPT", "value": "Hello"}]}, TURNS),
        (
            {
                "conversations": [
                    {"from": "system", "value": "X"},
                    {"from": "human", "value": "Hi", "weight": None},
                    {"from": "gpt", "value": "Hello", "html": None},
                ],
                "system": None,
            },
            (Message("system", "X"), *TURNS),
        ),
        (
            {"system": "Be brief.", "prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]},
            (Message("system", "Be brief."), *TURNS),
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
        ({}, "has only the fields (none); expected those of messages, conversations, prompt/completion,"),
        ({"question": "a", "answer": "b"}, "has only the fields question, answer; expected those of messages,"),
        (
            {**CHAT, "instruction": "a", "output": "b"},
            "has the fields of several formats (messages and instruction/output); keep one of",
        ),
        ({"text": "  "}, "text is empty. Write its text, or remove the row."),
        ({"text": None}, "has only the fields (none); expected"),
        ({"text": ["a"]}, "text must be text, got a list."),
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
        (turn(role="tool"), 'messages[0].role must be one of system, user, assistant, got "tool".'),
        (turn(role=["user"]), "messages[0].role must be one of system, user, assistant, got a list."),
        (turn(content=" "), "messages[0].content is empty."),
        (turn(content=None), "messages[0].content must be text, got nothing."),
        (turn(content=[{"type": "image", "url": "a"}]), "messages[0].content must be text, got a list."),
        ({"messages": [{"role": "assistant", "content": ""}]}, "messages[0].content is empty."),
        ({"messages": [{"role": "user", "content": "a"}]}, "has no assistant turn, so there is nothing to learn."),
        ({"conversations": [{"from": "human", "value": "a"}]}, "has no assistant turn, so there is nothing to learn."),
        ({"conversations": [{"from": "observation", "value": "a"}]}, "conversations[0].role must be one of"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]},
            'conversations[1].role must be one of system, user, assistant, got "tool".',
        ),
        (
            {"conversations": [{"from": "narrator", "value": "a"}, {"from": "gpt", "value": "b"}]},
            'conversations[0].role must be one of system, user, assistant, got "narrator".',
        ),
        ({**CHAT, "label": "False"}, "the field label must be true (learn it) or false (leave it out), got 'False'."),
        ({"prompt": "a", "chosen": "b"}, "the field chosen belongs to preference data"),
        ({**CHAT, "weight": 0.5}, "the field weight must be 0 or 1"),
        ({**CHAT, "label": 0}, "the field label must be true (learn it) or false (leave it out), got 0."),
        ({**CHAT, "label": "bad"}, "the field label must be true (learn it) or false (leave it out), got 'bad'."),
        (
            {"messages": [{**CHAT["messages"][1], "train_detail": [{}]}]},
            "messages[0]: the field train_detail marks parts",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
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
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, *["{}"] * (SHOWN + 5)))
    shown = str(caught.value).splitlines()
    assert len(shown) == SHOWN + 1 and shown[-1] == "... and 5 more problems of this kind."
    assert len(caught.value.problems) == SHOWN + 5


def test_a_file_of_nothing_but_problems_is_not_read_to_its_end(tmp_path):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, *["x"] * 100_000))
    assert len(caught.value.problems) == 1001 and "line 1000" in caught.value.problems[-2]


def test_lines_are_counted_whatever_lies_between_them(tmp_path):
    text = "\n\n".join([json.dumps({"text": "a\u2028b"}), "  ", json.dumps({"text": "c"}), "\x85", "x"])
    with pytest.raises(DataError, match="line 9: is not valid JSON"):
        read(write(tmp_path, text))
    assert [row.line for row in read(write(tmp_path, text.removesuffix("x")))] == [1, 5]


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
    for name in ("x" * 5000, "x" * 5000 + ".jsonl", "a\0b", "a\0b.jsonl", "\ud800.jsonl"):
        assert len(problems(tmp_path / name)) == 1
    assert problems(tmp_path / "gone.jsonl") == [
        ": does not exist. Check the path; a link may point to something that has gone."
    ]


@pytest.mark.parametrize(
    "marked",
    [
        {"label": False},
        {"Label": False},
        {"weight": 0},
        {"weight": 0.0},
        {"train": "false"},
        {"skip": True},
        {"exclude": 1},
        {"rejected": True},
        {"metadata": {"use": False}},
        {"is-correct": "no"},
        {"kto_tag": False},
        {"chosen": False},
        {"thumbs_up": False},
        {"thumbs_down": 1},
        {"feedback": "no"},
    ],
)
@pytest.mark.parametrize(
    "item", [CHAT, {"prompt": "a", "completion": "b"}, {"text": "a"}], ids=["chat", "pair", "text"]
)
def test_a_row_that_says_it_is_not_to_be_learnt_is_left_out_by_name(tmp_path, item, marked):
    found = survey(write(tmp_path, CHAT, {**item, **marked}))
    assert [row.line for row in found.rows] == [1]
    (note,) = [note for note in found.notes() if "left out" in note]
    assert note.startswith("1 of 2 rows are left out, as they ask for (") and note.endswith("): 2.")
    assert "leaves" not in note and str(next(iter(marked))) in note


def test_a_file_of_which_no_row_is_to_be_learnt_is_refused(tmp_path):
    (problem,) = problems(write(tmp_path, {**CHAT, "label": False}))
    assert problem.startswith(": all of its rows are left out, as they ask for (label: false).")


def test_answers_that_are_only_to_be_seen_stay_and_are_named(tmp_path):
    seen = {"role": "assistant", "content": "Hello", "weight": 0}
    again = {"role": "assistant", "content": "Bye", "weight": 1}
    found = survey(write(tmp_path, {"messages": [CHAT["messages"][0], seen, CHAT["messages"][0], again]}))
    assert [message.learn for message in found.rows[0].messages] == [True, False, True, True]
    assert found.notes() == ["Some answers of 1 rows are seen and not learnt, as they ask for: 1."]
    found = survey(
        write(
            tmp_path,
            CHAT,
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": False}]},
        )
    )
    assert [row.line for row in found.rows] == [1] and "(no answer is to be learnt): 2" in found.notes()[0]


def test_what_is_not_looked_at_is_named(tmp_path):
    turn = {"role": "user", "content": "a", "name": "Ann", "train": True}
    rows = [{"messages": [turn, CHAT["messages"][1]], "id": 7, "score": 0.5, "tags": []}, {"text": "x", "label": 3}]
    notes = survey(write(tmp_path, *rows)).notes()
    assert any("to be learnt that the assistant does not say: 1." in note for note in notes)
    (fields,) = [note for note in notes if note.startswith("Fields that are not looked at")]
    for name in ("id (1 rows)", "score (1 rows)", "name of a turn (1 rows)", "label (1 rows)"):
        assert name in fields
    assert "tags" not in fields
    unread = {"system": "Other", "prompt": "Other", "reviewed": False}
    (fields,) = survey(
        write(tmp_path, {"messages": [{"role": "system", "content": "X"}, *CHAT["messages"]], **unread})
    ).notes()
    assert fields == "Fields that are not looked at: system (1 rows), prompt (1 rows), reviewed (1 rows)."
    assert survey(write(tmp_path, {"system": "X", **CHAT})).notes() == []
    assert survey(write(tmp_path, CHAT)).notes() == []
