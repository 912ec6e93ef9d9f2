"""Training crops: what is shown is where framing say, for every shape of picture and crop, mirrored or not.

The pictures tell their own coordinates: red is x and green is y, in pixels of the stored picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowrank_diffusion.config import DataConfig
from lowrank_diffusion.image.buckets import Size
from lowrank_diffusion.image.crops import Crop, fit
from lowrank_diffusion.image.data import Picture, scan

SIDE = 64
SHAPES = [(192, 128), (128, 192), (128, 128), (200, 129), (40, 50), (64, 64), (250, 64)]


def picture(folder: Path, width: int, height: int, name: str = "a.png", **options: object) -> Picture:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None, :], np.arange(height)[:, None]
    Image.fromarray(pixels).save(folder / name, **options)
    (found,) = [item for item in scan(folder, "a thing") if item.path.name == name]
    return found


def crops(source: Picture, side: int = SIDE, seed: int = 0, **settings: object) -> list[Crop]:
    (found,) = fit([source], [(side, side)], DataConfig(**settings), seed)  # type: ignore[arg-type]
    return found


def assert_shows_what_it_says(crop: Crop, width: int, height: int) -> None:
    """Every pixel's colour is the stored coordinate that crop corner, scale and mirroring give it."""
    shown = np.asarray(crop.pixels("#ffffff"), dtype=float)
    assert shown.shape == (crop.target[1], crop.target[0], 3)
    original_height, original_width, top, left, target_height, target_width = crop.framing
    assert (original_width, original_height, target_width, target_height) == (width, height, *crop.target)
    across, down = crop.scaled
    assert 0 <= left <= across - target_width and 0 <= top <= down - target_height
    x = (left + np.arange(target_width) + 0.5) * width / across - 0.5
    y = (top + np.arange(target_height) + 0.5) * height / down - 0.5
    x = width - 1 - x if crop.flipped else x
    inner = slice(6, -6)  # at a picture's edge the filter has no neighbours to read
    assert np.abs(shown[..., 0] - x[None, :])[inner, inner].max() <= 1.01
    assert np.abs(shown[..., 1] - y[:, None])[inner, inner].max() <= 1.01


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("kind", ["center", "random"])
@pytest.mark.parametrize("flip", [False, True])
def test_the_square_shown_is_where_time_ids_say(tmp_path: Path, width: int, height: int, kind: str, flip: bool):
    source = picture(tmp_path, width, height)
    found = crops(source, crop=kind, crops=3 if kind == "random" else 1, flip=flip)
    assert len(found) == (3 if kind == "random" else 1) * (2 if flip else 1)
    assert [crop.flipped for crop in found] == [False, True] * (len(found) // 2) if flip else not found[0].flipped
    for crop in found:
        assert (crop.path, crop.caption) == (source.path, "a thing")
        assert_shows_what_it_says(crop, width, height)


def test_scaling_keeps_the_shape_and_never_leaves_a_gap():
    for width in range(60, 70):
        for height in (64, 65, 97, 200, 1000):
            for target in ((SIDE, SIDE), (80, 48), (48, 80)):
                across, down = Crop(Path("x"), "", target, width, height, 0, 0).scaled
                assert (across == target[0] and down >= target[1]) or (across >= target[0] and down == target[1])
                assert across / down == pytest.approx(width / height, rel=0.015)


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("size", [(80, 48), (48, 80), (96, 32)])
def test_a_crop_of_any_size_is_where_time_ids_say(tmp_path: Path, width: int, height: int, size: Size):
    source = picture(tmp_path, width, height)
    for cfg in (DataConfig(), DataConfig(crop="random", crops=3, flip=True)):
        (found,) = fit([source], [size], cfg, 5)
        assert len(found) == cfg.crops * (2 if cfg.flip else 1)
        for crop in found:
            assert crop.target == size
            assert_shows_what_it_says(crop, width, height)


def test_a_crop_of_another_size_scales_no_more_than_it_must(tmp_path: Path):
    source = picture(tmp_path, 192, 128)
    ((wide,), (tall,)) = fit([source, source], [(80, 48), (48, 80)], DataConfig(), 0)
    assert wide.scaled == (80, 53) and wide.framing == (128, 192, 2, 0, 48, 80)
    assert tall.scaled == (120, 80) and tall.framing == (128, 192, 0, 36, 80, 48)


def test_center_is_the_middle(tmp_path: Path):
    (wide,) = crops(picture(tmp_path, 192, 128))
    assert wide.scaled == (96, 64) and wide.framing == (128, 192, 0, 16, 64, 64)
    (tall,) = crops(picture(tmp_path, 128, 192, "b.png"))
    assert tall.scaled == (64, 96) and tall.framing == (192, 128, 16, 0, 64, 64)


def test_random_places_reach_every_edge_and_depend_on_seed_and_name_only(tmp_path: Path):
    source = picture(tmp_path, 192, 128)
    found = [crop.left for seed in range(8) for crop in crops(source, seed=seed, crop="random", crops=64)]
    assert set(found) == set(range(33)) and {crop.top for crop in crops(source, crop="random", crops=64)} == {0}
    once = crops(source, seed=3, crop="random", crops=5)
    assert once == crops(source, seed=3, crop="random", crops=5)
    assert once[:2] == crops(source, seed=3, crop="random", crops=2)
    assert once != crops(source, seed=4, crop="random", crops=5)
    other = crops(picture(tmp_path, 192, 128, "b.png"), seed=3, crop="random", crops=5)
    assert [crop.left for crop in once] != [crop.left for crop in other]


def test_a_mirrored_crop_says_its_distance_from_the_left_edge_of_what_it_sees(tmp_path: Path):
    plain, mirrored = crops(picture(tmp_path, 192, 128), seed=1, crop="random", flip=True)
    assert plain.framing == mirrored.framing and plain.left != 16
    left_of_plain = np.asarray(plain.pixels("#ffffff"))[32, 32, 0]
    left_of_mirrored = 191 - np.asarray(mirrored.pixels("#ffffff"))[32, 32, 0]
    assert abs(int(left_of_plain) - int(left_of_mirrored)) <= 1


def test_a_picture_that_its_camera_turned(tmp_path: Path):
    """EXIF 6: stored 192 x 128, seen upright as 128 x 192; the crop is of what is seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    source = picture(tmp_path, 192, 128, exif=exif)
    assert (source.width, source.height) == (128, 192)
    (crop,) = crops(source)
    assert crop.framing == (192, 128, 16, 0, 64, 64)
    shown = np.asarray(crop.pixels("#ffffff"), dtype=float)
    x = (crop.top + np.arange(SIDE) + 0.5) * 2 - 0.5  # turned a quarter clockwise: down the picture is its stored x
    y = 127 - ((np.arange(SIDE) + 0.5) * 2 - 0.5)
    assert np.abs(shown[..., 0] - x[:, None])[6:-6, 6:-6].max() <= 1.01
    assert np.abs(shown[..., 1] - y[None, :])[6:-6, 6:-6].max() <= 1.01


def test_transparency_shows_the_background(tmp_path: Path):
    Image.new("RGBA", (80, 80), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (source,) = scan(tmp_path, "x")
    (crop,) = crops(source)
    assert crop.pixels("#102030").getpixel((5, 5)) == (0x10, 0x20, 0x30)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"crop": "random", "crops": 3, "flip": True}])
def test_the_part_is_where_the_pixels_are_from(tmp_path: Path, shape: Size, settings: dict):
    source = picture(tmp_path, *shape)
    for crop in crops(source, **settings):
        left, top, right, bottom = crop.part
        assert 0 <= left < right <= 1 + 1e-9 and 0 <= top < bottom <= 1 + 1e-9
        pixels = np.asarray(crop.pixels("#ffffff"), dtype=float)
        pixels = pixels[:, ::-1] if crop.flipped else pixels
        middle = pixels[SIDE // 2 - 2 : SIDE // 2 + 2, SIDE // 2 - 2 : SIDE // 2 + 2].mean((0, 1))
        assert middle[0] == pytest.approx((left + right) / 2 * shape[0] - 0.5, abs=2)
        assert middle[1] == pytest.approx((top + bottom) / 2 * shape[1] - 0.5, abs=2)
