"""A file of conversations or plain text: reading one, and everything that can be wrong with it.

``.jsonl`` has one object on each line, ``.json`` a list of them. An object is one of

* ``{"messages": [{"role": "user", "content": "..."}, ...]}``,
* ``{"prompt": "...", "completion": "..."}``, each a text or a list of messages,
* ``{"instruction": "...", "input": "...", "output": "..."}``, as Alpaca has them; ``input`` may be missing or empty,
* ``{"text": "..."}``: plain text, to which no chat template is applied.

The second and third may have a ``system`` text too. Other fields (an id, a source) are not looked at.
A ``.txt`` file is one plain text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

SUFFIXES = (".jsonl", ".json", ".txt")
ROLES = ("system", "user", "assistant")
SHOWN = 20
"""So many problems are listed; the rest are counted."""

_FORMATS = {
    "messages": ("messages",),
    "prompt/completion": ("prompt", "completion"),
    "instruction/output": ("instruction", "output"),
    "text": ("text",),
}
_ELSEWHERE = {
    "conversations": "is ShareGPT's name. Rename it to messages, and from/value to role/content.",
    "chosen": "belongs to preference data, which cannot be learnt from here. Keep the preferred answers as messages.",
    "tools": "(tool use) is not supported. Remove it, or write the tools into a system message.",
    "functions": "(tool use) is not supported. Remove it, or write the functions into a system message.",
    "history": "is not supported. Put the earlier turns into messages.",
    "images": "is not supported: text only. Remove the row.",
}
"""Fields that would change what a row means, and that are not read."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is one of :data:`ROLES`."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One example: a conversation with ``messages``, or plain ``text``."""

    line: int
    """Number of its line (.jsonl) or of its place in the list (.json), from 1."""
    messages: tuple[Message, ...] = ()
    text: str = ""


class _Invalid(Exception):
    """What is wrong with one row, as ends of sentences that start with where it is."""

    def __init__(self, *problems: str):
        self.problems = problems


def read(path: Path) -> list[Row]:
    """The rows of a file, in its order.

    Raises:
        DataError: with every problem of the file, each with its line and field.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        what = "is a folder" if path.is_dir() else f"ends in {path.suffix or 'nothing'}"
        raise DataError([f"{path}: {what}. Give a file that ends in {', '.join(SUFFIXES)}."])
    text = _text(path)
    if not text.strip():
        raise DataError([f"{path}: is empty. Add at least one row."])
    if suffix == ".txt":
        return [Row(1, text=text)]
    rows, problems = [], []
    for number, item in _lines(text) if suffix == ".jsonl" else _items(path, text):
        try:
            rows.append(_row(number, item))
        except _Invalid as error:
            place = "line" if suffix == ".jsonl" else "row"
            problems += [f"{path}, {place} {number}: {problem}" for problem in error.problems]
    if not rows and not problems:
        problems = [f"{path}: has no rows. Add at least one."]
    if problems:
        raise DataError(shortened(problems))
    return rows


def shortened(problems: list[str]) -> list[str]:
    """The first of many problems, and how many more there are."""
    more = len(problems) - SHOWN
    return problems if more <= 0 else [*problems[:SHOWN], f"... and {more} more problems of this kind."]


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise DataError([f"{path}: cannot be read ({error.strerror or error}). Check the path."]) from None
    if "\0" in text:  # UTF-16 without its mark passes as UTF-8 full of zeros
        raise DataError([f"{path}: is not UTF-8 text. Save it with the encoding UTF-8."])
    return text


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    """The objects of JSON lines; a line that is none becomes the error."""
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split inside of JSON strings
        if line.strip():
            yield number, _parsed(line, "Put one complete object on each line.")


