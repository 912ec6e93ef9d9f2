"""What all base models share: telling a folder, a file and a hub id apart, without torch and without the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .config import Problem
from .errors import UserError, listed

HUB_ID = re.compile(r"(?=[^/]{1,96}/[^/]{1,96}$)(?!.*(?:--|\.\.))\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)
_HUB_ADDRESS = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+).*")
MODEL_KEY = "base.path"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_MODEL_SUFFIXES = (".safetensors", ".gguf", *PICKLES)


class ModelError(UserError):
    """All that is wrong with the choice of a base model (``problems``)."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__(listed(problems))


@dataclass(frozen=True)
class Location:
    """Where a model is: a path that exists, or a hub id that looks right."""

    kind: Literal["folder", "file", "hub"]
    path: str
    """Absolute local path, or the hub id."""
    label: str
    """What a person calls it: the folder's name, the file's stem, or the hub id."""


def find(value: str, key: str, accepted: str) -> Location | Problem:
    """Tell a folder, a file and a hub id apart; a path that exists wins over a hub id of the same spelling.

    Args:
        value: What a person gave.
        key: The setting it was given for.
        accepted: What can be given, for the error.
    """
    if local := _on_disk(value, key, accepted):
        return local
    if address := _HUB_ADDRESS.fullmatch(value):
        return Problem(key, f"{value!r} is a web address.", f"Give the hub id: {address[1]}")
    is_file_name = value.lower().endswith(_MODEL_SUFFIXES)
    if HUB_ID.fullmatch(value) and not is_file_name:
        return Location("hub", value, value)
    if is_file_name or value.startswith(("/", ".", "~")) or value.count("/") > 1:
        rule = f"{value!r} does not exist" + ("." if value.startswith(("/", "~")) else f" in {Path.cwd()}.")
        return Problem(key, rule, "Check the spelling.")
    return Problem(key, f"{value!r} is neither a path that exists nor a hub id.", accepted)


_COUNTS = re.compile(r"layers?$|layers_per_block|blocks|depth")
_SIZES = re.compile(r"size|dim|channels|heads|width|ffn|inner|d_model|n_embd|vocab|experts|groups")
MOST_LAYERS, LARGEST_SIDE, LONGEST_LIST = 1000, 2_000_000, 5000


def outsized(config: Mapping[str, Any]) -> str:
    """What a model's configuration says of itself that no model has; empty if nothing is.

    A library that builds what it is told would take all memory, or forever, before it looks at the weights.
    """
    todo = list(config.items())
    for _ in range(100_000):
        if not todo:
            return ""
        key, value = todo.pop()
        if isinstance(value, dict):
            todo += [(str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list) and len(value) <= LONGEST_LIST:
            todo += [(key, inner) for inner in value]
        elif isinstance(value, list):
            return f"{key[:80]} lists {len(value):,} values"
        elif isinstance(value, int | float) and not 0 <= abs(value) <= _largest(key):
            return f"{key[:80]} is {value:.3g}" if abs(value) < 1e300 else f"{key[:80]} is not a number"
    return "it has more than 100,000 values"


def _largest(key: str) -> float:
    return MOST_LAYERS if _COUNTS.search(key) else LARGEST_SIDE if _SIZES.search(key) else float("inf")


def _on_disk(value: str, key: str, accepted: str) -> Location | Problem | None:
    """The folder or file of this name, None where there is none."""
    try:
        path = Path(value).expanduser()
        if not path.exists():
            return None
    except (OSError, RuntimeError) as error:  # too long, no such user, not ours to see
        reason = getattr(error, "strerror", None) or error
        return Problem(key, f"{value[:80]!r} is not a path that can be read: {reason}.", accepted)
    target = path.resolve()
    return Location("folder", str(target), target.name) if path.is_dir() else Location("file", str(target), path.stem)
