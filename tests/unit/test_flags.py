"""What a person should look at in a set: told of pictures that have it, and of none that ship with the project."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lowrank_diffusion.image import flags
from lowrank_diffusion.image.data import Picture, checked, scan
from lowrank_diffusion.image.pictures import open_picture
from lowrank_diffusion.paths import EXAMPLES

from .picture_files import save

ICONS = sorted((EXAMPLES / "style-3d-icons").glob("*.png"))
CATS = sorted((EXAMPLES / "subject-cat").glob("*.png"))


def kinds(pictures: list[Picture], **options: object) -> list[tuple[str, str]]:
    return [(flag.picture.name, flag.kind) for flag in flags.flags(pictures, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["style-3d-icons", "subject-cat"])
def test_nothing_is_said_of_the_examples(name: str):
    pictures = scan(EXAMPLES / name)
    assert kinds(pictures, sizes=[(128, 128)] * len(pictures)) == []


@pytest.mark.parametrize("path", [*ICONS, *CATS], ids=lambda path: path.stem)
def test_blurred_is_what_an_eye_calls_so(path: Path, tmp_path: Path):
    picture = open_picture(path)
    for sigma in (0.5, 1.5, 4):
        blurred = picture.filter(ImageFilter.GaussianBlur(sigma))
        blurred.save(tmp_path / f"{sigma}.png")
        blurred.resize((1024, 1024), Image.Resampling.BICUBIC).save(tmp_path / f"{sigma}-large.png")
    sharpness = {p.stem: flags.look(p).sharpness or 0 for p in tmp_path.glob("*.png")}
    assert min(sharpness["0.5"], flags.look(path).sharpness or 0) > 3 * flags.BLURRED
    assert max(sharpness[name] for name in ("1.5", "4", "1.5-large", "4-large")) < flags.BLURRED


def test_a_blurred_picture_is_named_with_what_to_do(tmp_path: Path):
    open_picture(CATS[0]).filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "a.png")
    (flag,) = flags.flags([checked(tmp_path / "a.png")])
    assert (flag.kind, flag.what, flag.advice) == (
        "blurred", "is blurred.", "Take a sharper one, or leave it out.",
    )  # fmt: skip


def test_small_is_what_is_enlarged(tmp_path: Path):
    pictures = [Picture(save(tmp_path / f"{w}.png", (w, 300)), "", w, 300) for w in (300, 200)]
    pictures.append(Picture(pictures[0].path, "", 300, 300, frame=(0, 0, 0.5, 0.5)))
    raised = list(flags.small(pictures, [(300, 300)] * 3))
    assert [flag.picture.name for flag in raised] == ["200.png", "300.png"]
    assert raised[0].what == "is enlarged 1.5 times, to 300 x 300 px." and "2.0 times" in raised[1].what
    assert list(flags.small(pictures[1:2], [(200, 300)])) == []


@pytest.mark.parametrize("path", ICONS[:6], ids=lambda path: path.stem)
def test_the_same_picture_in_another_size_or_format_is_a_duplicate(path: Path, tmp_path: Path):
    picture = open_picture(path)
    picture.resize((170, 170)).save(tmp_path / "b.webp")
    picture.save(tmp_path / "c.jpg", quality=50)
    picture.save(tmp_path / "a.png")
    open_picture(ICONS[10]).save(tmp_path / "d.png")
    pictures = [checked(p) for p in sorted(tmp_path.iterdir())]
    (flag,) = flags.duplicates(pictures)
    assert (flag.picture.name, [p.name for p in flag.others]) == ("a.png", ["b.webp", "c.jpg"])
    assert flag.what == "looks the same as b.webp and c.jpg."


def test_pictures_of_one_colour_are_not_called_the_same(tmp_path: Path):
    pictures = [checked(save(tmp_path / f"{n}.png", (64, 64), (n, 0, 0))) for n in range(3)]
    assert kinds(pictures) == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (90, 20, 130)])
@pytest.mark.parametrize("bars", [(0, 64, 0, 64), (32, 0, 32, 0), (32, 64, 32, 64)])
def test_bars_and_frames_are_borders(tmp_path: Path, colour: tuple[int, int, int], bars: tuple[int, int, int, int]):
    scene = Image.effect_noise((512, 512), 90).convert("RGB")
    framed = ImageOps.expand(scene, bars, fill=colour)
    framed.save(tmp_path / "a.jpg", quality=90)
    (flag,) = flags.flags([checked(tmp_path / "a.jpg")])
    assert flag.kind == "border" and flag.frame is not None
    width, height = framed.size
    exact = (bars[0] / width, bars[1] / height, 1 - bars[2] / width, 1 - bars[3] / height)
    assert flag.frame == pytest.approx(exact, abs=0.006)
    cut = Picture(tmp_path / "a.jpg", "", *framed.size, frame=flag.frame)
    assert kinds([cut]) == []


def test_an_even_background_or_one_bar_is_no_border(tmp_path: Path):
    scene = Image.effect_noise((256, 256), 90).convert("RGB")
    ImageOps.expand(scene, (0, 60, 0, 0), fill=(0, 0, 0)).save(tmp_path / "one.png")
    thing = Image.new("RGB", (400, 400), (255, 255, 255))
    round_thing = Image.new("L", (200, 200), 0)
    ImageDraw.Draw(round_thing).ellipse((0, 0, 199, 199), fill=255)
    thing.paste(scene.resize((200, 200)), (100, 100), mask=round_thing)
    thing.save(tmp_path / "thing.png")
    ImageOps.expand(scene, 2, fill=(0, 0, 0)).save(tmp_path / "thin.png")
    for name in ("one", "thing", "thin"):
        assert flags.look(tmp_path / f"{name}.png").inside is None, name
