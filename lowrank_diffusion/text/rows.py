"""A file of conversations or plain text: reading one, and everything that can be wrong with it.

``.jsonl`` has one object on each line, ``.json`` a list of them. An object is one of

* ``{"messages": [{"role": "user", "content": "..."}, ...]}``,
* ``{"prompt": "...", "completion": "..."}``, each a text or a list of messages,
* ``{"instruction": "...", "input": "...", "output": "..."}``, as Alpaca has them; ``input`` may be missing or empty,
* ``{"conversations": [{"from": "human", "value": "..."}, ...]}``, as ShareGPT has them,
* ``{"text": "..."}``: plain text, to which no chat template is applied.

All but the last may have a ``system`` text too. A null counts as no field. Fields that mean "do not learn this", of a
row or of a turn, are obeyed (see :mod:`..marks`); every other field is named as not looked at. A ``.txt`` file is one
plain text.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MOST, DataError
from ..files import MB, Unreadable, lines, read_text
from ..marks import Marks, listed
from . import turns
from .turns import Invalid, kind_of

SUFFIXES = (".jsonl", ".json", ".txt")
ROLES = turns.ROLES
LARGEST = 1000 * MB
"""A larger file would not fit into a small machine's memory as rows."""

_ELSEWHERE = {
    "chosen": "belongs to preference data, which cannot be learnt from here. Keep the preferred answers as messages.",
    "rejected": "belongs to preference data, which cannot be learnt from here. Keep the preferred answers as messages.",
    "tools": "(tool use) is not supported. Remove it, or write the tools into a system message.",
    "functions": "(tool use) is not supported. Remove it, or write the functions into a system message.",
    "history": "is not supported. Put the earlier turns into messages.",
    **dict.fromkeys(
        ("image", "images", "audio", "audios", "video", "videos"), "is not supported: text only. Remove it."
    ),
}
"""Fields that would change what a row means, and that are not read."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is one of :data:`ROLES`."""

    role: str
    content: str
    learn: bool = True
    """Whether it may be learnt: its row can say that an answer is not to be."""


@dataclass(frozen=True)
class Row:
    """One example: a conversation with ``messages``, or plain ``text``."""

    line: int
    """Number of its line (.jsonl) or of its place in the list (.json), from 1."""
    messages: tuple[Message, ...] = ()
    text: str = ""


@dataclass
class Survey:
    """A file of rows: what is learnt of it, and what is not."""

    rows: list[Row] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    """Fields that are not looked at, and in how many rows they stand."""
    left_out: dict[str, list[int]] = field(default_factory=dict)
    """Why rows are left out, and which."""
    unlearnt: list[int] = field(default_factory=list)
    """Rows some of whose answers are not learnt, as they ask for."""
    unheard: list[int] = field(default_factory=list)
    """Rows that ask for turns of others than the assistant to be learnt."""

    def notes(self) -> list[str]:
        """For a person: all that is not learnt, and why."""
        notes = [
            f"{len(lines)} of {len(self.rows) + self._missing()} rows are left out, as they ask for ({why}): "
            f"{listed(lines)}."
            for why, lines in self.left_out.items()
        ]
        if self.unlearnt:
            notes.append(f"Some answers of {len(self.unlearnt)} rows are seen and not learnt, as they ask for: "
                         f"{listed(self.unlearnt)}.")  # fmt: skip
        if self.unheard:
            notes.append(f"{len(self.unheard)} rows ask for turns to be learnt that the assistant does not say: "
                         f"{listed(self.unheard)}. Only text.loss_on=all learns them.")  # fmt: skip
        if self.ignored:
            fields = listed([f"{name} ({count} rows)" for name, count in self.ignored.most_common()], 8)
            notes.append(f"Fields that are not looked at: {fields}.")
        return notes

    def _missing(self) -> int:
        return sum(len(lines) for lines in self.left_out.values())


def read(path: Path) -> list[Row]:
    """The rows of a file that are to be learnt, in its order.

    Raises:
        DataError: with every problem of the file, each with its line and field.
    """
    return survey(path).rows


