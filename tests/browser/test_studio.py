"""What a person does with the app, done in a browser.

The training has a quarter of the preset's steps. ``STUDIO_TEST_STEPS=160`` trains as a user would.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from playwright.sync_api import Page, expect
from safetensors import safe_open

from lowrank_diffusion import supervisor
from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import Run, all_runs
from tests.browser.conftest import Studio, shot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

STYLE = EXAMPLES / "style-3d-icons"
UNSEEN = "whale"
TRAINING_MS = 1_500_000
LOADING_MS = 180_000


def pictures_and_texts() -> list[Path]:
    return sorted(path for path in STYLE.iterdir() if path.suffix in (".png", ".webp", ".jpg", ".txt"))


def upload_style_set(page: Page) -> int:
    """Through the drop field's file input, captions and all; the number of pictures."""
    files = pictures_and_texts()
    page.locator("#drop input[type=file]").set_input_files([str(path) for path in files])
    count = sum(path.suffix != ".txt" for path in files)
    expect(page.locator(".picture-card")).to_have_count(count, timeout=60_000)
    return count


def the_run() -> Run:
    (run,) = all_runs()
    return run


def start(page: Page) -> None:
    page.locator("#field-train-steps input").fill(os.environ.get("STUDIO_TEST_STEPS", "40"))
    page.locator("#start").click()
    expect(page.locator("#run-head .pill")).to_be_visible(timeout=90_000)


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_upload_train_reload_generate_and_download(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    assert upload_style_set(page) == 20
    captions = [area.input_value() for area in page.locator(".picture-card textarea").all()]
    assert all(captions)
    assert not any(UNSEEN in caption for caption in captions)
    expect(page.locator("#preset input")).to_have_value("emoji-style")
    # Own pictures: the page does not know what they show, and asks for the style's name.
    page.locator("#field-data-word").locator("input, textarea").first.fill("3d icon")
    expect(page.locator("#field-data-trigger").locator("input, textarea").first).to_have_value("3d icon")
    shot(page, "1-pictures-and-settings")
    start(page)

    run = the_run()
    expect(page.locator("#curve polyline.smooth")).to_be_visible(timeout=TRAINING_MS)
    expect(page.locator("#samples img").first).to_be_visible(timeout=TRAINING_MS)
    shot(page, "2-training")
    studio.reload(page)
    assert run.process() is not None, "reloading the page must not end the training"
    before = run.status().step
    expect(page.locator(".picture-card")).to_have_count(20, timeout=90_000)
    assert [area.input_value() for area in page.locator(".picture-card textarea").all()] == captions
    expect(page.locator("#run-head h3")).to_have_text(run.title, timeout=90_000)
    expect(page.locator("#run-head .pill.training, #run-head .pill.finished")).to_be_visible(timeout=90_000)
    shot(page, "3-reloaded")
    expect(page.locator("#run-head .pill.finished")).to_be_visible(timeout=TRAINING_MS)
    shot(page, "4-finished")
    status = run.status()
    assert status.step == status.steps > before
    assert len(list((run.path / "data" / "instance").glob("*.txt"))) == 20
    broken = "[...document.querySelectorAll('#samples img')].filter((i) => i.complete && !i.naturalWidth).length"
    assert page.evaluate(broken) == 0

    open_tab(page, "Runs")
    page.locator("table.runs tbody tr").first.click()
    expect(page.locator("#use-run")).to_be_enabled(timeout=90_000)
    shot(page, "5-runs")
    check_adapter(download(page, f"{run.title}-diffusers.safetensors", tmp_path))

    page.locator("#use-run").click()
    expect(page.locator("#draw")).to_be_visible(timeout=90_000)
    expect(page.locator("#guidance input")).to_have_value("2", timeout=90_000)  # as the preset's samples
    draw_side_by_side(page, studio)
    shot(page, "6-generated")


def download(page: Page, name: str, folder: Path) -> Path:
    """Click the file's link in the Runs tab; the file as the browser got it."""
    with page.expect_download(timeout=60_000) as waiting:
        page.locator(f'#run-files a[download="{name}"]').click()
    target = folder / "downloaded.safetensors"
    waiting.value.save_as(target)
    return target


def check_adapter(path: Path) -> None:
    with safe_open(path, "np") as file:
        names = list(file.keys())
        assert (file.metadata() or {}).get("modelspec.sai_model_spec")
    assert names
    assert all(".lora_" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder", "text_encoder_2"}


def draw_side_by_side(page: Page, studio: Studio) -> None:
    page.locator("#prompt textarea").fill(f"a 3d icon of a {UNSEEN}")
    page.locator("#count input").fill("2")
    page.locator("#draw").click()
    expect(page.locator("#draw-progress .bar")).to_be_visible(timeout=90_000)
    expect(page.locator("#draw-settings .facts")).to_be_visible(timeout=LOADING_MS)
    expect(page.locator("#drawn .open img")).to_have_count(4, timeout=90_000)
    (folder,) = (studio.home / "pictures").iterdir()
    for seed in (0, 1):
        with Image.open(folder / f"{seed}-base.png") as base, Image.open(folder / f"{seed}-adapted.png") as adapted:
            facts = [json.loads(image.text["lowrank_diffusion"]) for image in (base, adapted)]
            assert [fact["seed"] for fact in facts] == [seed, seed]
            assert [bool(fact["adapters"]) for fact in facts] == [False, True]
            assert ImageChops.difference(base.convert("RGB"), adapted.convert("RGB")).getbbox() is not None


def test_bad_input_is_named_and_good_input_kept(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    page.locator("#start").click()
    expect(page.locator("#problems")).to_contain_text("Pictures there are none", timeout=90_000)

    bad, orphan = tmp_path / "broken.png", tmp_path / "lonely.txt"
    bad.write_bytes(b"this is no picture")
    orphan.write_text("a caption without its picture")
    good = next(path for path in pictures_and_texts() if path.suffix != ".txt")
    page.locator("#drop input[type=file]").set_input_files([str(bad), str(good), str(orphan)])
    expect(page.locator("#picture-note")).to_contain_text("broken.png", timeout=90_000)
    expect(page.locator("#picture-note")).to_contain_text("lonely.txt")
    expect(page.locator(".picture-card")).to_have_count(1)

    page.locator("#field-adapter-rank input").fill("16")
    page.locator("#field-adapter-k input").fill("3")
    page.wait_for_timeout(1000)  # two presses within 900 ms are a double click, and so one
    page.locator("#start").click()
    problems = page.locator("#problems")
    expect(problems).to_contain_text("adapter.k", timeout=90_000)
    expect(problems).to_contain_text("must divide adapter.rank=16, got 3")
    expect(problems).to_contain_text("data.prompt")
    outline = "element => getComputedStyle(element).outlineStyle"
    assert page.locator("#field-adapter-k").evaluate(outline) == "solid"
    assert page.locator("#field-adapter-rank").evaluate(outline) != "solid"
    shot(page, "bad-input")
    assert all_runs() == []


def test_captions_are_edited_put_on_all_and_taken_out_as_plain_text(studio: Studio) -> None:
    page = studio.open()
    count = upload_style_set(page)
    hostile = "`${document.body.remove()}` <b>{{x}}</b>"
    page.locator("#caption-all input, #caption-all textarea").fill(hostile)
    page.locator("#put-on-all").click()
    first = page.locator(".picture-card textarea").first
    expect(first).to_have_value(hostile, timeout=90_000)
    first.fill("my own caption")
    page.locator(".picture-card .remove").nth(1).click()
    expect(page.locator(".picture-card")).to_have_count(count - 1)
    page.locator("#preset input").click()
    page.get_by_role("option", name="smoke").click()
    expect(page.locator("#field-train-steps input")).to_have_value("12", timeout=90_000)
    start(page)
    texts = [path.read_text().strip() for path in (the_run().path / "data" / "instance").glob("*.txt")]
    assert sorted(texts) == sorted(["my own caption"] + [hostile] * (count - 2))
    page.locator("#stop").click()
    expect(page.locator("#run-head .pill.stopped, #run-head .pill.finished")).to_be_visible(timeout=LOADING_MS)
    expect(page.locator("#stop")).to_be_hidden()


def test_two_pages_watch_one_run_and_what_a_closed_one_draws_goes_on(studio: Studio) -> None:
    page, other = studio.open(), studio.open()
    open_tab(page, "Generate")
    page.locator("#prompt textarea").fill("an emoji of a fox")
    page.locator("#steps input").fill("200")
    page.locator("#count input").fill("16")
    page.locator("#draw").click()
    expect(page.locator("#draw-progress")).to_contain_text("step", timeout=LOADING_MS)
    page.close()
    open_tab(other, "Generate")
    expect(other.locator("#draw-progress")).to_contain_text("step", timeout=90_000)  # nobody's page: it goes on
    other.locator("#cancel").click()
    other.locator("#prompt textarea").fill("an emoji of a fox")
    other.locator("#steps input").fill("2")
    other.locator("#draw").click()
    expect(other.locator("#draw-settings .facts")).to_be_visible(timeout=LOADING_MS)

    open_tab(other, "Train")
    third = studio.open()
    other.get_by_role("button", name="Example: style 3d icons").click()
    expect(other.locator(".picture-card")).to_have_count(20, timeout=90_000)
    start(other)
    run = the_run()
    try:
        expect(third.locator("#run-shown input")).to_be_visible()
        studio.reload(third)
        for page in (other, third):
            expect(page.locator("#run-head h3")).to_have_text(run.title, timeout=90_000)
    finally:
        supervisor.stop(run, kill_after=0)
    for page in (other, third):
        expect(page.locator("#run-head .pill.interrupted")).to_be_visible(timeout=90_000)
        expect(page.locator("#resume")).to_be_enabled()
