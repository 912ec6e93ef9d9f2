"""What a person changed of a preset, each with the way back."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .form import label

SHOWN = 12


def html_of(preset: str, rows: Sequence[tuple[str, Any, Any]]) -> str:
    """Of every changed setting its key, the preset's value and the one that is there; nothing where none is."""
    if not rows:
        return ""
    items = "".join(_chip(*row) for row in rows[:SHOWN])
    more = f"<span>and {len(rows) - SHOWN} more</span>" if len(rows) > SHOWN else ""
    every = _button("Reset all", {"key": ""}, "") if len(rows) > 1 else ""
    count = "One setting" if len(rows) == 1 else f"{len(rows)} settings"
    words = f"{count} changed from {html.escape(preset)}:" if preset else f"{count} changed from the defaults:"
    inside = f"<span>{words}</span>{items}{more}{every}"
    return f'<div class="changed" role="group" aria-label="Changed settings">{inside}</div>'


def _chip(key: str, before: Any, now: Any) -> str:
    words = f"{html.escape(label(key))} <s>{_short(before)}</s> {_short(now)}"
    return f'<span class="chip" title="{key}">{words} {_button("Reset", {"key": key}, label(key))}</span>'


def _button(words: str, value: Mapping[str, str], of: str) -> str:
    name = html.escape(f"{words} {of}".strip())
    return f'<button type="button" data-pick="{html.escape(json.dumps(value))}" aria-label="{name}">{words}</button>'


def _short(value: Any) -> str:
    text = " ".join(str("empty" if value in (None, "") else value).split())
    return html.escape(text if len(text) <= 24 else f"{text[:24]}…")
