"""What a person typed and has not trained yet, kept on this machine: one small file for every page that was opened.

Two pages have two drafts. Nothing in a draft is trusted: it is a stranger's once it has been on a disk or in a browser.
"""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path
from typing import Any, TypeGuard

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.files import Unreadable, read_object
from lowrank_diffusion.paths import home, write_text

from .toolkit import gr

LARGEST = 4 * 2**20
"""Bytes of one draft."""
MOST = 100
"""Drafts that are kept; the ones not used for longest are forgotten first."""
LONGEST_TEXT = 1_000_000
LARGEST_NUMBER = 2**53

Draft = dict[str, dict[str, Any]]
"""Values by the part of the page and the name of the field."""

_lock = threading.Lock()


def folder() -> Path:
    """Where they are."""
    return home() / "drafts"


def is_key(key: Any) -> bool:
    """Whether it can be the name of a draft; 128 random bits, so that nobody reads another's."""
    return isinstance(key, str) and re.fullmatch(r"[0-9a-f]{32}", key) is not None


def read(key: Any) -> Draft:
    """The draft; an empty one where there is none, or none that can be read."""
    if not is_key(key):
        return {}
    path = folder() / f"{key}.json"
    try:
        stored = read_object(path, LARGEST)
    except Unreadable:
        return {}
    groups = stored.items()
    return {group: values for group, values in groups if isinstance(values, dict)}


def write(key: Any, values: Draft) -> None:
    """Put these parts into the draft; others stay. Raises UserError where it cannot be kept."""
    if not is_key(key):
        return
    with _lock:
        before = read(key)
        draft = before | values
        if draft == before:
            return
        text = json.dumps(draft)
        if len(text) > LARGEST:
            raise UserError(f"What is typed is too long to be kept for later ({len(text):,} characters).")
        try:
            folder().mkdir(parents=True, exist_ok=True)
            write_text(folder() / f"{key}.json", text)
            _forget_oldest()
        except OSError as error:
            raise UserError(f"Settings are not kept for later: {folder()}: {error.strerror}.") from None


def _forget_oldest() -> None:
    aged = []
    for path in folder().glob("*.json"):
        try:
            aged.append((path.stat().st_mtime_ns, path))
        except OSError:  # another page has just removed it
            continue
    for _, path in sorted(aged)[:-MOST]:
        path.unlink(missing_ok=True)


def fits(part: Any, value: Any) -> bool:
    """Whether a component can show a value that it is said to have shown before."""
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or (not value.isascii() and not _is_text(value))):
        return False
    match part:
        case gr.Checkbox():
            return isinstance(value, bool)
        case gr.Slider():
            return _is_number(value) and float(part.minimum) <= float(value) <= float(part.maximum)
        case gr.Number():
            return value is None or _is_number(value)
        case gr.Dropdown():
            return isinstance(value, str) and (part.allow_custom_value or value in [item[1] for item in part.choices])
        case _:
            return isinstance(value, str)


def fitting(parts: dict[str, Any], values: dict[str, Any]) -> dict[Any, Any]:
    """What a handler returns to show those of the values that can be shown."""
    return {part: values[name] for name, part in parts.items() if name in values and fits(part, values[name])}


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) <= LARGEST_NUMBER


def _is_text(value: str) -> bool:
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False
