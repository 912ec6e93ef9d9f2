"""How well a language model does on rows it was not trained on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from .encode import Encoded, end_of_turn, pad_id, prompt
from .loss import sequence_losses
from .packing import collate
from .rows import Row

AT_ONCE = 25
"""Rows that are answered together."""
TOKENS_AT_ONCE = 1024
"""Tokens whose losses are computed together, unless training already takes more."""


@dataclass(frozen=True)
class Answers:
    """What a model said to the last question of every row."""

    texts: tuple[str, ...]
    wanted: tuple[str, ...]
    tokens: int
    """All answers together."""
    seconds: float

    @property
    def exact_match(self) -> float:
        """Share of rows whose answer is the wanted one, from 0 to 1."""
        return sum(map(same, self.texts, self.wanted)) / len(self.texts)

    @property
    def tokens_per_second(self) -> float:
        """Speed of answering, several rows at once."""
        return self.tokens / self.seconds


def same(text: str, wanted: str) -> bool:
    """Whether two answers are the same: as JSON values where the wanted one is an object or a list, else as texts."""
    try:
        value = json.loads(wanted)
        if isinstance(value, dict | list):
            return _same_json(json.loads(text), value)
    except (ValueError, RecursionError):  # a model may say a thousand brackets
        pass
    return text.strip() == wanted.strip()


def _same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 4 and 4.0 are one number, and 1 is not true, as it is for Python."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_json(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_json, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@torch.no_grad()
def token_loss(
    model: Any, examples: Sequence[Encoded], pad: int, tokens: int, progress: Callable[[int], None] = lambda _done: None
) -> float:
    """Mean cross entropy of all targets of ``examples``, in nats; its exponential is the perplexity.

    Args:
        model: On any device.
        examples: At least one.
        pad: Number of the token that fills a batch.
        tokens: In a forward pass of training: a pass has at most as many, or :data:`TOKENS_AT_ONCE`, or one example.
        progress: Hears how many examples are done.
    """
    total = count = 0.0
    left = sorted(examples, key=lambda example: len(example.ids), reverse=True)
    while left:
        fitting = max(max(tokens, TOKENS_AT_ONCE) // len(left[0].ids), 1)
        chosen, left = left[:fitting], left[fitting:]
        packed = collate([[example] for example in chosen], len(chosen[0].ids), pad)
        ids, labels = packed.ids.to(model.device), packed.labels.to(model.device)
        total += float(sequence_losses(model, ids, labels).sum())
        count += packed.count
        progress(len(examples) - len(left))
    return total / count


@dataclass(frozen=True)
class Measures:
    """What held-out rows say of a model; None where none of them has an answer."""

    perplexity: float
    exact_match: float | None = None
    """Share of the answers that are right to the letter, or as JSON."""
    answered: int = 0
    """Rows that were answered."""
    tokens_per_second: float | None = None

    def words(self) -> dict[str, str]:
        """The figures for a person, by what they are called."""
        figures = {"perplexity": f"{self.perplexity:.4g}"}
        if self.exact_match is not None:
            figures["exact match"] = f"{self.exact_match:.1%} of {self.answered}"
        if self.tokens_per_second is not None:
            figures["tokens/s"] = f"{self.tokens_per_second:.1f}"
        return figures


def perplexity(loss: float) -> float:
    """exp of a mean cross entropy in nats."""
    return math.exp(min(loss, 700.0))


def answerable(rows: Sequence[Row]) -> list[Row]:
    """The rows that end with an answer that may be learnt; plain texts have none."""
    return [row for row in rows if row.messages and row.messages[-1].role == "assistant" and row.messages[-1].learn]


@torch.no_grad()
def answer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    max_tokens: int,
    progress: Callable[[int], None] = lambda _done: None,
) -> Answers:
    """Greedy answers to the last question of every row.

    Args:
        model: On any device; answers :data:`AT_ONCE` rows at a time.
        tokenizer: With the chat template of training.
        rows: One or more :func:`answerable` ones.
        max_tokens: Longest answer.
        progress: Hears how many rows are answered.
    """
    asked = [prompt(row.messages[:-1], tokenizer) for row in rows]
    texts: list[str] = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(asked[index]))
    tokens, begin = 0, time.perf_counter()
    for start in range(0, len(order), AT_ONCE):
        group = order[start : start + AT_ONCE]
        for index, ids in zip(group, _generated(model, tokenizer, [asked[i] for i in group], max_tokens), strict=True):
            texts[index], tokens = tokenizer.decode(ids, skip_special_tokens=True), tokens + len(ids)
        progress(start + len(group))
    wanted = tuple(row.messages[-1].content for row in rows)
    return Answers(tuple(texts), wanted, tokens, time.perf_counter() - begin)


def _generated(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], max_tokens: int) -> list[list[int]]:
    """The likeliest continuations, each up to its end-of-turn token."""
    pad, width = pad_id(tokenizer), max(map(len, prompts))
    stops = [end_of_turn(tokenizer), tokenizer.eos_token_id]
    ids = torch.tensor([(pad,) * (width - len(p)) + p for p in prompts], device=model.device)
    there = torch.tensor([(0,) * (width - len(p)) + (1,) * len(p) for p in prompts], device=model.device)
    greedy = GenerationConfig(do_sample=False, max_new_tokens=max_tokens, eos_token_id=stops, pad_token_id=pad)
    generated = model.generate(input_ids=ids, attention_mask=there, generation_config=greedy)[:, width:].tolist()
    return [row[: next((i for i, token in enumerate(row) if token in stops), len(row))] for row in generated]