def survey(path: Path) -> Survey:
    """The rows of a file, and what of it is not learnt.

    Raises:
        DataError: with every problem of the file, each with its line and field.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        what = "is a folder" if os.path.isdir(path) else f"ends in {path.suffix or 'nothing'}"
        raise DataError([f"{path}: {what}. Give a file that ends in {', '.join(SUFFIXES)}."])
    try:
        text = read_text(path, LARGEST)
    except Unreadable as error:
        raise DataError([f"{path}: {error}"]) from None
    if not text.strip():
        raise DataError([f"{path}: is empty. Add at least one row."])
    if suffix == ".txt":
        return Survey([Row(1, text=text)])
    survey, problems = Survey(), []
    for number, item in _lines(text) if suffix == ".jsonl" else _items(path, text):
        try:
            _take(number, item, survey)
        except Invalid as error:
            place = "line" if suffix == ".jsonl" else "row"
            problems += [f"{path}, {place} {number}: {problem}" for problem in error.problems]
            if len(problems) >= MOST:
                problems.append(f"{path}: what follows {place} {number} was not looked at.")
                break
    if not survey.rows and not problems:
        why = f"all of its rows are left out, as they ask for ({listed(survey.left_out)})" if survey.left_out else ""
        problems = [f"{path}: {why or 'has no rows'}. Add at least one."]
    if problems:
        raise DataError(problems)
    return survey


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    """The objects of JSON lines; a line that does not hold one becomes the error."""
    for number, line in lines(text):
        yield number, _parsed(line, "Put one complete object on each line.")


def _items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The objects of a JSON list."""
    content = _parsed(text, "If it has one object on each line, let its name end in .jsonl.")
    if isinstance(content, Invalid):
        raise DataError([f"{path}: {content.problems[0]}"])
    if not isinstance(content, list):
        raise DataError([f"{path}: must hold a list of objects, got {kind_of(content)}. Put [ and ] around the rows."])
    yield from enumerate(content, 1)


def _parsed(text: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Invalid(f"is not valid JSON ({error}). {advice}")


def _take(number: int, item: Any, survey: Survey) -> None:
    """Put one object's example into ``survey``, or why it is left out. Raises Invalid."""
    if isinstance(item, Invalid):
        raise item
    if not isinstance(item, dict):
        raise Invalid(f'must be an object like {{"messages": [...]}}, got {kind_of(item)}.')
    item = {name: value for name, value in item.items() if value is not None}
    name = _format(item)
    strange = [f"the field {field} {reason}" for field, reason in _ELSEWHERE.items() if _says(item.get(field))]
    marks = Marks(item, classes=name == "text")
    if strange or marks.problems:
        raise Invalid(*strange, *marks.problems)
    row = Row(number, text=turns.content("text", item["text"])) if name == "text" else _chat(number, item, name, survey)
    why = listed(marks.left_out) or ("" if row.text or _learns(row) else "no answer is to be learnt")
    if why:
        survey.left_out.setdefault(why, []).append(number)
    else:
        survey.rows.append(row)
    read = {"text"} if name == "text" else turns.read(item, name)
    survey.ignored.update(field for field in item if field not in read | marks.names and not _is_empty(item[field]))


def _format(item: Mapping[str, Any]) -> str:
    """Which format a row has. Raises Invalid where it has none, or several whole ones."""
    whole = [name for name, (fields, _) in turns.FORMATS.items() if all(field in item for field in fields)]
    begun = [name for name, (fields, _) in turns.FORMATS.items() if any(field in item for field in fields)]
    if len(whole) > 1:
        raise Invalid(f"has the fields of several formats ({' and '.join(whole)}); keep one of {_formats()}.")
    if whole:
        return whole[0]
    if "text" in item:
        return "text"
    if begun:
        return begun[0]  # whose missing field is then named
    fields = f"has only the fields {', '.join(map(str, item))[:200] or '(none)'}; expected those of {_formats()}."
    raise Invalid(fields)


def _formats() -> str:
    return ", ".join([*turns.FORMATS, "text"])


def _chat(number: int, item: Mapping[str, Any], name: str, survey: Survey) -> Row:
    """The conversation of a row. Raises Invalid."""
    said = turns.of(item, name)
    problems = [problem for where, turn in said for problem in turns.problems(where, turn)]
    marks = [Marks(turn if isinstance(turn, dict) else {}) for _, turn in said]
    problems += [f"{where}: {text}" for (where, _), mark in zip(said, marks, strict=True) for text in mark.problems]
    if not problems and not any(turn["role"] == "assistant" for _, turn in said):
        problems = ["has no assistant turn, so there is nothing to learn. Add the answer, or remove the row."]
    if problems:
        raise Invalid(*problems)
    messages = []
    for (where, turn), mark in zip(said, marks, strict=True):
        messages.append(Message(turn["role"], turns.content(where, turn["content"], empty=True), not mark.left_out))
        extra = (field for field in turn if field not in {"role", "content"} | mark.names)
        survey.ignored.update({f"{field} of a turn" for field in extra if not _is_empty(turn[field])})
    answers = [message for message in messages if message.role == "assistant"]
    if any(not message.learn for message in answers) and any(message.learn for message in answers):
        survey.unlearnt.append(number)
    if any(mark.wanted and message.role != "assistant" for mark, message in zip(marks, messages, strict=True)):
        survey.unheard.append(number)
    return Row(number, tuple(messages))


def _learns(row: Row) -> bool:
    return any(message.learn for message in row.messages if message.role == "assistant")


def _says(value: Any) -> bool:
    """Whether a field has content: not where a table has it only because other rows do; yes and no are marks."""
    return not isinstance(value, bool) and not _is_empty(value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
