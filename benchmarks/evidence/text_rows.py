"""Rows of text made from a seed: what a run learns, and what it is measured on. Nothing is downloaded.

``orders`` are those of assets/examples/llm-orders. A seed draws which are learnt; all seeds are measured on the same
held-out ones, whose names and items are in no training row.

``facts`` are keys and codes that follow from nothing: what a model knows of them is in its adapter's weights. A code is
six letters of 26, so learning one takes 28.2 bits.

``glosses`` are WordNet's definitions, each with the name of its lexicographer file, from a folder on this machine.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedTokenizerBase as Tokenizer

from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.text.encode import Encoded, encode_all
from lowrank_diffusion.text.rows import Message, Row, read
from scripts import make_orders

from . import wordnet
from .of_texts import Texts

FOLDER = PROJECT / "assets" / "examples" / "llm-orders"
VALIDATION = 0.3
"""Share of the held-out rows that choose checkpoints and learning rates; the others score."""
LONGER = 50
"""How many longer orders are measured."""
LONGER_ITEMS = (3, 4)
"""Items of one; those that are learnt have one or two."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CODE = 6
"""Letters of a code. With spaces between them each is a token of its own, so that a token's entropy is known."""
BITS = CODE * math.log2(len(LETTERS))
"""Of one fact."""
WORDS = (
    "amber ancient bitter blue bold brave bright broken calm clever cold copper crimson curious dark deep double dry "
    "early empty famous fast final gentle golden grand gray green happy heavy hidden hollow honest hungry icy inner "
    "iron late little lonely loud lucky",
    "anchor apple arrow badge basket beach bell bird boat book bottle bridge camera candle castle cloud coin crown "
    "desk door drum engine falcon feather field flag flower forest garden ghost glass guitar hammer harbor hill horse "
    "island key kitchen ladder lamp lemon",
)
"""First and second words of the keys."""


@dataclass(frozen=True)
class Rows:
    """Examples as tokens."""

    learnt: list[Encoded]
    validation: list[Encoded]
    scoring: list[Encoded]
    outside: dict[str, list[Encoded]] = field(default_factory=dict)
    """Further sets that are measured, by name."""
    facts: int = 0
    """How many of :data:`BITS` bits each there are to learn by heart."""


def orders(data: Texts, seed: int, tokenizer: Tokenizer, length: int) -> Rows:
    """Orders in English, and the same as JSON; each ends with the token that closes the answer.

    Raises:
        DataError: a row has more than ``length`` tokens.
    """
    train, held_out = read(FOLDER / "train.jsonl"), read(FOLDER / "held_out.jsonl")[: data.held_out]
    learnt = random.Random(f"rows {seed}").sample(train, data.rows)
    random.Random("held out").shuffle(held_out)
    count = round(VALIDATION * len(held_out))
    validation, scoring = held_out[:count], held_out[count:]
    outside = {}
    if data.outside:
        outside = {"typos": [misspelt(row) for row in scoring], "longer": longer_orders(min(LONGER, data.held_out))}

    def encoded(rows: list[Row]) -> list[Encoded]:
        return encode_all(rows, tokenizer, "assistant", length, "refuse", FOLDER)

    return Rows(
        encoded(learnt), encoded(validation), encoded(scoring), {name: encoded(rows) for name, rows in outside.items()}
    )


def misspelt(row: Row) -> Row:
    """The order with typing errors in words that are not to be copied: its answer stays the same."""
    system, asked, answer = row.messages
    draw, kept = random.Random(asked.content), answer.content.lower()
    words = asked.content.split(" ")
    may = [place for place, word in enumerate(words) if len(word) > 2 and word.strip(".,:?").lower()[:3] not in kept]
    for place in may:
        if place == may[0] or draw.random() < 0.5:
            words[place] = _mistyped(words[place], draw)
    return Row(row.line, (system, Message(asked.role, " ".join(words)), answer))


def _mistyped(word: str, draw: random.Random) -> str:
    """Two letters exchanged, one left out, or one twice."""
    at = draw.randrange(len(word) - 1)
    one, two = word[at], word[at + 1]
    return word[:at] + draw.choice((two + one, two, one + one + two)) + word[at + 2 :]


def longer_orders(count: int) -> list[Row]:
    """Orders of more items than any that is learnt, in the words of the held-out ones."""
    draw = random.Random("longer")
    return [Row(line, _long_order(draw)) for line in range(1, count + 1)]


def _long_order(draw: random.Random) -> tuple[Message, ...]:
    name = draw.choice(make_orders.UNSEEN.names)
    items = draw.sample(make_orders.UNSEEN.items, draw.choice(LONGER_ITEMS))
    spoken, meant = zip(*(make_orders._item(item, draw) for item in items), strict=True)
    text = draw.choice(make_orders.SENTENCES).format(
        order=f"{', '.join(spoken[:-1])}{draw.choice(make_orders.JOINTS)}{spoken[-1]}", name=name, note=""
    )
    answer = json.dumps({"name": name, "items": list(meant), "note": None})
    asked = text[0].upper() + text[1:]
    return Message("system", make_orders.SYSTEM), Message("user", asked), Message("assistant", answer)


def facts(data: Texts, seed: int, tokenizer: Tokenizer, length: int) -> Rows:
    """Facts, all of which are learnt and all of which score; a rate is chosen by other seeds' facts."""
    examples = [completed(f"The code of {key} is", code, tokenizer, length) for key, code in pairs(data.rows, seed)]
    return Rows(examples, examples, examples, facts=len(examples))


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """(key, code) of each fact; no key comes twice."""
    draw = random.Random(f"facts {seed}")
    firsts, seconds = (words.split() for words in WORDS)
    every = [f"{first} {second}" for first in firsts for second in seconds]
    return [(key, " ".join(draw.choices(LETTERS, k=CODE))) for key in draw.sample(every, count)]


def completed(asked: str, answer: str, tokenizer: Tokenizer, length: int) -> Encoded:
    """A plain sentence, without a chat around it; only the answer's tokens are targets. ``answer`` follows a space."""
    before = list(tokenizer(asked, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(f"{asked} {answer}", add_special_tokens=False)["input_ids"])
    assert ids[: len(before)] == before and len(ids) <= length, (asked, answer, length)
    return Encoded(tuple(ids), (False,) * len(before) + (True,) * (len(ids) - len(before)))


def glosses(data: Texts, seed: int, tokenizer: Tokenizer, length: int) -> Rows:
    """Definitions, and which of WordNet's 45 lexicographer files each is from; nobody's held-out ones are learnt."""
    every = list(wordnet.definitions(Path(data.wordnet)))
    random.Random("held out").shuffle(every)
    held_out, left = every[: data.held_out], every[data.held_out :]
    learnt = random.Random(f"rows {seed}").sample(left, data.rows)
    count = round(VALIDATION * len(held_out))

    def encoded(pairs: list[tuple[str, str]]) -> list[Encoded]:
        return [completed(f"{gloss} =", name, tokenizer, length) for gloss, name in pairs]

    return Rows(encoded(learnt), encoded(held_out[:count]), encoded(held_out[count:]))


KINDS: dict[str, Callable[[Texts, int, Tokenizer, int], Rows]] = {
    "orders": orders, "facts": facts, "glosses": glosses,
}  # fmt: skip
"""By ``Texts.made``."""