def _items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The objects of a JSON list."""
    content = _parsed(text, "If it has one object on each line, let its name end in .jsonl.")
    if isinstance(content, _Invalid):
        raise DataError([f"{path}: {content.problems[0]}"])
    if not isinstance(content, list):
        raise DataError([f"{path}: must hold a list of objects, got {_kind(content)}. Put [ and ] around the rows."])
    yield from enumerate(content, 1)


def _parsed(text: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Invalid(f"is not valid JSON ({error}). {advice}")


def _row(number: int, item: Any) -> Row:
    """The example in one object. Raises _Invalid."""
    if isinstance(item, _Invalid):
        raise item
    if not isinstance(item, dict):
        raise _Invalid(f'must be an object like {{"messages": [...]}}, got {_kind(item)}.')
    strange = [f"the field {name} {reason}" for name, reason in _ELSEWHERE.items() if item.get(name)]
    formats = [name for name, fields in _FORMATS.items() if any(field in item for field in fields)]
    if strange:
        raise _Invalid(*strange)
    if len(formats) != 1:
        has = f"has the fields of several formats ({' and '.join(formats)}); keep one" if formats else _fields(item)
        raise _Invalid(f"{has} of {', '.join(_FORMATS)}.")
    if formats == ["text"]:
        return Row(number, text=_content("text", item["text"]))
    turns = _TURNS[formats[0]](item)
    problems = [problem for where, turn in turns for problem in _turn_problems(where, turn)]
    if not problems and not any(turn["role"] == "assistant" for _, turn in turns):
        problems = ["has no assistant turn, so there is nothing to learn. Add the answer, or remove the row."]
    if problems:
        raise _Invalid(*problems)
    return Row(number, tuple(Message(turn["role"], turn["content"]) for _, turn in turns))


def _fields(item: Mapping[str, Any]) -> str:
    return f"has only the fields {', '.join(map(str, item)) or '(none)'}; expected those"


_Turn = tuple[str, Any]
"""Where a turn stands, for messages, and the turn as it was written."""


def _messages(item: Mapping[str, Any], field: str = "messages") -> list[_Turn]:
    turns = item[field]
    if not isinstance(turns, list) or not turns:
        raise _Invalid(f"{field} must be a list of one or more messages, got {_kind(turns)}.")
    return [(f"{field}[{index}]", turn) for index, turn in enumerate(turns)]


def _pair(item: Mapping[str, Any]) -> list[_Turn]:
    """Prompt and completion: texts, or lists of messages."""
    _require(item, "prompt", "completion")
    if isinstance(item["prompt"], list) or isinstance(item["completion"], list):
        return _messages(item, "prompt") + _messages(item, "completion")
    return [*_system(item), *_said(item, "prompt", "completion")]


def _alpaca(item: Mapping[str, Any]) -> list[_Turn]:
    """Instruction, optional input, output: the input follows the instruction after an empty line."""
    _require(item, "instruction", "output")
    turns = [*_system(item), *_said(item, "instruction", "output")]
    extra = item.get("input")
    if extra is None or extra == "":
        return turns
    asked = f"{_content('instruction', item['instruction'])}\n\n{_content('input', extra)}"
    return [*turns[:-2], ("instruction", {"role": "user", "content": asked}), turns[-1]]


_TURNS = {"messages": _messages, "prompt/completion": _pair, "instruction/output": _alpaca}


def _require(item: Mapping[str, Any], *fields: str) -> None:
    missing = [f"lacks the field {field}." for field in fields if field not in item]
    if missing:
        raise _Invalid(*missing)


def _said(item: Mapping[str, Any], asked: str, answered: str) -> list[_Turn]:
    return [
        (asked, {"role": "user", "content": item[asked]}),
        (answered, {"role": "assistant", "content": item[answered]}),
    ]


def _system(item: Mapping[str, Any]) -> list[_Turn]:
    return [("system", {"role": "system", "content": item["system"]})] if item.get("system") else []


def _turn_problems(where: str, turn: Any) -> Iterator[str]:
    """What is wrong with one turn."""
    if not isinstance(turn, dict):
        yield f'{where} must be an object like {{"role": "user", "content": "..."}}, got {_kind(turn)}.'
        return
    role = turn.get("role")
    if role is None:
        yield f"{where} lacks the field role. Give one of {', '.join(ROLES)}."
    elif role not in ROLES:
        yield f"{where}.role must be one of {', '.join(ROLES)}, got {role!r}."
    if turn.get("tool_calls"):
        yield f"{where}.tool_calls is not supported. Write the call into content, or remove the row."
    field = f"{where}.content" if where.endswith("]") else where
    try:
        _content(field, turn.get("content"), empty=role == "system")
    except _Invalid as error:
        yield from error.problems


def _content(where: str, value: Any, *, empty: bool = False) -> str:
    """The text of a field. Raises _Invalid if it is none, or empty where it must not be."""
    if not isinstance(value, str):
        raise _Invalid(f"{where} must be text, got {_kind(value)}.")
    if not empty and not value.strip():
        raise _Invalid(f"{where} is empty. Write its text, or remove the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise _Invalid(f"{where} holds {half!r}, half of a character. Write the whole character.") from None
    return value


def _kind(value: Any) -> str:
    """A JSON value in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        return kind if value else f"an empty {kind.split()[1]}"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
