"""The header of a GGUF file: walked through before a library reads it, without loading anything.

The library believes what a header says of its own sizes: one that says it has 2**60 names keeps it busy forever.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import functools
import math
import os
import struct
from pathlib import Path
from typing import BinaryIO

from ..files import Unreadable, opened

VERSIONS = (2, 3)
MOST_FACTS, MOST_TENSORS, MOST_ITEMS = 10_000, 100_000, 5_000_000
LONGEST_NAME, LONGEST_TEXT = 1000, 16_000_000
"""Bytes."""
_LARGEST_TENSOR = 2**48
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by the number of its type."""
_TEXT, _LIST = 8, 9
_WHOLE = {4: "<I", 5: "<i", 10: "<Q", 11: "<q"}
_LIMITS = {
    "block_count": 1000, "embedding_length": 10**6, "feed_forward_length": 10**7, "vocab_size": 10**7,
    "head_count": 10**5, "head_count_kv": 10**5, "key_length": 10**6, "value_length": 10**6, "expert_count": 10**5,
}  # fmt: skip
"""The most that any model has of each, by the last word of the fact's name."""


class _NotSound(Exception):
    """What is wrong, as the end of a sentence."""


def problem(path: Path) -> str:
    """What keeps a file from being a GGUF file that a library can be given; empty if nothing does."""
    try:
        facts = path.stat()
        return _problem(path, facts.st_mtime_ns, facts.st_size)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})."


@functools.lru_cache(maxsize=64)
def _problem(path: Path, _changed: int, _size: int) -> str:
    """The same; a file that has changed since is another one."""
    try:
        with opened(path) as file:
            if file.read(4) != b"GGUF":
                return "is not a GGUF file, whatever its name."
            _Walk(file).header()
        return ""
    except Unreadable as error:
        return str(error)
    except _NotSound as error:
        return f"is not a sound GGUF file: {error}."


class _Walk:
    """From the start of a file to the end of its header."""

    def __init__(self, file: BinaryIO):
        self.file, self.size, self.items = file, os.fstat(file.fileno()).st_size, 0
        self.sides = dict.fromkeys(_LIMITS, 0)

    def header(self) -> None:
        (version,) = self.numbers("<I")
        if version not in VERSIONS:
            raise _NotSound(f"its version is {version}, not {' or '.join(map(str, VERSIONS))}")
        tensors, facts = self.numbers("<QQ")
        if tensors > MOST_TENSORS or facts > MOST_FACTS:
            raise _NotSound(f"it says that it has {tensors:,} tensors and {facts:,} facts about them")
        for _ in range(facts):
            name = self.text(LONGEST_NAME)
            (kind,) = self.numbers("<I")
            self.value(kind, name)
        for _ in range(tensors):
            self.tensor()
        wide, layers, words = (self.sides[name] for name in ("embedding_length", "block_count", "vocab_size"))
        if layers > tensors:
            raise _NotSound(f"it has {tensors:,} tensors, and says that its model has {layers:,} layers")
        least = wide * words + layers * wide * (wide + self.sides["feed_forward_length"])
        if least > 16 * self.size + 10_000_000:  # what is missing would be made up, in memory
            raise _NotSound(f"it is of {self.size:,} bytes, and says that its model has {least:,} weights")

    def tensor(self) -> None:
        self.text(LONGEST_NAME)
        (count,) = self.numbers("<I")
        if count > 8:
            raise _NotSound(f"a tensor has {count:,} dimensions")
        sides = self.numbers(f"<{count}Q")
        if math.prod(sides) > _LARGEST_TENSOR:
            raise _NotSound(f"a tensor is of {' x '.join(map(str, sides))} numbers")
        _, offset = self.numbers("<IQ")
        if offset > self.size:
            raise _NotSound("it ends before its tensors do")

    def value(self, kind: int, name: bytes) -> None:
        if kind == _TEXT:
            self.text(LONGEST_TEXT)
        elif kind == _LIST:
            inner, count = self.numbers("<IQ")
            self.items += count
            if self.items > MOST_ITEMS or inner == _LIST:
                raise _NotSound(f"it lists {count:,} values of the type {inner}")
            if inner == _TEXT:
                for _ in range(count):
                    self.text(LONGEST_TEXT)
            else:
                self.skip(count * self.size_of(inner))
        elif kind in _WHOLE:
            (number,) = self.numbers(_WHOLE[kind])
            last = name.rpartition(b".")[2].decode("latin-1")
            if not 0 <= number <= _LIMITS.get(last, 2**64):
                raise _NotSound(f"its {last[:80]} is {number:,}")
            self.sides[last] = number
        else:
            self.skip(self.size_of(kind))

    def size_of(self, kind: int) -> int:
        if kind not in _SIZES:
            raise _NotSound(f"a value has the type {kind}, which does not exist")
        return _SIZES[kind]

    def text(self, most: int) -> bytes:
        (length,) = self.numbers("<Q")
        if length > most:
            raise _NotSound(f"a text is of {length:,} bytes")
        if most == LONGEST_NAME:
            return self.exactly(length)
        self.skip(length)
        return b""

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.exactly(struct.calcsize(form)))

    def exactly(self, count: int) -> bytes:
        content = self.file.read(count)
        if len(content) < count:
            raise _NotSound("it ends inside of its header")
        return content

    def skip(self, count: int) -> None:
        if self.file.seek(count, os.SEEK_CUR) > self.size:
            raise _NotSound("it ends inside of its header")
