"""How a language model is asked to answer; no torch here, so that the app can speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LIMITS = {"temperature": (0, 5), "top_p": (0.01, 1), "max_tokens": (1, 8192), "seed": (0, 2**32 - 1)}
"""Smallest and largest value of every number; the last two are whole."""

_WHOLE = ("max_tokens", "seed")


def violation(name: str, value: Any) -> str:
    """The rule of ``LIMITS`` that a value breaks, for a person to read; empty if none."""
    low, high = LIMITS[name]
    kinds = (int,) if name in _WHOLE else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high:
        return ""
    return f"must be a {'whole ' if name in _WHOLE else ''}number from {low} to {high}, got {value}."


@dataclass(frozen=True)
class Settings:
    """How the next token is chosen, and how many there may be."""

    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together have this probability."""
    max_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True)
class AnswerLength:
    """The length of an answer, and whether it ended because no more tokens were allowed."""

    tokens: int
    cut: bool
