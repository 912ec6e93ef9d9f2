"""Latents and text embeddings on disk, keyed by content and model: made once, shared by every run that needs them.

One safetensors file per item, with its key and a digest. One that cannot be read, or holds anything else, is made
again; deleting the folder costs time only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import Unreadable, opened
from ..paths import cache_folder

Tensors = dict[str, Tensor]


def key(*parts: object) -> str:
    """A file name that changes when any part does."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=20).hexdigest()


def get(kind: str, name: str) -> Tensors | None:
    """What is cached under this key, or None."""
    path = _path(kind, name)
    try:
        with opened(path), safe_open(path, framework="pt") as file:
            mark = (file.metadata() or {}).get("digest")
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, Unreadable):
        return None
    return tensors if mark == _digest(name, tensors) else None


def put(kind: str, name: str, tensors: Tensors) -> None:
    """Store tensors; a full disk only means that they are made again next time."""
    path = _path(kind, name)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    contents = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(contents, partial, {"digest": _digest(name, contents)})
        os.replace(partial, path)
    except (OSError, SafetensorError):
        partial.unlink(missing_ok=True)


def _digest(name: str, tensors: Tensors) -> str:
    """Of the key and all values: a file that came under another name is another item."""
    hasher = hashlib.blake2b(name.encode(), digest_size=20)
    for key in sorted(tensors):
        tensor = tensors[key]
        hasher.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


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
