"""What the cards show, and what is done with all of them: looks, flags, sets, caption tools, captions by a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lowrank_diffusion import datasets, presets, runs
from lowrank_diffusion.errors import DataError, UserError
from lowrank_diffusion.image import data, sets
from lowrank_diffusion.image.data import Picture, checked
from ui import picture_looks, picture_sets, pictures
from ui.caption_worker import AllCaptioned, Captioned, CaptionJob, CaptionWorker
from ui.engine import CancelledError, Engine, EngineError
from ui.picture_panel import PicturePanel
from ui.picture_set import PictureSet
from ui.picture_tools import FRONT, PUT, REMOVE, REPLACE, TRIGGER, CaptionTools
from ui.toolkit import gr

Upload = Callable[..., Path]
DEFAULTS = presets.build().dotted()


def wide(folder: Path, name: str = "wide.png", size: tuple[int, int] = (300, 200)) -> Picture:
    path = folder / name
    Image.effect_noise(size, 60).convert("RGB").save(path)
    return checked(path, "a, b")


def looked(picture: Picture, **settings: Any) -> dict[str, Any]:
    values = DEFAULTS | {"data.resolution": 128} | {f"data.{key}": value for key, value in settings.items()}
    return picture_looks.of([picture], values)["pictures"][str(picture.path)]


def test_a_card_shows_the_size_and_the_part_that_is_trained(uploads: Path) -> None:
    picture = wide(uploads)
    facts = looked(picture)
    assert facts["size"] == "300 x 200 → 128 x 128"
    assert facts["part"] == pytest.approx([1 / 6, 0, 5 / 6, 1], abs=0.01)
    framed = checked(picture.path, "", data.Use(frame=(0.5, 0.0, 1.0, 1.0)))
    assert looked(framed)["part"] == pytest.approx([0.5, 1 / 8, 1, 7 / 8], abs=0.01)
    assert looked(picture, buckets=True, bucket_step=16)["size"] == "300 x 200 → 160 x 96"
    random = looked(picture, crop="random", crops=4)
    assert random["part"] is None and random["crop"] == "4 random crops"


def test_settings_that_are_wrong_leave_the_tags(uploads: Path) -> None:
    values = DEFAULTS | {"data.resolution": 7}
    shown = picture_looks.of([wide(uploads)], values)
    assert shown["tags"] == [("a", 1), ("b", 1)]
    assert list(shown["pictures"].values()) == [{"tags": [0, 1]}]


def test_flags_name_what_is_wrong_and_how_to_cut_a_border(uploads: Path) -> None:
    small = wide(uploads, "small.png", (64, 64))
    bordered = Image.new("RGB", (300, 300))
    bordered.paste(Image.effect_noise((240, 200), 60).convert("RGB"), (30, 50))
    bordered.save(uploads / "bars.png")
    twin = wide(uploads, "twin.png", (64, 64))
    twin.path.write_bytes(small.path.read_bytes())
    given = [small, checked(uploads / "bars.png"), checked(twin.path)]
    found = picture_looks.flagged(given, DEFAULTS | {"data.resolution": 128})
    words = {Path(path).name: [flag["word"] for flag in raised] for path, raised in found.items()}
    assert words["small.png"] == ["too small", "duplicate"] and "duplicate" in words["twin.png"]
    (border,) = [flag for flag in found[str(uploads / "bars.png")] if flag["frame"]]
    assert border["frame"] == pytest.approx((0.1, 1 / 6, 0.9, 5 / 6), abs=0.02)


def item_of(path: Path, **changed: Any) -> dict[str, Any]:
    return pictures.of_path(path) | changed


@pytest.mark.parametrize(
    "wrong",
    [
        {"repeats": 0}, {"repeats": "many"}, {"repeats": 10**9}, {"weight": -1}, {"weight": float("nan")},
        {"weight": None}, {"frame": [0, 0, 2, 1]}, {"frame": "all"}, {"frame": [0.5, 0, 0.5, 1]}, {"mask": 5},
        {"mask": None}, {"caption": 5}, {"path": ["x"]}, {"width": "1"}, {"name": {}}, {"frame": [[], 0, 1, 1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_card_of_another_shape_is_dropped(upload: Upload, wrong: dict[str, Any]) -> None:
    good = item_of(upload("cat.png"))
    assert pictures.items_of([good]) == [good]
    assert pictures.items_of([good | wrong]) == []


def test_masks_and_frames_from_a_page_are_checked(upload: Upload, home: Path) -> None:
    path = upload("cat.png")
    secret = home / "secret.png"
    Image.new("L", (160, 128)).save(secret)
    with pytest.raises(UserError, match="outside"):
        pictures.chosen([item_of(path, mask=str(secret))])
    other = upload("other.mask.png")
    Image.new("L", (50, 128)).save(other)
    with pytest.raises(DataError, match="is a mask of 50 x 128 px"):
        pictures.chosen([item_of(path, mask=str(other))])
    with pytest.raises(DataError, match="frame of 2 x 128 px"):
        pictures.chosen([item_of(path, frame=[0, 0, 0.01, 1])])
    (kept,) = pictures.restored([item_of(path, frame=[0, 0, 0.01, 1], caption="mine")])
    assert kept["frame"] is None and kept["caption"] == "mine"


def test_a_page_asks_only_for_pictures_that_are_its_own(upload: Upload, home: Path) -> None:
    path, mask = upload("cat.png"), upload("cat.mask.png")
    Image.new("L", (160, 128), 90).save(mask)
    facts = pictures.enlarged(str(path), str(mask))
    assert (facts["width"], facts["height"]) == (160, 128) and facts["url"] and facts["mask"]
    with pytest.raises(UserError):
        pictures.enlarged(str(home / "drafts"), "")
    panel: Any = SimpleNamespace()
    for text in ("", "{", "[1]", '{"path": 5, "mask": ""}', '{"path": "x"}', "[" * 10_000):
        assert PicturePanel.enlarge(panel, SimpleNamespace(item=text)) == {}  # type: ignore[arg-type]


def test_a_run_gets_frame_mask_repeats_and_weight(upload: Upload, home: Path) -> None:
    path, mask = upload("cat.png"), upload("cat.mask.png")
    Image.new("L", (160, 128), 255).save(mask)
    facts = {"caption": "a cat", "repeats": 3, "weight": 0.5, "frame": [0.25, 0.0, 1.0, 1.0], "mask": str(mask)}
    given = PictureSet(pictures.chosen([item_of(path, **facts), item_of(upload("dog.png"), caption="a dog")]))
    run = runs.create(presets.build(), "x")
    folder = Path(given.write(run)["data.instance"])
    cat, dog = data.scan(folder)
    assert (cat.caption, cat.repeats, cat.weight, cat.frame) == ("a cat", 3, 0.5, (0.25, 0.0, 1.0, 1.0))
    assert cat.mask and cat.mask.is_relative_to(folder) and dog.mask is None
    assert pictures.of_folder(folder)[0]["frame"] == [0.25, 0.0, 1.0, 1.0]


def test_a_mask_that_leaves_nothing_is_refused_before_the_start(upload: Upload) -> None:
    path, mask = upload("cat.png"), upload("cat.mask.png")
    Image.new("L", (160, 128), 0).save(mask)
    given = PictureSet(pictures.chosen([item_of(path, caption="a cat", mask=str(mask))]))
    values = presets.build(presets.find_preset("smoke").values, {"data.instance": ""}).dotted()
    (problem,) = given.problems(values)
    assert problem.key == "Pictures" and "black wherever" in problem.rule


class Tab:
    """What the parts of the panel ask of their tab."""

    def undoing(self, words: str, data: dict[Any, Any]) -> dict[Any, Any]:
        return {"undo": words}


@pytest.fixture
def bar(home: Path) -> picture_sets.SetBar:
    with gr.Blocks():
        made = picture_sets.SetBar()
        made.grid, made.note, made.tab = "grid", "note", Tab()  # type: ignore[assignment]
    return made


def state_of(bar: picture_sets.SetBar, updates: dict[Any, Any], items: Any) -> str:
    return picture_sets.state_html(updates[bar.origin], pictures.items_of(items))


def test_a_set_is_saved_changed_opened_renamed_and_deleted(bar: picture_sets.SetBar, upload: Upload) -> None:
    data_of = {bar.chosen: "", bar.name: "robots", bar.origin: "", bar.grid: [item_of(upload("cat.png"), caption="a")]}
    first = bar.save_it(data_of)
    items = first["grid"]
    assert "robots, version 1" in state_of(bar, first, items) and "changed" not in state_of(bar, first, items)
    edited = [items[0] | {"caption": "b", "frame": [0.0, 0.0, 0.5, 1.0]}]
    assert "changed since" in state_of(bar, first, edited)
    same = bar.save_it(data_of | {bar.grid: items, bar.origin: first[bar.origin], bar.name: ""})
    assert "no version was made" in same["note"] and datasets.find("robots").versions == (1,)
    second = bar.save_it(data_of | {bar.grid: edited, bar.origin: first[bar.origin], bar.name: ""})
    assert datasets.find("robots").versions == (1, 2) and second["grid"][0]["frame"] == [0.0, 0.0, 0.5, 1.0]
    old = bar.open_it(data_of | {bar.chosen: "set:robots@1"})
    assert old["grid"][0]["caption"] == "a" and old["undo"]
    here = data_of | {bar.chosen: "set:robots@1", bar.grid: old["grid"], bar.origin: old[bar.origin]}
    renamed = bar.rename_it(here | {bar.name: "machines"})
    assert "machines, version 1" in state_of(bar, renamed, renamed["grid"])
    assert "changed" not in state_of(bar, renamed, renamed["grid"]) and len(renamed["grid"]) == 1
    there = data_of | {bar.chosen: "set:machines@2", bar.grid: renamed["grid"]}
    assert "machines-2.zip" in bar.pack(there)["note"]
    with pytest.raises(UserError, match="on the cards"):
        bar.ask(there)
    empty = there | {bar.grid: []}
    assert "all its 2 versions" in bar.ask(empty)[bar.question]
    bar.delete_it(empty)
    assert datasets.all_sets() == []


def test_a_set_that_a_run_learns_from_stays(bar: picture_sets.SetBar, upload: Upload) -> None:
    saved = sets.save("robots", [checked(upload("cat.png"), "a")])
    runs.create(presets.build(overrides={"data.instance": str(saved.folder())}), "x")
    asked = {bar.chosen: "set:robots@1", bar.name: "new", bar.origin: "", bar.grid: []}
    for act in (bar.ask, bar.delete_it, bar.rename_it):
        with pytest.raises(UserError, match="unfinished runs learn from it"):
            act(asked)


@pytest.mark.parametrize("value", [None, 5, "set:../x@1 " + "a" * 16, "set:x@1", "robots", ["set:x@1"]])
def test_an_origin_that_no_page_wrote_is_none(value: Any) -> None:
    assert picture_sets.of_origin(value) is None


def test_a_new_set_of_a_deleted_name_is_not_mistaken_for_it(upload: Upload, home: Path) -> None:
    for size in ((160, 128), (90, 60)):
        path = upload("cat.png")
        Image.effect_noise(size, 60).save(path)
        saved = sets.save("robots", [checked(path, "a")])
        (card,) = pictures.of_folder(saved.folder())
        (picture,) = pictures.chosen([card])
        assert (picture.width, picture.height) == (card["width"], card["height"]) == size
        datasets.delete("robots")


def test_a_copy_of_a_saved_set_takes_no_room(upload: Upload, home: Path) -> None:
    saved = sets.save("robots", [checked(upload("cat.png"), "a")])
    given = PictureSet(pictures.chosen(pictures.of_folder(saved.folder())))
    folder = Path(given.write(runs.create(presets.build(), "x"))["data.instance"])
    (copied,) = folder.glob("*.png")
    assert copied.stat().st_nlink > 1
    datasets.delete("robots")
    assert data.scan(folder)[0].caption == "a", "a run does not lose its pictures with the set"


def test_every_tool_changes_captions(upload: Upload) -> None:
    with gr.Blocks():
        tools = CaptionTools()
    items = [item_of(upload("a.png"), caption="cat, red"), item_of(upload("b.png"), caption="")]

    def after(tool: str, text: str, by: str = "", how: tuple[str, ...] = (), only_empty: bool = False) -> list[str]:
        values = {
            tools.tool: tool, tools.text: text, tools.by: by, tools.how: [*how], tools.only_empty: only_empty,
        }  # fmt: skip
        return [item["caption"] for item in tools.changed(values, items, "sks")[0]]

    assert after(PUT, "x") == ["x", "x"] and after(PUT, "x", only_empty=True) == ["cat, red", "x"]
    assert after(FRONT, "my") == ["my cat, red", "my"]
    assert after(REPLACE, "CAT", "dog", ("any case",)) == ["dog, red", ""]
    assert after(REPLACE, "c(.)t", r"\1", ("regular expression",)) == ["a, red", ""]
    assert after(TRIGGER, "") == ["sks, cat, red", "sks"] and after(REMOVE, "red") == ["cat", ""]
    for tool, text in ((REPLACE, ""), ("no such tool", "x")):
        with pytest.raises(UserError):
            after(tool, text)


@pytest.fixture(scope="module")
def captioning() -> Iterator[Engine]:
    engine = Engine(CaptionWorker)
    yield engine
    engine.close()


@pytest.mark.slow
def test_a_model_captions_in_its_own_process(captioning: Engine, tmp_path: Path, upload: Upload) -> None:
    from tests.parity.test_captioner import blip  # torch

    (tmp_path / "blip").mkdir()
    blip(tmp_path / "blip")
    paths = tuple(upload(f"{number}.png", colour=colour) for number, colour in enumerate(("red", "blue")))
    said = list(captioning.run("one", CaptionJob(str(tmp_path / "blip"), paths)))
    assert [message.path for message in said if isinstance(message, Captioned)] == list(paths)
    assert isinstance(said[-1], AllCaptioned)
    many = CaptionJob(str(tmp_path / "blip"), paths * 200)
    done = []
    with pytest.raises(CancelledError):
        for message in captioning.run("two", many):
            done.append(message)
            captioning.cancel("two")
    assert 0 < len(done) < 400, "what was captioned before is there"
    with pytest.raises(EngineError, match="no-such-model"):
        list(captioning.run("three", CaptionJob(str(tmp_path / "no-such-model"), paths)))
