"""Rows as tokens: the chat template applied, and which tokens are to be learnt.

What is learnt follows from the template itself, whatever its marks look like. The template is rendered once more with
a character in place of an assistant's words that occurs nowhere else; where it comes out is where those words are in
the whole text. A turn to learn begins where the template's own generation prompt for it ends, as far as the model will
see that prompt in use, and ends with the token that closes the turn. The tokenizer's offsets turn characters into
tokens.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import Problem
from ..errors import DataError
from ..loading import reading
from .rows import Message, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

LossOn = Literal["assistant", "all"]

PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### User:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Assistant:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""A chat template for bases that have none: headings, and the base's own end-of-text token after an answer."""

_PROBE = (
    Message("user", "Hello"),
    Message("assistant", "Hi there"),
    Message("user", "Bye"),
    Message("assistant", "So long"),
)


@dataclass(frozen=True)
class Encoded:
    """One example as tokens; ``learn[i]``: token i is a target. The first never is: nothing comes before it."""

    ids: tuple[int, ...]
    learn: tuple[bool, ...]
    cut: int = 0
    """How many tokens were cut off at the end."""
    line: int = 0
    """Of its file."""


def use_template(tokenizer: Tokenizer, template: str) -> None:
    """Give the tokenizer the chat template of ``text.template``: ``plain`` sets ours, ``auto`` keeps its own."""
    if template == "plain":
        begin = tokenizer.bos_token if _adds_begin(tokenizer) else ""
        tokenizer.chat_template = f"{{{{ {begin!r} }}}}{PLAIN}" if begin else PLAIN


def tokenizer_problems(tokenizer: Tokenizer, template: str) -> list[Problem]:
    """What keeps a base's tokenizer from chat training with ``text.template``; call :func:`use_template` first."""
    if not tokenizer.is_fast:
        return [Problem("base.path", "its tokenizer has no tokenizer.json.", "Save it again with transformers 5.")]
    if tokenizer.eos_token_id is None:
        return [Problem("base.path", "its tokenizer names no end-of-text token.", "Set eos_token in its config.")]
    if not tokenizer.chat_template:
        advice = "Set text.template=plain to use a plain one, or give an instruction-tuned base."
        return [Problem("text.template", "the base has no chat template of its own.", advice)]
    try:
        end_of_turn(tokenizer)
    except DataError as error:
        advice = "Repair its chat template." if template == "plain" else "Set text.template=plain, or repair it."
        return [Problem("text.template", f"the base's chat template cannot be used: {error}", advice)]
    return []


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that closes an assistant's turn; generation stops at it.

    Raises:
        DataError: the template has none, or does not print what the assistant says.
    """
    encoded = encode(Row(0, _PROBE), tokenizer, "assistant", 10**9)
    last = encoded.ids[max(index for index, learn in enumerate(encoded.learn) if learn)]
    if last not in _closing(tokenizer):
        raise DataError(["no token closes an assistant's turn, so a model could not learn to stop."])
    return last


def pad_id(tokenizer: Tokenizer) -> int:
    """The token to fill up with. A base without one gets its end-of-text token: filling is never seen or learnt."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else _end(tokenizer)


def prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens after which the model answers: what training saw before an assistant's turn.

    Raises:
        DataError: the template refuses the conversation.
    """
    return tuple(tokenizer(_render(tokenizer, messages, answer=True), add_special_tokens=False)["input_ids"])


def encode(row: Row, tokenizer: Tokenizer, loss_on: LossOn, length: int) -> Encoded:
    """One row as tokens, the first ``length`` of them; ``loss_on`` all (or plain text): everything is learnt.

    Plain text gets the tokens that the tokenizer puts around a text, and its end-of-text token.

    Raises:
        DataError: the template cannot take the row, or a message holds one of the base's control tokens.
    """
    try:
        ids, learn = _chat(row, tokenizer, loss_on) if row.messages else _plain(row.text, tokenizer)
    except DataError as error:
        raise DataError([f"line {row.line}: {problem}" for problem in error.problems]) from None
    learn[0] = False
    return Encoded(tuple(ids[:length]), tuple(learn[:length]), max(0, len(ids) - length), row.line)


def pieces(row: Row, tokenizer: Tokenizer, loss_on: LossOn, length: int) -> list[Encoded]:
    """One row as sequences of at most ``length`` tokens: a conversation is cut, a plain text goes on in the next.

    Each piece of a text begins with the last token of the one before, so that all but the text's first are learnt.
    """
    if row.messages:
        return [encode(row, tokenizer, loss_on, length)]
    ids = encode(row, tokenizer, loss_on, 10**12).ids
    parts = [ids[start : start + length] for start in range(0, max(1, len(ids) - 1), length - 1)]
    return [Encoded(part, (False,) + (True,) * (len(part) - 1), line=row.line) for part in parts]


def encode_all(
    rows: Sequence[Row], tokenizer: Tokenizer, loss_on: LossOn, length: int, overlong: str, file: Path
) -> list[Encoded]:
    """All rows as sequences of at most ``length`` tokens; with ``overlong`` refuse, a longer conversation is an error.

    Raises:
        DataError: with every row that cannot be encoded, is too long or leaves nothing to learn; names ``file``.
    """
    encoded: list[Encoded] = []
    problems: list[str] = []
    long: list[tuple[int, int]] = []
    for row in rows:
        try:
            parts = pieces(row, tokenizer, loss_on, length)
        except DataError as error:
            problems += [f"{file}, {problem}" for problem in error.problems]
            continue
        if overlong == "refuse" and parts[0].cut:
            long.append((row.line, length + parts[0].cut))
        elif not any(any(part.learn) for part in parts):
            problems.append(f"{file}, line {row.line}: leaves nothing to learn in its first {length} tokens.")
        else:
            encoded += parts
    if long:
        problems.append(_too_long(file, long, length))
    if problems:
        raise DataError(problems)
    return encoded


def _too_long(file: Path, long: list[tuple[int, int]], length: int) -> str:
    lines = ", ".join(f"{line} ({tokens} tokens)" for line, tokens in long[:10])
    more = f" and {len(long) - 10} more" if len(long) > 10 else ""
    longest = max(tokens for _, tokens in long)
    advice = f"Set text.length={longest} or more, shorten them, or set text.overlong=cut to learn from their beginning."
    return f"{file}: rows longer than text.length={length} in line {lines}{more}. {advice}"


def _plain(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    ids = list(tokenizer(text)["input_ids"])
    if ids[-1:] != [_end(tokenizer)]:
        ids.append(_end(tokenizer))
    return ids, [True] * len(ids)


def _chat(row: Row, tokenizer: Tokenizer, loss_on: LossOn) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and which of them are targets."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for index, message in enumerate(row.messages):
        for token in special:
            if token in message.content:
                rule = f"holds {token!r}, a control token of this base, where only words may stand."
                raise DataError([f"message {index + 1} ({message.role}) {rule} Give messages without any template."])
    text = _render(tokenizer, row.messages)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoding["input_ids"])
    closing = _closing(tokenizer)
    if loss_on == "assistant":
        chosen = [i for i, message in enumerate(row.messages) if message.role == "assistant" and message.learn]
        return ids, _learnt(ids, encoding["offset_mapping"], list(_spans(row, tokenizer, text, chosen)), text, closing)
    unlearnt = [i for i, message in enumerate(row.messages) if not message.learn]
    masked = _learnt(ids, encoding["offset_mapping"], list(_spans(row, tokenizer, text, unlearnt)), text, closing)
    return ids, [not is_masked for is_masked in masked]


def _spans(row: Row, tokenizer: Tokenizer, text: str, chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the characters of the ``chosen`` turns stand in the rendered ``text``, from the end of their prompt on.

    Raises:
        DataError: they are not to be found; the template changes or drops them.
    """
    mark = next(character for character in map(chr, range(0xE000, 0xF8FF)) if character not in text)  # private use
    for index in chosen:
        role = row.messages[index].role
        marked = (*row.messages[:index], Message(role, mark), *row.messages[index + 1 :])
        before, separator, after = _render(tokenizer, marked).partition(mark)
        speaks = role == "assistant" and index > 0
        asked = _render(tokenizer, row.messages[:index], answer=True) if speaks else before
        prefix = asked if text.startswith(asked) else before
        start, end = len(prefix), len(text) - len(after)
        if not separator or mark in after:
            raise DataError([f"the base's chat template does not show message {index + 1} ({role}) just once."])
        if not text.startswith(prefix) or not text.endswith(after) or start >= end:
            raise DataError([f"the base's chat template changes what stands around message {index + 1} ({role})."])
        yield start, end


def _learnt(
    ids: list[int], offsets: Sequence[tuple[int, int]], spans: list[tuple[int, int]], text: str, closers: set[int]
) -> list[bool]:
    """Which tokens cover the characters of ``spans``, and the token right behind each that closes the turn.

    A token belongs where its last character is: some tokenizers leave white space out of their offsets, and a token
    that begins with the end of the prompt is one that the model has to say.
    """
    learn = [False] * len(ids)
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    for start, end in spans:
        closing = bisect_left(starts, end)
        while closing < len(ids) and ids[closing] not in closers and not text[starts[closing] : ends[closing]].strip():
            closing += 1
        closed = closing < len(ids) and ids[closing] in closers
        first, last = bisect_right(ends, start), bisect_right(ends, ends[closing] if closed else end)
        learn[first:last] = [True] * (last - first)
    return learn


def _render(tokenizer: Tokenizer, messages: Sequence[Message], *, answer: bool = False) -> str:
    """The conversation by the tokenizer's chat template; with ``answer``, up to where the assistant is to speak."""
    turns: list[Any] = [{"role": message.role, "content": message.content} for message in messages]
    with reading(lambda reason: DataError([f"the base's chat template refuses the conversation: {reason}"])):
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer))


def _closing(tokenizer: Tokenizer) -> set[int]:
    """The tokens that may close a turn: whatever was added to the vocabulary, and the end-of-text token."""
    return {*tokenizer.added_tokens_decoder, _end(tokenizer)}


def _end(tokenizer: Tokenizer) -> int:
    """The end-of-text token; :func:`tokenizer_problems` refuses a tokenizer without one."""
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return end


def _adds_begin(tokenizer: Tokenizer) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
