"""A day's look back: runs in a queue, compared, named, repeated with one thing changed, gone on with."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lowrank_diffusion import presets, run_queue, runs
from lowrank_diffusion.runs import Run, all_runs

from .conftest import Studio, shot
from .test_studio import open_tab

DONE_MS = 180_000


def made(name: str, **settings: Any) -> Run:
    values = {"validation.holdout": 3, "validation.every": 3, "train.steps": 9, "save.every": 3, "sample.every": 9}
    values |= {"sample.steps": 2}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    return runs.create(presets.build(presets.find_preset("smoke").values, values), name)


@pytest.mark.slow
def test_a_queue_is_worked_off_compared_and_repeated(studio: Studio, tmp_path: Path) -> None:
    one, two, three = made("one"), made("two", optimizer__lr=5e-4), made("three", optimizer__lr=2e-3)
    for run in (one, two, three):
        run_queue.submit(run)
    page = studio.open()
    bar = page.locator("#now")
    expect(bar).to_contain_text("1. two", timeout=60_000)
    bar.get_by_role("button", name="Up: three").click()
    expect(bar).to_contain_text("1. three")
    bar.get_by_role("button", name="Hold: two").click()
    expect(bar).to_contain_text("2. two is held")
    expect(page).to_have_title(re.compile(r"one · Lowrank Diffusion$"), timeout=60_000)
    shot(page, "queue")
    until(lambda: three.status().state == "finished")
    assert two.status().state == "held"
    expect(bar).to_contain_text("1. two is held", timeout=60_000)
    bar.get_by_role("button", name="Release: two").click()
    until(lambda: two.status().state == "finished")

    open_tab(page, "Runs")
    for run in (one, two):
        ticked(page, run)
    expect(page.locator("#comparison")).to_contain_text("optimizer.lr", timeout=60_000)
    expect(page.locator("#compare-curve polyline.smooth")).to_have_count(2)
    expect(page.locator("#compared .sample-row").first.locator("img")).to_have_count(2)
    shot(page, "compared")
    page.locator("button[data-sort='Held out']").click()
    expect(page.locator("th[aria-sort]")).to_contain_text("Held out")
    page.locator("#runs-filter textarea, #runs-filter input").first.press_sequentially("thre", delay=10)
    expect(page.locator("table.runs tbody tr")).to_have_count(1, timeout=60_000)
    page.locator("#runs-filter textarea, #runs-filter input").first.fill("")
    expect(page.locator("table.runs tbody tr")).to_have_count(3, timeout=60_000)
    named(page, one)
    again(page, one)
    longer(page, one)
    deleted(page, three)


def until(true: Any, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def ticked(page: Page, run: Run) -> None:
    """Clicked, and seen to be ticked: the table is the server's, and comes anew."""
    box = page.locator(f'input[data-tick="{run.name}"]')
    box.click()
    expect(box).to_be_checked(timeout=60_000)


def picked(page: Page, run: Run) -> None:
    page.locator(f'table.runs tr[data-name="{run.name}"] b').click()
    expect(page.locator("#runs-head h3")).to_have_text(run.title, timeout=60_000)


def named(page: Page, run: Run) -> None:
    picked(page, run)
    page.locator("#run-about").get_by_text("Name, tags and notes").click()
    page.locator("#run-title").locator("input, textarea").first.fill("My <b>teapot</b>")
    page.locator("#run-tags").locator("input, textarea").first.fill("good, red")
    page.locator("#run-notes textarea").fill("the best so far")
    page.locator("#run-say").click()
    expect(page.locator("table.runs")).to_contain_text("My <b>teapot</b>", timeout=60_000)
    expect(page.locator("table.runs .tag")).to_have_text(["good", "red"])
    assert run.about.notes == "the best so far" and run.title == "My <b>teapot</b>"


def again(page: Page, run: Run) -> None:
    """Its settings are in the form, with pictures and name; one thing is changed."""
    picked(page, run)
    page.locator("#again-run").click()
    expect(page.locator("#start")).to_be_visible(timeout=60_000)
    expect(page.locator("#run-name").locator("input, textarea").first).to_have_value(run.title, timeout=60_000)
    expect(page.locator("#field-train-steps input")).to_have_value("9")
    before = {other.name for other in all_runs()}
    page.locator("#field-train-steps input").fill("6")
    page.locator("#start").click()
    until(lambda: len(all_runs()) == len(before) + 1)
    (new,) = [other for other in all_runs() if other.name not in before]
    until(lambda: new.status().state == "finished")
    config, its = new.config().dotted(), run.config().dotted()
    assert {key for key in its if config[key] != its[key]} == {"train.steps"}


def longer(page: Page, run: Run) -> None:
    open_tab(page, "Runs")
    expect(page.locator("table.runs tbody tr")).to_have_count(4, timeout=60_000)  # a new row moves the others
    picked(page, run)
    page.locator("#longer-steps input").fill("3")
    before = {other.name for other in all_runs()}
    page.locator("#longer-run").click()
    expect(page.locator("#runs-note")).to_contain_text("begins with what this run has learnt", timeout=60_000)
    (new,) = [other for other in all_runs() if other.name not in before]
    until(lambda: new.status().state == "finished")
    assert new.status().steps == 3 and new.config().adapter.start


def deleted(page: Page, run: Run) -> None:
    picked(page, run)
    page.locator("#delete-run").click()
    expect(page.locator(".confirm")).to_contain_text(
        re.compile(rf"Delete {run.title} with all its files \([\d.]+ MB\)\?")
    )
    page.locator("#delete-really").click()
    expect(page.locator("#runs-note")).to_contain_text("three is deleted", timeout=60_000)
    assert not run.path.exists()


@pytest.mark.slow
def test_a_run_at_work_is_paused_saved_and_asked_for_other_samples(studio: Studio) -> None:
    run = made("steered", train__steps=3000, save__every=3000, sample__every=5000, validation__every=3000)
    run_queue.submit(run)
    page = studio.open()
    expect(page.locator("#pause")).to_be_visible(timeout=DONE_MS)
    page.locator("#pause").click()
    expect(page.locator("#run-head .pill.paused")).to_be_visible(timeout=60_000)
    expect(page.locator("#pause")).to_be_hidden()
    step = run.status().step
    shot(page, "paused")
    page.locator("#continue").click()
    expect(page.locator("#run-head .pill.training")).to_be_visible(timeout=60_000)
    page.locator("#save").click()
    until(lambda: run.checkpoints)
    assert run.status().step > step
    page.locator("#sample-prompts textarea").fill("a red apple")
    page.locator("#sample-now").click()
    expect(page.locator("#samples")).to_contain_text("a red apple", timeout=DONE_MS)
    page.locator("#stop").click()
    expect(page.locator("#run-head .pill.stopped")).to_be_visible(timeout=60_000)
    expect(page.locator("#resume")).to_be_visible()
    svg = page.locator("#curve svg")
    svg.hover(position={"x": 300, "y": 100})
    expect(page.locator("#curve .reading")).to_contain_text(re.compile(r"step \d+ · [\d.]+"))
    box = svg.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 60, steps=4)
    page.mouse.up()
    first = page.locator("#curve svg text[text-anchor=middle]").first
    expect(first).not_to_have_text("0")
    svg.dblclick(position={"x": 200, "y": 60})
    expect(first).to_have_text("0")
