"""What a picture may cost before it is decoded: a few hundred bytes can ask for gigabytes, or for minutes."""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import mmap
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image

LARGEST_MEGAPIXELS = 100
LARGEST_MEMORY = 485_000_000
"""Bytes for a picture as it is decoded and its copy in RGB, for which Pillow takes four bytes a pixel."""
LARGEST_FILE = 2_000_000_000
SMALLEST_SIDE = 16
"""Pixels."""
LARGEST_ASPECT = 20
"""Longer side to shorter: scaled until the shorter one fills a crop, a thin strip would become huge."""
MOST_SCANS = 100
"""A progressive JPEG has about ten; each is a pass over the whole picture."""
_COUNTED = 2_000_000
"""Bytes of a file whose frames are counted one by one."""
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_RGB = 4
_DECODERS = {"WEBP": 8, "AVIF": 8, "TIFF": 4}
"""Bytes per pixel that decoders hold in addition."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 100_000
_LARGEST_TEXT = 100_000
LARGEST_PROFILE = 16_000_000
"""Bytes of a colour profile; those of printers have a megabyte or two."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
"""Of a JPEG: what begins a segment, which says its length; between the pixels stand others."""
_SCAN, _END = b"\xda", b"\xd9"
_SAYS_WHAT_IS_UP = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


def problem(path: Path, image: Image.Image) -> str:
    """Why a picture of which the header was read is not decoded; empty if it is."""
    width, height = image.size
    size = f"is {width} x {height} px"
    need = _BYTES.get(image.mode, 4) + _RGB + _DECODERS.get(image.format or "", 0)
    for limit in (LARGEST_MEGAPIXELS * 1e6, LARGEST_MEMORY / need):
        if width * height > limit:
            many = f"{width * height / 1e6:.0f} megapixels"
            return f"{size}, {many}; the limit is {limit // 1e6:.0f} megapixels. Make it smaller."
    if min(width, height) < SMALLEST_SIDE:
        return f"{size}; each side needs at least {SMALLEST_SIDE} px. Use a larger picture."
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        return f"{size}; the longer side may be {LARGEST_ASPECT} times the shorter one. Crop it."
    if image.format in ("JPEG", "MPO") and image.info.get("progressive") and _scans(path) > MOST_SCANS:
        return f"is a JPEG of more than {MOST_SCANS} passes, which no program writes. Save it again."
    return ""


def frames(path: Path, image: Image.Image) -> str:
    """How many frames a picture has, if it has several; a broken list of them shows when decoding."""
    with contextlib.suppress(Exception):
        if getattr(image, "is_animated", False):
            if image.format in ("GIF", "TIFF") and path.stat().st_size > _COUNTED:
                return "many"
            return str(getattr(image, "n_frames", 1))
    return "1"


def _scans(path: Path) -> int:
    """How often a JPEG goes over its picture, as far as it matters.

    What cameras put before the picture and phones behind it (previews, films) is passed over.
    """
    count = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 2
        for _ in range(_MOST_CHUNKS):
            marker = _MARKER.search(content, at)
            if marker is None or marker[1] == _END or count > MOST_SCANS:
                return count
            count += marker[1] == _SCAN
            at = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    raise ValueError(f"it is in more than {_MOST_CHUNKS:,} pieces")


def without_texts(path: Path) -> BinaryIO | None:
    """A PNG without its texts, which can be megabytes (how a picture was made); None if it has none.

    Pillow would give up at large ones. Those that may say which side is up stay, and so does a colour profile, unless
    it is larger than any.
    """
    kept: list[tuple[int, int]] = []
    start = end = len(_PNG)
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return None
        start = 0
        for begin, end, text in _chunks(file):
            if text and begin > start:
                kept.append((start, begin))
            start = end if text else start
    return io.BufferedReader(_Parts(path, [*kept, (start, max(start, end))])) if start else None


def _chunks(file: BinaryIO) -> Iterator[tuple[int, int, bool]]:
    """Where each piece of a PNG begins and ends, and whether it is a text to leave out."""
    position, said = len(_PNG), set()
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        head = file.read(32)
        if len(head) < 8:
            return
        size, kind = int.from_bytes(head[:4], "big") + 12, head[4:8]
        text = kind in _TEXTS
        if text and size <= _LARGEST_TEXT and head[8:].startswith(_SAYS_WHAT_IS_UP):
            text = kind in said or _is_bomb(kind, file, position)
            said.add(kind)
        elif kind == b"iCCP":
            text = size > LARGEST_PROFILE or _is_bomb(kind, file, position)
        yield position, position + size, text
        position += size
        if kind == b"IEND":
            return
    raise ValueError(f"it is in more than {_MOST_CHUNKS:,} pieces")


def _is_bomb(kind: bytes, file: BinaryIO, position: int) -> bool:
    """Whether a piece becomes larger than any colour profile once it is unpacked."""
    file.seek(position)
    size = int.from_bytes(file.read(4), "big")
    packed = file.read(4 + size)[4:].partition(b"\0")[2]
    if kind == b"iTXt":  # packed or not, how, language, translated name
        packed = packed[2:].split(b"\0", 2)[-1] if packed[:1] == b"\1" else b""
    else:
        packed = packed[1:]
    with contextlib.suppress(zlib.error):  # Pillow itself skips what is not such a stream
        return len(zlib.decompressobj().decompress(packed, LARGEST_PROFILE)) == LARGEST_PROFILE
    return False


class _Parts(io.RawIOBase):
    """Parts of a file, (begin, end) each, as if they were a file of their own."""

    def __init__(self, path: Path, parts: list[tuple[int, int]]):
        self._file, self._parts, self._at = path.open("rb"), parts, 0
        self._ends = list(itertools.accumulate(end - begin for begin, end in parts))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._ends[-1])[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = bisect.bisect_right(self._ends, self._at)
        if part == len(self._parts):
            return 0
        left = self._ends[part] - self._at
        self._file.seek(self._parts[part][1] - left)
        content = self._file.read(min(len(buffer), left))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
