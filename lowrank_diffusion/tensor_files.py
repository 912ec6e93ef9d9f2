"""The header of a .safetensors file: checked before any library reads it, without torch and without its weights."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import Unreadable, opened

LARGEST_HEADER = 16_000_000
"""Bytes. A whole base takes half a million, an adapter of all layers one, the tags of a large set some more."""
MOST_TENSORS = 50_000
LONGEST_NAME = 1000
_LARGEST_SIDE = 2**48
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
_AGAIN = "Download or copy it again."
_NOT_SOUND = "is corrupt: its header is not that of a safetensors file. Download it again."


class HeaderError(ValueError):
    """The file is not a sound safetensors file; the text says what it is instead, and what to do."""


@dataclass(frozen=True)
class Header:
    """Tensor shapes by name, and the file's own metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read(path: Path) -> Header:
    """Read the header and compare it with the size of the file.

    Raises:
        HeaderError: The file is empty, truncated, corrupt, of another format or has far more in its header than any
            model or adapter.
    """
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(64)
            length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
            if length < 2 or start[8:9] != b"{":
                raise HeaderError(_signature(start, size))
            if length > size - 8:
                raise HeaderError(f"is truncated: {size:,} bytes are there, its header alone is longer. {_AGAIN}")
            if length > LARGEST_HEADER:
                raise HeaderError(f"has a header of {length:,} bytes; at most {LARGEST_HEADER:,} are read.")
            file.seek(8)
            content = file.read(length)
    except Unreadable as error:
        raise HeaderError(str(error)) from None
    return _parse(content, size - 8 - length)


def _parse(content: bytes, data: int) -> Header:
    """The header's JSON; ``data`` is the number of bytes that follow it in the file."""
    if content.count(b"[") + content.count(b"{") > 8 * MOST_TENSORS:  # a tensor has three; making millions takes long
        raise HeaderError("has a header of far more lists than any model. Is it the right file?")
    try:
        entries: dict[str, Any] = json.loads(content.decode())
        metadata = entries.pop("__metadata__", None) or {}
        if len(entries) > MOST_TENSORS:
            raise HeaderError(f"lists {len(entries):,} tensors; at most {MOST_TENSORS:,} are read.")
        shapes = {_text(name, LONGEST_NAME): _shape(entry) for name, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        said = {_text(key): _text(value) for key, value in metadata.items()}
    except HeaderError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, ArithmeticError):
        raise HeaderError(_NOT_SOUND) from None
    if end > data:
        raise HeaderError(f"is truncated: {data:,} of {end:,} bytes of weights are there. {_AGAIN}")
    if end < data:
        raise HeaderError(f"is corrupt: {data - end:,} bytes follow its last weight. Download it again.")
    return Header(shapes, said)


def _text(value: Any, most: int | None = None) -> str:
    """A name or a value of the metadata. Raises ValueError for anything but text that can be written down."""
    if not isinstance(value, str) or (most is not None and len(value) > most):
        raise ValueError
    value.encode()
    return value


def _shape(entry: Any) -> tuple[int, ...]:
    """The shape of a tensor, once it agrees with the bytes that are said to be its own. Raises ValueError."""
    shape, (begin, end), kind = tuple(entry["shape"]), entry["data_offsets"], entry["dtype"]
    if not all(type(side) is int and 0 <= side < _LARGEST_SIDE for side in (*shape, begin, end)) or len(shape) > 8:
        raise ValueError
    if not isinstance(kind, str) or begin > end:
        raise ValueError
    if kind in _BYTES and end - begin != math.prod(shape) * _BYTES[kind]:
        raise ValueError
    return shape


def _signature(start: bytes, size: int) -> str:
    """What a file is that is not a safetensors file."""
    if size == 0:
        return f"is empty. {_AGAIN}"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights. Run 'git lfs pull' where it was cloned."
    if start.startswith(b"GGUF"):
        return "is a GGUF file under another name, which is not supported. Give a .safetensors file."
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return "is a pickle checkpoint under another name; loading it could run any code. Give a real .safetensors."
    if start.lstrip()[:1] == b"<":
        return "is a web page saved under this name. Download the file itself."
    return "is not a safetensors file, or is corrupt from its first byte. Download it again."
