"""The pictures of a run, got into shape by a person: framed, masked, captioned, saved, trained; in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from lowrank_diffusion import datasets, supervisor
from lowrank_diffusion.image import data
from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import all_runs
from tests.browser.conftest import Studio, shot
from tests.browser.test_kept import kept

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SIZES = [(300, 200), (200, 300), (256, 256)]
QUIET_MS = 90_000


def icons(folder: Path, count: int = 12) -> list[str]:
    """Pictures of three shapes, each with a caption of three tags."""
    folder.mkdir()
    source = sorted(path for path in (EXAMPLES / "style-3d-icons").iterdir() if path.suffix in data.SUFFIXES)
    for number, path in enumerate(source[:count]):
        Image.open(path).convert("RGB").resize(SIZES[number % 3]).save(folder / f"icon-{number:02}.png")
        (folder / f"icon-{number:02}.txt").write_text(f"a toy, a toy, kind {number % 4}")
    return [str(path) for path in sorted(folder.iterdir())]


def bordered(folder: Path) -> str:
    picture = Image.new("RGB", (300, 300))
    picture.paste(Image.open(EXAMPLES / "style-3d-icons" / "cactus.png").convert("RGB").resize((240, 220)), (30, 40))
    picture.save(folder / "bars.png")
    (folder / "bars.txt").write_text("a toy")
    return str(folder / "bars.png")


def drop(page: Page, files: list[str], cards: int) -> None:
    page.locator("#drop input[type=file]").set_input_files(files)
    expect(page.locator(".picture-card")).to_have_count(cards, timeout=QUIET_MS)


def card(page: Page, name: str) -> Locator:
    return page.locator(".picture-card", has=page.get_by_role("button", name=f"Enlarge {name}", exact=True))


def dialog(page: Page) -> Locator:
    return page.locator("dialog.picture-dialog")


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """In fractions of the picture in the dialog."""
    box = dialog(page).locator(".stage").bounding_box()
    assert box
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move((points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2)
    page.mouse.move(*points[1])
    page.mouse.up()


def tool(page: Page, name: str, text: str = "", by: str = "") -> None:
    page.locator("#caption-tool input").click()
    page.get_by_role("option", name=name, exact=True).click()
    if by:
        page.locator("#caption-by").locator("input, textarea").fill(by)
    if text:
        page.locator("#caption-all").locator("input, textarea").fill(text)
    page.locator("#put-on-all").click()


def text_of(page: Page, name: str) -> Locator:
    return card(page, name).locator("textarea")


def test_pictures_are_got_into_shape_saved_and_trained(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    drop(page, icons(tmp_path / "in"), 12)
    frames_and_masks(page)
    captions(page)
    page.locator("#set-name").locator("input, textarea").fill("toys")
    page.locator("#set-save").click()
    expect(page.locator("#set-state")).to_contain_text("toys, version 1", timeout=QUIET_MS)
    text_of(page, "icon-05.png").fill("my own words")
    expect(page.locator("#set-state")).to_contain_text("changed since", timeout=QUIET_MS)
    kept(studio, page, "my own words")
    studio.reload(page)
    expect(page.locator(".picture-card")).to_have_count(12, timeout=QUIET_MS)
    expect(text_of(page, "icon-05.png")).to_have_value("my own words")
    expect(card(page, "icon-01.png").locator(".marks")).to_contain_text("framed")
    expect(card(page, "icon-02.png").locator(".marks")).to_contain_text("masked")
    expect(page.locator("#set-state")).to_contain_text("toys, version 1, changed since", timeout=QUIET_MS)
    expect(card(page, "icon-00.png").locator(".facts")).to_have_text("300 x 200 → 128 x 128", timeout=QUIET_MS)
    assert datasets.find("toys").versions == (1,)
    trained(page)


def frames_and_masks(page: Page) -> None:
    expect(card(page, "icon-01.png").locator(".facts")).to_have_text("200 x 300 → 128 x 128", timeout=QUIET_MS)
    card(page, "icon-01.png").locator(".view").click()
    expect(dialog(page)).to_be_visible()
    drag(page, (0.2, 0.2), (0.8, 0.6))
    expect(dialog(page).locator(".words")).to_contain_text("Frame of 120 x 120 px, 20 to 80 % across")
    shot(page, "pictures-frame")
    page.keyboard.press("ArrowRight")
    expect(dialog(page).locator(".words")).to_contain_text("21 to 81 % across")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    expect(dialog(page).locator(".words")).to_contain_text("Frame of 109 x 109 px")
    page.keyboard.press("PageDown")
    expect(dialog(page).locator("h2")).to_have_text("icon-02.png (3 of 12)")
    dialog(page).get_by_role("button", name="Mask", exact=True).click()
    expect(dialog(page).locator("canvas")).to_have_attribute("width", "256")  # the large picture has come
    drag(page, (0.3, 0.5), (0.7, 0.5))
    dialog(page).get_by_label("Repeats in an epoch").fill("3")
    dialog(page).get_by_label("Weight of its loss").fill("0.5")
    shot(page, "pictures-mask")
    page.keyboard.press("Escape")
    expect(dialog(page)).to_be_hidden()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Enlarge icon-02.png"
    marks = card(page, "icon-02.png").locator(".marks")
    for word in ("masked", "3 times", "weight 0.5"):
        expect(marks).to_contain_text(word)
    expect(page.locator(".undo")).to_contain_text("2 pictures changed")
    page.get_by_role("button", name="Undo").click()
    expect(marks).not_to_contain_text("masked", timeout=QUIET_MS)
    card(page, "icon-01.png").locator(".view").click()
    drag(page, (0.2, 0.2), (0.8, 0.6))
    page.keyboard.press("PageDown")
    dialog(page).get_by_role("button", name="Mask", exact=True).click()
    expect(dialog(page).locator("canvas")).to_have_attribute("width", "256")
    drag(page, (0.3, 0.5), (0.7, 0.5))
    dialog(page).get_by_label("Repeats in an epoch").fill("3")
    page.keyboard.press("Escape")
    expect(marks).to_contain_text("masked")


def captions(page: Page) -> None:
    tool(page, "Drop doubled tags")
    expect(text_of(page, "icon-00.png")).to_have_value("a toy, kind 0", timeout=QUIET_MS)
    tool(page, "Find and replace", "kind", by="sort")
    expect(text_of(page, "icon-00.png")).to_have_value("a toy, sort 0", timeout=QUIET_MS)
    tool(page, "Put in front", "sks,")
    expect(text_of(page, "icon-00.png")).to_have_value("sks, a toy, sort 0", timeout=QUIET_MS)
    chip = page.locator(".chip", has_text="sort 1")
    expect(chip).to_have_text("sort 1 3", timeout=QUIET_MS)
    chip.click()
    expect(page.locator(".picture-card")).to_have_count(3)
    expect(page.locator(".filtered")).to_have_text("3 of 12 shown:")
    shot(page, "pictures-filtered")
    page.locator(".chip", has_text="sort 1").click()
    expect(page.locator(".picture-card")).to_have_count(12)


def trained(page: Page) -> None:
    page.locator("#preset input").click()
    page.get_by_role("option", name="smoke", exact=True).click()
    expect(page.locator("#field-train-steps input")).to_have_value("12", timeout=QUIET_MS)
    page.locator("#start").click()
    expect(page.locator("#run-head .pill")).to_be_visible(timeout=QUIET_MS)
    (run,) = all_runs()
    learnt = {picture.path.name: picture for picture in data.of_run(run.config().data).pictures}
    expect(page.locator("#run-head .pill.finished")).to_be_visible(timeout=300_000)
    assert len(learnt) == 12
    assert learnt["icon-01.png"].frame == pytest.approx((0.2, 0.2, 0.8, 0.6), abs=0.02)
    masked = learnt["icon-02.png"]
    assert masked.mask and masked.repeats == 3 and masked.mask.is_relative_to(run.path)
    with Image.open(masked.mask) as mask:
        grey = mask.convert("L")
        assert grey.getpixel((128, 128)) == 255 and grey.getpixel((10, 10)) == 0
    assert learnt["icon-05.png"].caption == "my own words"
    assert learnt["icon-00.png"].caption == "sks, a toy, sort 0"


def test_folders_flags_and_hostile_names(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    folder = tmp_path / "10_sks toy"
    icons(folder, 3)
    (folder / "icon-00.txt").unlink()
    (folder / "broken.png").write_bytes(b"no picture")
    hostile = folder / "<img src=x onerror=document.body.remove()>.png"
    Image.effect_noise((200, 200), 80).save(hostile)
    page.locator(".picture-bar input[type=file]").set_input_files(str(folder))
    expect(page.locator(".picture-card")).to_have_count(4, timeout=QUIET_MS)
    note = page.locator("#picture-note")
    expect(note).to_contain_text("broken.png: is damaged")
    expect(card(page, "icon-00.png").locator(".marks")).to_contain_text("10 times")
    expect(text_of(page, "icon-00.png")).to_have_value("sks toy")
    drop(page, [bordered(tmp_path), str(tmp_path / "bars.txt")], 5)
    cut = card(page, "bars.png").get_by_role("button", name="Cut the border")
    expect(cut).to_be_visible(timeout=QUIET_MS)
    cut.click()
    expect(card(page, "bars.png").locator(".facts")).to_have_text(re.compile("^240 x 2.0 →"), timeout=QUIET_MS)
    expect(cut).to_have_count(0)
    expect(page.locator(".undo")).to_contain_text("bars.png: the border is cut off.")
    page.locator(".picture-card").nth(1).get_by_role("button", name=re.compile("^Enlarge")).press("Enter")
    expect(dialog(page)).to_be_visible()
    expect(dialog(page).locator("h2")).to_contain_text("of 5")
    page.keyboard.press("Escape")
    expect(dialog(page)).to_be_hidden()


def test_a_folder_is_dropped(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    (tmp_path / "set").mkdir()
    icons(tmp_path / "set" / "2_a toy", 3)
    box = page.locator("#drop").bounding_box()
    assert box
    window = page.context.new_cdp_session(page)
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    files = {"items": [], "files": [str(tmp_path / "set")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):  # as a person lets go of it over the field
        window.send("Input.dispatchDragEvent", {"type": kind, **place, "data": files})
    expect(page.locator(".picture-card")).to_have_count(3, timeout=QUIET_MS)
    expect(card(page, "icon-00.png").locator(".marks")).to_contain_text("2 times")


def test_a_set_comes_and_goes_and_a_zip_is_given_out(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    drop(page, icons(tmp_path / "in", 3), 3)
    page.locator("#set-name").locator("input, textarea").fill("no/good")
    page.locator("#set-save").click()
    expect(page.locator("#picture-note")).to_contain_text("must be of letters", timeout=QUIET_MS)
    page.locator("#set-name").locator("input, textarea").fill("toys")
    page.locator("#set-save").click()
    expect(page.locator("#set-state")).to_contain_text("toys, version 1", timeout=QUIET_MS)
    page.locator("#set-zip").click()
    with page.expect_download() as waiting:
        page.locator("#picture-note a").click(timeout=QUIET_MS)
    waiting.value.save_as(tmp_path / "toys.zip")
    page.locator("#remove-all").click()
    expect(page.locator(".picture-card")).to_have_count(0)
    drop(page, [str(tmp_path / "toys.zip")], 3)
    page.locator("#remove-all").click()
    page.locator("#set-chosen input").click()
    page.get_by_role("option", name="toys, version 1").click()
    page.locator("#set-open").click()
    expect(page.locator(".picture-card")).to_have_count(3, timeout=QUIET_MS)
    expect(text_of(page, "icon-00.png")).to_have_value("a toy, a toy, kind 0")
    page.locator("#remove-all").click()
    expect(page.locator(".picture-card")).to_have_count(0, timeout=QUIET_MS)  # a set that is in use is not deleted
    page.wait_for_timeout(1000)
    page.locator("#set-delete").click()
    page.locator("#set-delete-really").click(timeout=QUIET_MS)
    expect(page.locator("#picture-note")).to_contain_text("toys is deleted", timeout=QUIET_MS)
    assert datasets.all_sets() == []


def test_a_model_captions_the_cards(studio: Studio, tmp_path: Path) -> None:
    from tests.parity.test_captioner import blip  # torch

    (tmp_path / "blip").mkdir()
    blip(tmp_path / "blip")
    page = studio.open()
    drop(page, [path for path in icons(tmp_path / "in", 6) if path.endswith(".png")], 6)
    text_of(page, "icon-00.png").fill("mine")
    page.get_by_role("button", name="Captions by a model").click()
    page.locator("#auto-start").click()
    expect(page.locator("#auto-note")).to_contain_text("No model is given", timeout=QUIET_MS)
    page.locator("#auto-model").locator("input, textarea").fill(str(tmp_path / "blip"))
    page.locator("#auto-prompt").locator("input, textarea").fill("a photo of")
    page.locator("#auto-start").click()
    expect(page.locator("#auto-note")).to_contain_text("5 pictures captioned.", timeout=QUIET_MS)
    expect(text_of(page, "icon-00.png")).to_have_value("mine")
    for number in range(1, 6):
        expect(text_of(page, f"icon-0{number}.png")).to_have_value(re.compile("^a photo of"))
    page.get_by_role("button", name="Undo").click()
    expect(text_of(page, "icon-01.png")).to_have_value("", timeout=QUIET_MS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_it_looks_like(studio: Studio, tmp_path: Path, scheme: str) -> None:
    page = studio.open(f"?__theme={scheme}")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    drop(page, [*icons(tmp_path / "in", 5), bordered(tmp_path)], 6)
    expect(card(page, "icon-01.png").locator(".facts")).to_have_text("200 x 300 → 128 x 128", timeout=QUIET_MS)
    expect(page.locator(".flag").first).to_be_visible(timeout=QUIET_MS)
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shot(page, f"pictures-{scheme}-{width}")
        card(page, "icon-01.png").locator(".view").click()
        expect(dialog(page)).to_be_visible()
        assert page.evaluate("document.querySelector('dialog.picture-dialog').scrollWidth") <= width
        shot(page, f"pictures-dialog-{scheme}-{width}")
        small = small_things(page)
        assert small == [], json.dumps(small, indent=1)
        page.keyboard.press("Escape")
        small = small_things(page)
        assert small == [], json.dumps(small, indent=1)


def small_things(page: Page) -> list[str]:
    """Texts below 12 px, and things to press below 24 px, in the cards and the dialog."""
    return page.evaluate(
        """() => [...document.querySelectorAll('#pictures *, dialog.picture-dialog *, .set-bar button')].filter((e) => {
            const box = e.getBoundingClientRect();
            if (!box.width || !e.checkVisibility()) return false;
            const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
            const press = e.matches('button, input, textarea');
            const tiny = text && parseFloat(getComputedStyle(e).fontSize) < 12;
            return tiny || (press && Math.min(box.width, box.height) < 24);
        }).map((e) => e.outerHTML.slice(0, 120))"""
    )


@pytest.fixture(autouse=True)
def ended(home: Path):
    """No training outlives its test."""
    yield
    for run in all_runs():
        if run.process() is not None:
            supervisor.stop(run, kill_after=0)
