"""Every kind of picture becomes upright 8-bit sRGB with the right colours."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image, ImageCms, features

from lowrank_diffusion.image.data import DataError, check_picture, content_key, open_picture, scan, thumbnail

from .picture_files import BLUE, GREEN, KINDS, RED, WHITE, cmyk_profile, colours, noise, png, refusal, save


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read(tmp_path, kind):
    path = save(tmp_path / f"a.{kind}", (32, 24), (200, 40, 90))
    assert all(abs(red - 200) + abs(green - 40) + abs(blue - 90) <= 12 for red, green, blue in colours(path))
    assert check_picture(path) == (32, 24)


def test_a_file_of_another_format_than_its_ending_is_fine(tmp_path):
    save(tmp_path / "a.png", format="JPEG")
    save(tmp_path / "b.jpg", format="WEBP")
    assert [picture.width for picture in scan(tmp_path, "x")] == [24, 24]


def test_a_phones_picture_with_a_second_one_behind_it_is_no_animation(tmp_path):
    second = Image.new("RGB", (16, 16), BLUE)
    Image.new("RGB", (32, 24), RED).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert check_picture(tmp_path / "a.jpg") == (32, 24)
    assert colours(tmp_path / "a.jpg")[0][0] > 250


def test_sixteen_bit_grey_is_scaled_from_end_to_end(tmp_path):
    values = [0, 128, 129, 257, 32896, 65280, 65406, 65407, 65535] + [0] * 7
    row = b"\x00" + struct.pack(">16H", *values)
    expected = [round(value / 257) for value in values]
    assert expected[:9] == [0, 0, 1, 1, 128, 254, 254, 255, 255]
    path = png(tmp_path / "a.png", (16, 16), 16, 0, row * 16)
    picture = open_picture(path)
    assert [picture.getpixel((x, 3)) for x in range(16)] == [(value,) * 3 for value in expected]
    with Image.open(path) as image:
        image.save(tmp_path / "a.tiff")
    assert open_picture(tmp_path / "a.tiff").tobytes() == picture.tobytes()


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    content = struct.pack(">H", 1000)
    extra = struct.pack(">I", 2) + b"tRNS" + content + struct.pack(">I", zlib.crc32(b"tRNS" + content))
    rows = (b"\x00" + struct.pack(">16H", *[1000, 1001] * 8)) * 16
    path = png(tmp_path / "a.png", (16, 16), 16, 0, rows, extra)
    assert colours(path, "#00ff00") == [GREEN, (4, 4, 4)]


def test_sixteen_bit_colour_and_alpha(tmp_path):
    pixel = struct.pack(">3H", 65535, 32896, 0)
    assert colours(png(tmp_path / "a.png", (16, 16), 16, 2, (b"\x00" + pixel * 16) * 16)) == [(255, 128, 0)]
    half = struct.pack(">4H", 65535, 0, 0, 0)
    assert colours(png(tmp_path / "b.png", (16, 16), 16, 6, (b"\x00" + half * 16) * 16), "#0000ff") == [BLUE]


def test_transparency_lies_over_the_background(tmp_path):
    cases = {
        "rgba.png": save(tmp_path / "rgba.png", mode="RGBA", colour=(255, 0, 0, 0)),
        "la.png": save(tmp_path / "la.png", mode="LA", colour=(9, 0)),
        "rgba.webp": save(tmp_path / "rgba.webp", mode="RGBA", colour=(255, 0, 0, 0), lossless=True),
    }
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([*RED, *GREEN])
    palette.paste(0, (0, 0, 20, 1))
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    grey = Image.new("L", (20, 20), 7)
    grey.save(tmp_path / "grey.png", transparency=7)
    for path in (*cases.values(), tmp_path / "grey.png"):
        assert colours(path, "#102030") == [(16, 32, 48)]
        assert colours(path) == [WHITE]
    for name in ("palette.png", "palette.gif"):
        assert colours(tmp_path / name, "#102030") == [RED, (16, 32, 48)]
    half = save(tmp_path / "half.png", mode="RGBA", colour=(255, 0, 0, 128))
    assert colours(half) == [(255, 127, 127)]
    assert colours(half, "#000000") == [(128, 0, 0)]


def test_one_bit_and_palette_pictures(tmp_path):
    image = Image.new("1", (20, 20), 1)
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png")
    assert colours(tmp_path / "a.png") == [(0, 0, 0), WHITE]
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([1, 2, 3])
    palette.save(tmp_path / "b.png")
    assert colours(tmp_path / "b.png") == [(1, 2, 3)]


@pytest.mark.parametrize("kind", ["jpg", "tiff"])
def test_cmyk_is_not_inverted(tmp_path, kind):
    path = save(tmp_path / f"a.{kind}", mode="CMYK", colour=(0, 255, 255, 0))
    if kind == "jpg":
        assert b"Adobe" in path.read_bytes()
    ((red, green, blue),) = colours(path)
    assert (red > 200, green < 60, blue < 60) == (True, True, True)
    ((red, green, blue),) = colours(save(tmp_path / f"b.{kind}", mode="CMYK", colour=(0, 0, 0, 0)))
    assert min(red, green, blue) > 250


@pytest.mark.skipif(not features.check("littlecms2"), reason="this Pillow has no colour management")
def test_an_embedded_profile_decides_what_the_colours_are(tmp_path):
    press = save(tmp_path / "a.jpg", mode="CMYK", colour=(255, 0, 0, 0), icc_profile=cmyk_profile(), quality=95)
    ((red, green, blue),) = colours(press)
    assert red > 200
    assert green < 60
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    swapped = swapped.replace(b"rXYZ", b"----", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"----", b"gXYZ", 1)
    ((red, green, blue),) = colours(save(tmp_path / "b.png", icc_profile=swapped))
    assert (red < 5, green > 250, blue < 5) == (True, True, True)
    clear = save(tmp_path / "c.png", mode="RGBA", colour=(255, 0, 0, 255), icc_profile=swapped)
    assert colours(clear)[0][1] > 250


def test_a_broken_or_unfitting_profile_leaves_the_colours_alone(tmp_path):
    assert colours(save(tmp_path / "a.png", icc_profile=b"nonsense")) == [RED]
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert colours(save(tmp_path / "b.png", icc_profile=plain)) == [RED]
    assert colours(save(tmp_path / "c.png", mode="L", colour=77, icc_profile=plain)) == [(77, 77, 77)]


# Where the first stored row and the first stored column are in the picture as it is meant to be seen (EXIF 2.3).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(tmp_path, kind, orientation):
    width, height = 32, 24
    seen = Image.new("RGB", (width, height), WHITE)
    seen.paste(RED, (0, 0, 16, 8))
    seen.paste(BLUE, (16, 16, 32, 24))
    row, column = ORIENTATIONS[orientation]
    sideways = row in ("left", "right")
    stored = Image.new("RGB", (height, width) if sideways else (width, height))
    for y in range(stored.height):
        for x in range(stored.width):
            from_left, from_top = (y, x) if sideways else (x, y)
            source_x = width - 1 - from_left if "right" in (row, column) else from_left
            source_y = height - 1 - from_top if "bottom" in (row, column) else from_top
            stored.putpixel((x, y), seen.getpixel((source_x, source_y)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    path = tmp_path / f"a.{kind}"
    stored.save(path, exif=exif, **options)
    assert check_picture(path) == (width, height)
    found = open_picture(path)
    differences = [abs(a - b) for a, b in zip(found.tobytes(), seen.tobytes(), strict=True)]
    assert max(differences) <= (40 if kind == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse_a_picture(tmp_path):
    path = save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert check_picture(path) == (24, 20)
    exif = Image.Exif()
    exif[0x0112] = 77
    assert check_picture(save(tmp_path / "b.jpg", exif=exif)) == (24, 20)


def test_a_thumbnail_fits_its_square(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = thumbnail(noise(tmp_path / "a.jpg", (640, 320), exif=exif), 64)
    with Image.open(BytesIO(content)) as small:
        assert small.size == (32, 64)
        assert small.format == "JPEG"
    assert len(content) < 8000
    with Image.open(BytesIO(thumbnail(save(tmp_path / "b.png"), 64))) as small:
        assert small.size == (24, 20)
    with pytest.raises(DataError, match="does not exist"):
        thumbnail(tmp_path / "gone.png", 64)


def test_the_key_is_that_of_the_bytes(tmp_path):
    first, second = save(tmp_path / "a.png"), save(tmp_path / "b.png")
    assert content_key(first) == content_key(second)
    assert len(content_key(first)) == 64
    save(second, colour=BLUE)
    assert content_key(first) != content_key(second)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iTXt", b"workflow\0\0\0\0\0" + b"x" * 3_000_000),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"tEXt", b"parameters\0" + b"x" * 3_000_000) * 30,
        chunk(b"iCCP", b"wide\0\0" + zlib.compress(bytes(1_500_000))),
        chunk(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(200_000_000))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 20_000_000)),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"x" * 20_000_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 10_000_000)) * 9,
        chunk(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(100_000_000))),
        chunk(b"eXIf", b"MM\0*" + bytes(5_000_000)),
        chunk(b"caBX", bytes(5_000_000)),
    ],
    ids=["a workflow", "a compressed text", "many texts", "a large profile", "a text that is a bomb", "a history",
         "EXIF that is a bomb", "many histories", "a profile that is a bomb", "large EXIF", "a maker's own"],
)  # fmt: skip
def test_what_a_png_carries_beside_its_pixels_does_no_harm(tmp_path, extra):
    path = png(tmp_path / "a.png", (16, 16), 8, 2, (b"\0" + bytes(RED) * 16) * 16, extra)
    assert check_picture(path) == (16, 16)
    assert colours(path) == [RED]


def segments(marker: int, head: bytes, count: int) -> bytes:
    content = head + bytes(60_000)
    return (b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content) * count


@pytest.mark.parametrize(
    "extra",
    [
        segments(0xE1, b"Exif\0\0MM\0*", 100),
        segments(0xE1, b"http://ns.adobe.com/xmp/extension/\0", 100),
        segments(0xE2, b"ICC_PROFILE\0\1\xff", 100),
        segments(0xFE, b"a comment" + b"\xff\xda\0\x08" * 200, 2),
        segments(0xED, b"Photoshop 3.0\x008BIM" + b"\xff\xd9", 50),
    ],
    ids=["EXIF", "a history", "a profile", "what looks like passes", "a preview"],
)
def test_what_a_jpeg_carries_beside_its_pixels_does_no_harm(tmp_path, extra):
    content = noise(tmp_path / "a.jpg", (64, 48), progressive=True).read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:2] + extra + content[2:])
    assert check_picture(tmp_path / "a.jpg") == (64, 48)


def test_a_phones_picture_with_a_film_behind_it(tmp_path):
    path = noise(tmp_path / "a.jpg", (64, 48), progressive=True)
    path.write_bytes(path.read_bytes() + b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08film" * 1000)
    assert check_picture(path) == (64, 48)


@pytest.mark.parametrize("kind", ["webp", "jpg", "tiff"])
def test_large_metadata_of_other_formats(tmp_path, kind):
    extra = {"exif": b"Exif\0\0MM\0*" + bytes(60_000), "icc_profile": bytes(3_000_000)}
    if kind == "webp":
        extra |= {"exif": b"Exif\0\0MM\0*" + bytes(5_000_000), "xmp": b"x" * 5_000_000}
    path = save(tmp_path / f"a.{kind}", (24, 20), **extra)
    assert path.stat().st_size > 3_000_000 and check_picture(path) == (24, 20)


def test_a_png_whose_texts_are_left_out_is_still_checked_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", (30, 20), exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    place = content.index(b"IDAT") - 4
    text = chunk(b"tEXt", b"parameters\0" + b"x" * 2_000_000)
    (tmp_path / "a.png").write_bytes(content[:place] + text + content[place:])
    assert check_picture(tmp_path / "a.png") == (20, 30)
    (tmp_path / "a.png").write_bytes(content[:place] + text + content[place : place + 12])
    assert "damaged" in refusal(tmp_path / "a.png")
