"""The turns of one row, in whichever of the common formats it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROLES = ("system", "user", "assistant")
_CALLED = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""What other formats call the three roles."""

Turn = tuple[str, Any]
"""Where a turn stands, for messages, and the turn as it was written, with ``role`` and ``content``."""


class Invalid(Exception):
    """What is wrong with one row, as ends of sentences that start with where it is."""

    def __init__(self, *problems: str):
        self.problems = problems


def of(item: Mapping[str, Any], name: str) -> list[Turn]:
    """The turns of a row in the format called ``name``, one of :data:`FORMATS`. Raises Invalid."""
    return FORMATS[name][1](item)


def read(item: Mapping[str, Any], name: str) -> set[str]:
    """The fields of a row that its turns are made of. Raises Invalid."""
    begins = of(item, name)[0][0]  # a row whose turns begin with a system turn does not use another
    used = {"system"} if begins == "system" else set()
    return {*FORMATS[name][0], *used, *(("input",) if name == "instruction/output" else ())}


def _messages(item: Mapping[str, Any]) -> list[Turn]:
    return _after_system(item, _listed(item, "messages"))


def _after_system(item: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    begins = turns[0][1].get("role") if isinstance(turns[0][1], Mapping) else None
    return turns if begins == "system" else [*_system(item), *turns]


def _listed(item: Mapping[str, Any], field: str) -> list[Turn]:
    turns = item[field]
    if not isinstance(turns, list) or not turns:
        raise Invalid(f"{field} must be a list of one or more messages, got {kind_of(turns)}.")
    return [(f"{field}[{index}]", _renamed(turn)) for index, turn in enumerate(turns)]


def _conversations(item: Mapping[str, Any]) -> list[Turn]:
    """ShareGPT's: from and value."""
    return _after_system(item, _listed(item, "conversations"))


def _renamed(turn: Any) -> Any:
    """A turn with the names ``role`` and ``content`` for what it says, where it uses ShareGPT's."""
    if not isinstance(turn, Mapping):
        return turn
    same = dict(turn)
    for theirs, ours in (("from", "role"), ("value", "content")):
        if theirs in same and ours not in same:
            same[ours] = same.pop(theirs)
    role = same.get("role")
    if isinstance(role, str):
        plain = role.strip().lower()
        same["role"] = _CALLED.get(plain, plain if plain in ROLES else role)
    return same


def _pair(item: Mapping[str, Any]) -> list[Turn]:
    """Prompt and completion: texts, or lists of messages."""
    _require(item, "prompt", "completion")
    if isinstance(item["prompt"], list) or isinstance(item["completion"], list):
        return _after_system(item, _listed(item, "prompt") + _listed(item, "completion"))
    return [*_system(item), *_exchange(item, "prompt", "completion")]


def _alpaca(item: Mapping[str, Any]) -> list[Turn]:
    """Instruction, optional input, output: the input follows the instruction after an empty line."""
    _require(item, "instruction", "output")
    turns = [*_system(item), *_exchange(item, "instruction", "output")]
    extra = item.get("input")
    if extra is None or extra == "":
        return turns
    asked = f"{content('instruction', item['instruction'])}\n\n{content('input', extra)}"
    return [*turns[:-2], ("instruction", {"role": "user", "content": asked}), turns[-1]]


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], list[Turn]]]] = {
    "messages": (("messages",), _messages),
    "conversations": (("conversations",), _conversations),
    "prompt/completion": (("prompt", "completion"), _pair),
    "instruction/output": (("instruction", "output"), _alpaca),
}
"""The fields that a format needs, and how its turns are read."""


def _require(item: Mapping[str, Any], *fields: str) -> None:
    missing = [f"lacks the field {field}." for field in fields if field not in item]
    if missing:
        raise Invalid(*missing)


def _exchange(item: Mapping[str, Any], asked: str, answered: str) -> list[Turn]:
    return [
        (asked, {"role": "user", "content": item[asked]}),
        (answered, {"role": "assistant", "content": item[answered]}),
    ]


def _system(item: Mapping[str, Any]) -> list[Turn]:
    return [("system", {"role": "system", "content": item["system"]})] if item.get("system") else []


def problems(where: str, turn: Any) -> Iterator[str]:
    """What is wrong with one turn."""
    if not isinstance(turn, Mapping):
        yield f'{where} must be an object like {{"role": "user", "content": "..."}}, got {kind_of(turn)}.'
        return
    role = turn.get("role")
    if role is None:
        yield f"{where} lacks the field role. Give one of {', '.join(ROLES)}."
    elif role not in ROLES:
        yield f"{where}.role must be one of {', '.join(ROLES)}, got {kind_of(role)}."
    for field in ("tool_calls", "function_call", "images", "audio"):
        if turn.get(field):
            yield f"{where}.{field} is not supported. Write it into content, or remove the row."
    field = f"{where}.content" if where.endswith("]") else where
    try:
        content(field, turn.get("content"), empty=role == "system")
    except Invalid as error:
        yield from error.problems


def content(where: str, value: Any, *, empty: bool = False) -> str:
    """The text of a field; parts that are all text are put together. Raises Invalid if it is not text, or empty."""
    if isinstance(value, list) and value and all(_is_text(part) for part in value):
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Invalid(f"{where} must be text, got {kind_of(value)}.")
    if not empty and not value.strip():
        raise Invalid(f"{where} is empty. Write its text, or remove the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise Invalid(f"{where} holds {half!r}, half of a character. Write the whole character.") from None
    return value


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def kind_of(value: Any) -> str:
    """A JSON value in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        return kind if value else f"an empty {kind.split()[1]}"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
