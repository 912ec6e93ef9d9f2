"""Files that are no pictures to learn from are refused with their name and what to do."""

from __future__ import annotations

import warnings

import pytest
from PIL import Image, ImageFile

from lowrank_diffusion.image.data import check_picture

from .picture_files import BLUE, GREEN, KINDS, RED, noise, png, refusal, save


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_of_every_format(tmp_path, kind, share):
    path = noise(tmp_path / f"a.{kind}")
    assert check_picture(path) == (64, 48)
    content = path.read_bytes()
    path.write_bytes(content[: max(20, int(len(content) * share))])
    assert any(word in refusal(path) for word in ("damaged", "cut short"))


def test_truncation_counts_even_where_another_library_told_pillow_to_accept_it(tmp_path):
    path = noise(tmp_path / "a.jpg", (256, 256))
    path.write_bytes(path.read_bytes()[:-4000])
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        assert "cut short" in refusal(path)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_a_flipped_bit_in_a_png(tmp_path):
    path = noise(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[-30] ^= 4
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_empty_and_foreign_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic")
    assert "HEIC/HEIF picture, which cannot be read. Convert it to PNG or JPEG" in refusal(tmp_path / "b.jpg")
    (tmp_path / "c.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n")
    assert "not a picture that can be read" in refusal(tmp_path / "c.png")
    assert "is not a file" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "gone.png")


@pytest.mark.parametrize(("size", "text"), [((12000, 10000), "12000 x 10000 px, 120"), ((20000, 10000), "has 200")])
def test_huge_pictures_are_refused_by_their_header(tmp_path, size, text):
    message = refusal(png(tmp_path / "a.png", size, 8, 2, b""))
    assert f"{text} megapixels; the limit is 100 megapixels" in message


def test_a_picture_just_below_the_limit_is_read_without_a_warning(tmp_path):
    path = png(tmp_path / "a.png", (9400, 9600), 1, 0, bytes((9400 // 8 + 1) * 9600))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_picture(path) == (9400, 9600)


@pytest.mark.parametrize(
    ("kind", "word"), [("gif", "animated"), ("webp", "animated"), ("png", "animated"), ("tiff", "pages")]
)
def test_animations_name_their_number_of_frames(tmp_path, kind, word):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], duration=100)
    message = refusal(tmp_path / f"a.{kind}")
    assert word in message
    assert "(3 frames)" in message


def test_small_pictures_and_numbers_that_are_no_colours(tmp_path):
    assert "15 x 16 px; each side needs at least 16 px" in refusal(save(tmp_path / "a.png", (15, 16)))
    assert "floating-point" in refusal(save(tmp_path / "a.tiff", mode="F", colour=0.5))
    assert "32-bit" in refusal(save(tmp_path / "b.tiff", mode="I", colour=70000))
