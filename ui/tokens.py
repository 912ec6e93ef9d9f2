"""Rows as tokens, ready to be shown: what is learnt, what is cut, and what it all adds up to.

Made in the process of :mod:`.language_worker`, shown by :mod:`.row_view`; nothing here needs torch before it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowrank_diffusion.config import TextConfig
from lowrank_diffusion.text.rows import Row

if TYPE_CHECKING:
    from lowrank_diffusion.text.encode import Encoded

MOST_SHOWN = 1500
"""Tokens of one row that go to the page."""


@dataclass(frozen=True)
class Piece:
    """A token as the model reads it; several, where only together they make a character."""

    text: str
    kind: str
    """read, learn or cut"""
    control: bool


@dataclass(frozen=True)
class RowTokens:
    """One row; ``problem`` says why it cannot be used."""

    row: int
    """From 0."""
    line: int
    tokens: int = 0
    learnt: int = 0
    cut: int = 0
    sequences: int = 1
    """That a long plain text goes on through."""
    pieces: tuple[Piece, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Counts:
    """Of the rows counted."""

    rows: int
    """In the file."""
    counted: int
    tokens: int
    learnt: int
    longest: int
    too_long: tuple[int, ...]
    """Lines of rows."""
    cut: int
    """Tokens."""
    unusable: tuple[int, ...]
    """Lines of rows."""
    sequences: int
    """That the usable rows are packed into."""


def counts(rows: list[Row], encoded: list[Encoded | str], text: TextConfig) -> Counts:
    """The figures of a file of which ``encoded`` is what could be counted."""
    from lowrank_diffusion.text.packing import pack

    usable = [(row, item) for row, item in zip(rows, encoded, strict=False) if not isinstance(item, str)]
    lengths = [len(item.ids) for _, item in usable]
    over = {row.line: len(item.ids) - text.length for row, item in usable if row.messages}
    over = {line: tokens for line, tokens in over.items() if tokens > 0}
    unusable = tuple(row.line for row, item in zip(rows, encoded, strict=False) if isinstance(item, str))
    parts = [part for row, item in usable for part in _parts(row, len(item.ids), text.length)]
    return Counts(
        rows=len(rows), counted=len(encoded), tokens=sum(lengths),
        learnt=sum(sum(item.learn[: text.length] if row.messages else item.learn) for row, item in usable),
        longest=max(lengths, default=0), too_long=tuple(over), cut=sum(over.values()), unusable=unusable,
        sequences=len(pack(parts, text.length)) if text.packing else len(parts),
    )  # fmt: skip


def _parts(row: Row, tokens: int, length: int) -> list[int]:
    """Lengths of the sequences that a row becomes: a conversation is cut, a plain text goes on."""
    if row.messages:
        return [min(tokens, length)]
    whole, rest = divmod(tokens - 1, length - 1)
    return [length] * whole + ([rest + 1] if rest or not whole else [])


def row_tokens(number: int, row: Row, encoded: Encoded | str, tokenizer: Any, length: int) -> RowTokens:
    """A row with the tokens that fit and those that do not."""
    if isinstance(encoded, str):
        return RowTokens(number, row.line, problem=encoded)
    total = len(encoded.ids)
    end = length if row.messages else total
    kinds = ["cut" if at >= end else "learn" if learn else "read" for at, learn in enumerate(encoded.learn)]
    pieces = tuple(_pieces(encoded.ids[:MOST_SHOWN], kinds, tokenizer))
    sequences = len(_parts(row, total, length))
    return RowTokens(number, row.line, total, sum(encoded.learn[:end]), max(0, total - end), sequences, pieces)


def _pieces(ids: tuple[int, ...], kinds: list[str], tokenizer: Any) -> Iterator[Piece]:
    """Tokens as text. A token may hold half a character: it is shown with those that complete it."""
    control = set(tokenizer.all_special_ids)

    def decode(some: list[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    before: list[int] = []  # some tokenizers drop the space of a text's first token, so none is decoded as the first
    waiting: list[int] = []
    for at, number in enumerate(ids):
        waiting.append(number)
        text = decode(before + waiting)[len(decode(before)) :]
        if "\ufffd" not in text or len(waiting) > 4 or at + 1 == len(ids):
            yield Piece(text, kinds[at], number in control)
            before, waiting = waiting[-1:], []
