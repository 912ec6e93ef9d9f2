"""What is drawn: pairs, grids, history, settings taken from a picture, and painting over; done in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from lowrank_diffusion import presets, runs
from lowrank_diffusion.paths import EXAMPLES
from tests.app_process import running_app
from tests.browser.conftest import Studio, assert_quiet, shot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

DRAWING_MS = 180_000


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """One app for all tests of this file."""
    home = tmp_path_factory.mktemp("generate")
    with running_app(home) as url:
        yield url, home


@pytest.fixture
def studio(app: tuple[str, Path], browser: Browser) -> Iterator[Studio]:
    url, home = app
    window = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    studio = Studio(url, home, window)
    yield studio
    window.close()
    assert studio.errors == [], studio.errors
    assert_quiet(home)


@pytest.fixture
def page(studio: Studio) -> Page:
    page = studio.open()
    page.wait_for_function("sessionStorage.getItem('lowrank-diffusion-draft')", timeout=90_000)
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#draw")).to_be_visible()
    return page


def fill(page: Page, **values: object) -> None:
    for name, value in values.items():
        page.locator(f"#{name}").locator("textarea, input").first.fill(str(value))


def drawn(page: Page, count: int) -> None:
    """Wait until a job with so many pictures is done."""
    expect(page.locator("#drawn .open")).to_have_count(count, timeout=DRAWING_MS)
    expect(page.locator("#draw-settings .facts")).to_be_visible(timeout=DRAWING_MS)


def jobs(home: Path) -> list[Path]:
    return sorted(path for path in (home / "pictures").iterdir() if not path.name.startswith("."))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def choose(page: Page, name: str, label: str) -> None:
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=label, exact=True).last.click()


def test_drawing_goes_on_when_the_page_is_reloaded(studio: Studio, page: Page) -> None:
    page.locator("#draw").click()
    expect(page.locator("#draw-problems")).to_contain_text("The prompt is empty")
    fill(page, prompt="an emoji of a fox", count=6, steps=60, width=64, height=64)
    page.locator("#draw").click()
    expect(page.locator("#draw-progress .bar")).to_be_visible()
    expect(page.locator("#draw-problems")).to_contain_text("no adapter is chosen")
    expect(page.locator("#draw-progress")).to_contain_text("step", timeout=DRAWING_MS)
    expect(page.locator("#draw-progress .preview")).to_be_visible(timeout=DRAWING_MS)
    shot(page, "generate-1-drawing")
    studio.reload(page)
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#draw-progress .bar, #draw-settings .facts").first).to_be_visible()
    drawn(page, 6)
    expect(page.locator("#prompt textarea")).to_have_value("an emoji of a fox")
    page.locator("#drawn .open").first.click()
    expect(page.locator("dialog.drawn-large[open] img")).to_be_visible()
    shot(page, "generate-2-large")
    page.keyboard.press("ArrowRight")
    expect(page.locator("dialog.drawn-large[open] p")).to_have_text("seed 1 · base")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#drawn .open")).to_have_count(5)
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#drawn .open")).to_have_count(6)
    page.locator("#zip-pictures").click()
    with page.expect_download() as waiting:
        page.locator("#zip-ready").click()
    assert waiting.value.suggested_filename.endswith(".zip")


def test_cancel_keeps_what_is_done_and_it_can_be_continued(studio: Studio, page: Page) -> None:
    fill(page, prompt="a cat\na dog\na fox", count=1, steps=40, width=64, height=64)
    page.locator("#prompt-lines input").check()
    page.locator("#draw").click()
    expect(page.locator("#drawn .open")).to_have_count(1, timeout=DRAWING_MS)
    page.locator("#cancel").click()
    expect(page.locator("#draw-on")).to_be_visible(timeout=DRAWING_MS)
    expect(page.locator("#draw-progress")).to_contain_text("What was done is kept")
    page.locator("#draw-on").click()
    drawn(page, 3)
    expect(page.locator("#drawn figcaption").nth(2)).to_have_text("a fox · seed 0 · base")
    page.locator("#prompt-lines input").uncheck()


def a_run(home: Path) -> runs.Run:
    """A run with two checkpoints that change pictures."""
    import torch
    from safetensors.torch import save_file

    from lowrank_diffusion.adapters import matching_layers
    from lowrank_diffusion.image.generate import Studio as Drawing
    from lowrank_diffusion.image.request import DrawRequest

    run = runs.create(presets.build({"sample.steps": 4}), "icons", home / "runs")
    layers = matching_layers(Drawing().prepare(DrawRequest("", device="cpu"))[0].unet, "attention")
    for step in (10, 20):
        draws, tensors = torch.Generator().manual_seed(step), {}
        for path, layer in layers.items():
            for name, shape in (("A", (4, layer.in_features)), ("B", (layer.out_features, 4))):
                tensors[f"unet.{path}.lora_{name}.weight"] = 0.1 * torch.randn(shape, generator=draws)
        folder = run.checkpoint(step)
        (folder / "icons-peft").mkdir(parents=True)
        for end in ("-diffusers.safetensors", "-comfyui-forge.safetensors"):
            save_file(tensors, folder / f"icons{end}")
        (folder / "state.safetensors").touch()
    return run


def test_a_grid_fills_and_a_cell_gives_its_settings(studio: Studio, page: Page) -> None:
    a_run(studio.home)
    page.get_by_role("tab", name="Train").click()
    page.get_by_role("tab", name="Generate").click()
    page.wait_for_timeout(1500)
    page.locator("#adapter-1 input").click()
    expect(page.get_by_role("option", name="icons · step 10", exact=True)).to_be_visible()
    page.get_by_role("option", name="icons · step 20").first.click()
    fill(page, prompt="an emoji of a fox", width=64, height=64)
    page.locator("#grid-panel > button").first.click()
    choose(page, "axis-1", "strength")
    choose(page, "axis-2", "steps")
    fill(page, **{"values-1": "0, 0.5, x", "values-2": "1-2"})
    page.locator("#draw-grid").click()
    expect(page.locator("#draw-problems")).to_contain_text("'x' is not a number")
    fill(page, **{"values-1": "0, 0.5, 1"})
    page.locator("#draw-grid").click()
    expect(page.locator("table.grid td")).to_have_count(6, timeout=DRAWING_MS)
    drawn(page, 6)
    expect(page.locator(".grid-head")).to_contain_text("6 of 6 pictures · one labelled picture")
    shot(page, "generate-3-grid")
    page.locator("table.grid .open").nth(3).click()
    expect(page.locator("dialog.drawn-large[open] p")).to_have_text("strength 0.5 · steps 2")
    page.get_by_role("button", name="Use these settings").click()
    expect(page.locator("#taken-note")).to_contain_text("These are the settings of")
    expect(page.locator("#steps input")).to_have_value("2")
    expect(page.locator("#strength-1 input[type=number]")).to_have_value("0.5")
    expect(page.locator("#adapter-1 input")).to_have_value(re.compile("icons · step 20"))
    described = json.loads((jobs(studio.home)[-1] / "grid.json").read_text())
    assert [axis["values"] for axis in described["axes"]] == [["0", "0.5", "1"], ["1", "2"]]
    page.locator("#compare input").check()
    page.locator("#draw").click()
    drawn(page, 2)
    page.locator("#drawn .open").nth(1).click()
    slider = page.locator("dialog.drawn-large .slide input")
    slider.fill("30")
    shot(page, "generate-4-slider")
    page.get_by_role("button", name="Close").click()


def test_a_dropped_png_repeats_its_pixels(studio: Studio, page: Page) -> None:
    fill(page, prompt="an emoji of a whale", count=1, steps=3, seed=77, guidance=3, width=72, height=64)
    choose(page, "sampler", "DPM++ 2M Karras")
    page.locator("#draw").click()
    drawn(page, 1)
    (first,) = jobs(studio.home)[-1].glob("*.png")
    studio.reload(page)
    page.get_by_role("tab", name="Generate").click()
    fill(page, prompt="something else", steps=9, seed=1, width="", height="")
    choose(page, "sampler", "Euler")
    page.locator("#dropped-png input[type=file]").set_input_files(str(first))
    expect(page.locator("#prompt textarea")).to_have_value("an emoji of a whale")
    expect(page.locator("#sampler input")).to_have_value("DPM++ 2M Karras")
    expect(page.locator("#width input, #width textarea").first).to_have_value("72")
    before = len(jobs(studio.home))
    page.locator("#draw").click()
    expect(page.locator("#history button")).to_have_count(before + 1)
    drawn(page, 1)
    (again,) = jobs(studio.home)[-1].glob("*.png")
    assert again.parent != first.parent
    assert np.array_equal(pixels(again), pixels(first))
    other = studio.home / "other.png"
    Image.new("RGB", (8, 8)).save(other)
    page.locator("#dropped-png input[type=file]").set_input_files(str(other))
    expect(page.locator("#taken-note")).to_contain_text("does not say what it was drawn from")


def test_painting_over_leaves_the_outside_as_it_was(studio: Studio, page: Page) -> None:
    source = next(path for path in sorted((EXAMPLES / "subject-cat").iterdir()) if path.suffix != ".txt")
    start = studio.home / "start.png"
    with Image.open(source) as image:
        image.convert("RGB").resize((132, 128)).save(start)
    fill(page, prompt="an emoji of a fox", count=1, steps=4, width="", height="")
    page.locator("#start-panel > button").first.click()
    page.locator("#start-file input[type=file]").set_input_files(str(start))
    expect(page.locator("#painter canvas")).to_be_visible()
    expect(page.locator("#start-note")).to_contain_text("132 × 128 px")
    page.locator("#painter canvas").scroll_into_view_if_needed()
    page.wait_for_timeout(700)
    box = page.locator("#painter canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    page.wait_for_timeout(1500)
    shot(page, "generate-5-mask")
    studio.reload(page)
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#painter canvas")).to_be_visible()
    before = len(jobs(studio.home))
    page.locator("#draw").click()
    expect(page.locator("#history button")).to_have_count(before + 1)
    drawn(page, 1)
    expect(page.locator("#draw-settings")).to_contain_text("cropped to 128 × 128 px")
    folder = jobs(studio.home)[-1]
    (picture,) = folder.glob("*.png")
    request = json.loads((folder / "job.json").read_text())["items"][0]["request"]
    begun, mask = pixels(Path(request["start"]))[:, 2:130], pixels(Path(request["mask"]))[:, 2:130, 0]
    changed = (pixels(picture) != begun).any(axis=-1)
    assert not changed[mask < 128].any(), "outside of the mask not one bit changes"
    assert 0.02 < (mask >= 128).mean() < 0.5 and changed[mask >= 128].mean() > 0.5
    shot(page, "generate-6-painted")
