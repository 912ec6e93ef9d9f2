"""Rows of a data set as HTML: before a tokenizer has seen them, and as the model will see them."""

from __future__ import annotations

import html
from itertools import groupby

from lowrank_diffusion.config import TextConfig
from lowrank_diffusion.text.rows import Row

from .tokens import MOST_SHOWN, Counts, RowTokens

LEGEND = (
    '<div class="legend"><span class="t learn">learnt</span><span class="t">only read</span>'
    '<span class="t control">control token</span><span class="t cut">cut off</span></div>'
)
MOST_CHARACTERS = 4000
"""Of a message that is not tokenised yet."""


def plain_html(rows: list[Row], first: int) -> str:
    """Rows as they were read; ``first`` is the number of the first, from 0."""
    cards = []
    for number, row in enumerate(rows, first):
        turns = [(turn.role, turn.content) for turn in row.messages] or [("text", row.text)]
        body = "".join(f"<dt>{html.escape(role)}</dt><dd>{html.escape(_short(text))}</dd>" for role, text in turns)
        cards.append(f"<article>{_head(number, row.line)}<dl>{body}</dl></article>")
    return f'<div class="row-list">{"".join(cards)}</div>'


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def _head(number: int, line: int, facts: str = "") -> str:
    return f"<header><b>Row {number + 1}</b><small>line {line}</small>{facts}</header>"


def tokens_html(rows: tuple[RowTokens, ...], text: TextConfig) -> str:
    """Rows token by token, what is learnt and what is cut in colour."""
    return f'{LEGEND}<div class="row-list">{"".join(_card(row, text) for row in rows)}</div>'


def _card(row: RowTokens, text: TextConfig) -> str:
    if row.problem:
        return f'<article class="bad">{_head(row.row, row.line)}<p>{html.escape(row.problem)}</p></article>'
    facts = f"<small>{row.tokens:,} tokens, {row.learnt:,} learnt</small>"
    if row.sequences > 1:
        facts += f"<small>goes on through {row.sequences:,} sequences</small>"
    if row.cut and text.overlong == "refuse":
        facts += f'<span class="pill failed">{row.cut:,} tokens too long</span>'
    elif row.cut:
        facts += f'<span class="pill waiting">{row.cut:,} tokens cut</span>'
    body = "".join(
        f'<span class="run {kind}">{"".join(_token(piece.text, kind, piece.control) for piece in group)}</span>'
        for kind, group in groupby(row.pieces, key=lambda piece: piece.kind)
    )
    more = f" <small>and {row.tokens - MOST_SHOWN:,} more tokens</small>" if row.tokens > MOST_SHOWN else ""
    return f'<article>{_head(row.row, row.line, facts)}<p class="tokens">{body}{more}</p></article>'


def _token(text: str, kind: str, control: bool) -> str:
    words = html.escape(text).replace("\n", '<i class="newline">↵</i>\n')
    return f'<span class="t {kind}{" control" if control else ""}">{words}</span>'


def counts_html(counts: Counts, text: TextConfig) -> str:
    """The figures of the whole set, and what will not be learnt from."""
    share = counts.learnt / counts.tokens if counts.tokens else 0
    facts = [
        ("rows", f"{counts.rows:,}"),
        ("tokens", f"{counts.tokens:,}"),
        ("learnt", f"{counts.learnt:,} ({share:.0%})"),
        ("longest row", f"{counts.longest:,}"),
        (f"sequences of {text.length}" if text.packing else "sequences, not packed", f"{counts.sequences:,}"),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    notes = []
    if counts.too_long and text.overlong == "refuse":
        notes.append(
            f"{_lines(counts.too_long)} longer than {text.length} tokens, which training refuses. Raise Tokens per "
            f"sequence (the longest row has {counts.longest:,}), or set Rows that are too long to cut."
        )
    elif counts.too_long:
        notes.append(f"{_lines(counts.too_long)} longer than {text.length} tokens: {counts.cut:,} tokens are cut off.")
    if counts.unusable:
        notes.append(f"{_lines(counts.unusable)} not usable with this base, which training refuses.")
    if counts.counted < counts.rows:
        notes.append(f"The figures are those of the first {counts.counted:,} rows.")
    words = "".join(f'<p class="message bad">{html.escape(note)}</p>' for note in notes)
    return f'<dl class="figures">{shown}</dl>{words}'


def _lines(lines: tuple[int, ...]) -> str:
    """So many rows, and which."""
    first = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
    return f"1 row (line {first}) is" if len(lines) == 1 else f"{len(lines):,} rows (lines {first}) are"
