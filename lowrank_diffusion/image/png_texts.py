"""The texts inside a PNG, read without decoding it, and bounded: a chunk of a few bytes can ask for gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..files import Unreadable, opened

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST = 2**20
"""Bytes of one text, as it is stored and unpacked; a page of settings has a few thousand, ComfyUI's graphs more."""
MOST_CHUNKS = 100_000
MOST_TEXTS = 64


def read(path: Path) -> dict[str, str]:
    """The texts by their keywords, the first of each. Raises Unreadable."""
    with opened(path) as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise Unreadable("is not a PNG; only those hold what they were drawn from.")
        texts: dict[str, str] = {}
        for kind, content in _chunks(file):
            keyword, text = _READERS[kind](content)
            texts.setdefault(keyword, text)
            if len(texts) >= MOST_TEXTS:
                break
        return texts


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Those that hold a text, and are not too large."""
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in _READERS and length <= LARGEST:
            yield kind, file.read(length)
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)


def _unpacked(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, LARGEST)
    except zlib.error:
        return b""


def _plain(content: bytes) -> tuple[str, str]:
    keyword, _, text = content.partition(b"\0")
    return keyword.decode("latin-1"), text.decode("latin-1")


def _packed(content: bytes) -> tuple[str, str]:
    keyword, _, rest = content.partition(b"\0")
    return keyword.decode("latin-1"), _unpacked(rest[1:]).decode("latin-1")


def _international(content: bytes) -> tuple[str, str]:
    keyword, _, rest = content.partition(b"\0")
    flag, rest = rest[:1], rest[2:]
    _, _, rest = rest.partition(b"\0")
    _, _, text = rest.partition(b"\0")
    return keyword.decode("latin-1"), (_unpacked(text) if flag == b"\1" else text).decode("utf-8", "replace")


_READERS = {b"tEXt": _plain, b"zTXt": _packed, b"iTXt": _international}
