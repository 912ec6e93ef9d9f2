"""Pictures of every kind, made on the spot, for the tests of what is read and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, features

from lowrank_diffusion.image.data import DataError, check_picture, open_picture, scan

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
KINDS = ["png", "jpg", "webp", "bmp", "tiff", "gif"] + (["avif"] if features.check("avif") else [])


def save(path: Path, size: tuple[int, int] = (24, 20), colour=RED, mode: str = "RGB", **options) -> Path:
    Image.new(mode, size, colour).save(path, **options)
    return path


def noise(path: Path, size: tuple[int, int] = (64, 48), **options) -> Path:
    """A picture whose file is long enough to be cut."""
    pixels = bytes((index * index * 7 + index // 3) % 251 for index in range(size[0] * size[1] * 3))
    Image.frombytes("RGB", size, pixels).save(path, **options)
    return path


def png(path: Path, size: tuple[int, int], depth: int, kind: int, data: bytes, extra: bytes = b"") -> Path:
    """A PNG written chunk by chunk; ``kind`` is the colour type, ``data`` the filtered rows."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))
    return path


def problems(folder: Path, prompt: str = "x") -> list[str]:
    with pytest.raises(DataError) as caught:
        scan(folder, prompt)
    return caught.value.problems


def refusal(path: Path) -> str:
    """What check_picture says about a picture; opening it must say the same."""
    with pytest.raises(DataError) as caught:
        check_picture(path)
    assert len(caught.value.problems) == 1
    assert str(path) in str(caught.value)
    with pytest.raises(DataError) as again:
        open_picture(path)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def colours(path: Path, background: str = "#ffffff") -> list[tuple[int, int, int]]:
    """The colours of a picture's pixels in order, each once."""
    picture = open_picture(path, background)
    assert picture.mode == "RGB"
    values = picture.tobytes()
    return list(dict.fromkeys(zip(values[::3], values[1::3], values[2::3], strict=True)))


def cmyk_profile() -> bytes:
    """An ICC profile for a press whose cyan ink is, of all things, Lab (50, 80, 0): a strong pink."""
    white, pink, black = bytes([255, 128, 128]), bytes([127, 208, 128]), bytes([0, 128, 128])
    nodes = b"".join(black if node & 1 else pink if node & 8 else white for node in range(16))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + nodes + ramp * 3
    daylight = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    title = b"desc\0\0\0\0" + struct.pack(">I", 6) + b"press\0" + bytes(78)
    tags, body, offset = b"", b"", 128 + 4 + 12 * 3
    for name, content in ((b"desc", title), (b"wtpt", b"XYZ \0\0\0\0" + daylight), (b"A2B0", table)):
        content += bytes(-len(content) % 4)
        tags += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += daylight
    return header + bytes(128 - len(header)) + struct.pack(">I", 3) + tags + body
