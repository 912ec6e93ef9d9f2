"""Pictures that ask for more memory or time than any picture needs are refused by their header."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image

from lowrank_diffusion.image import bounds
from lowrank_diffusion.image.data import check_picture, open_picture

from .picture_files import BLUE, RED, noise, png, refusal, save


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize(("kind", "most"), [(2, 60), (6, 60), (3, 100), (0, 100)])
def test_what_a_pixel_takes_in_memory_counts(tmp_path, kind, most):
    """Colours take four bytes a pixel twice, grey and palettes one and then four."""
    palette = chunk(b"PLTE", bytes(768)) if kind == 3 else b""
    message = refusal(png(tmp_path / "a.png", (10_100, 10_000), 8, kind, b"", palette))
    assert "101 megapixels; the limit is 100 megapixels" in message
    message = refusal(png(tmp_path / "b.png", (9_900, 9_000), 8, kind, b"", palette))
    assert "the limit is 60 megapixels" in message if most == 60 else "damaged" in message


def test_threads_of_pixels_are_refused(tmp_path):
    """Scaled until its shorter side fills a crop, this one would have twelve thousand megapixels."""
    for size in ((16, 400_000), (400_000, 16), (100, 2001)):
        assert "20 times the shorter" in refusal(png(tmp_path / "a.png", size, 8, 0, b""))
    assert check_picture(save(tmp_path / "b.png", (100, 2000))) == (100, 2000)


def test_a_jpeg_of_very_many_passes(tmp_path):
    path = noise(tmp_path / "a.jpg", (64, 48), progressive=True)
    assert check_picture(path) == (64, 48)
    content = path.read_bytes()
    start = content.index(b"\xff\xda")
    end = content.index(b"\xff\xda", start + 2)
    path.write_bytes(content[:start] + content[start:end] * 200 + content[end:])
    assert "more than 100 passes" in refusal(path)


def test_the_frames_of_a_long_animation_are_not_counted(tmp_path, monkeypatch):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:] * 3)
    assert "is animated (7 frames)" in refusal(tmp_path / "a.gif") or "is animated (2 frames)" in refusal(
        tmp_path / "a.gif"
    )
    monkeypatch.setattr(bounds, "_COUNTED", 10)
    assert "is animated (many frames)" in refusal(tmp_path / "a.gif")


def test_a_png_of_nothing_but_pieces(tmp_path, monkeypatch):
    path = png(tmp_path / "a.png", (32, 32), 8, 0, bytes(33 * 32), chunk(b"tEXt", b"a\0b") * 400)
    assert check_picture(path) == (32, 32)
    monkeypatch.setattr(bounds, "_MOST_CHUNKS", 300)
    assert "more than 300 pieces" in refusal(path)


def test_texts_between_the_pixels_are_passed_over(tmp_path):
    """Pieces of a picture with texts between them are the same picture."""
    plain = noise(tmp_path / "a.png", (200, 150)).read_bytes()
    at = plain.index(b"IDAT") - 4
    size = struct.unpack(">I", plain[at : at + 4])[0]
    pixels, text = plain[at + 8 : at + 8 + size], chunk(b"iTXt", b"a\0\0\0\0\0" + b"b" * 5_000_000)
    parts = b"".join(text + chunk(b"IDAT", pixels[start : start + 5000]) for start in range(0, size, 5000))
    (tmp_path / "b.png").write_bytes(plain[:at] + parts + chunk(b"IEND", b""))
    assert open_picture(tmp_path / "b.png").tobytes() == open_picture(tmp_path / "a.png").tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_turning_into_rgb_in_strips_changes_nothing(tmp_path, mode, monkeypatch):
    from lowrank_diffusion.image import pictures

    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    pixels = bytes((index * index * 7 + index // 3) % 251 for index in range(64 * 48 * 4))
    image = Image.frombytes("RGBA", (64, 48), pixels)
    picture = (
        Image.frombytes("I;16", (64, 48), pixels[: 64 * 48 * 2])
        if mode == "I;16"
        else image.convert("RGB" if mode in "P1" else mode if mode != "CMYK" else "RGB").convert(mode)
    )
    picture.save(path)
    whole = open_picture(path, "#123456").tobytes()
    monkeypatch.setattr(pictures, "_AT_ONCE", 300)
    assert open_picture(path, "#123456").tobytes() == whole
