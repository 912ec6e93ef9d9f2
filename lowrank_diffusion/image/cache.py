"""Latents and text embeddings on disk, keyed by content and model: made once, shared by every run that needs them.

One safetensors file per item. A file that cannot be read is made again; deleting the folder costs time only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..paths import cache_folder

Tensors = dict[str, Tensor]


def key(*parts: object) -> str:
    """A file name that changes when any part does."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=20).hexdigest()


def get(kind: str, name: str) -> Tensors | None:
    """What is cached under this key, or None."""
    path = _path(kind, name)
    try:
        return load_file(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        path.unlink(missing_ok=True)
        return None


def put(kind: str, name: str, tensors: Tensors) -> None:
    """Store tensors; a full disk only means that they are made again next time."""
    path = _path(kind, name)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial)
        os.replace(partial, path)
    except (OSError, SafetensorError):
        partial.unlink(missing_ok=True)


def fill(
    kind: str,
    names: list[str],
    make: Callable[[int], Tensors],
    progress: Callable[[int, int], None],
) -> list[Tensors]:
    """Every item, taken from the cache or made by ``make(index)``; ``progress(done, total)`` after each."""
    items = []
    for index, name in enumerate(names):
        tensors = get(kind, name)
        if tensors is None:
            tensors = make(index)
            put(kind, name, tensors)
        items.append(tensors)
        progress(index + 1, len(names))
    return items


def _path(kind: str, name: str) -> Path:
    return cache_folder() / kind / name[:2] / f"{name}.safetensors"
