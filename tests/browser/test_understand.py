"""A run is measured from its page: results outlive the page, jobs can be cancelled, hover and keys read values."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from lowrank_diffusion import evaluations, run_queue
from lowrank_diffusion.evaluations import Flatness, Pictures, Spectra
from lowrank_diffusion.runs import Run

from .conftest import Studio, shot
from .test_runs import made, picked, ticked, until
from .test_studio import open_tab

LONG = 240_000


def measure(page: Page, kind: str) -> None:
    """Press the button and wait for what comes of it."""
    page.locator(f"#measure-{kind}").click()
    expect(page.locator("#measure-note .bar")).to_be_visible(timeout=10_000)
    expect(page.locator("#measure-cancel")).to_be_hidden(timeout=LONG)
    expect(page.locator("#measure-note .bad")).to_have_count(0)


@pytest.mark.slow
def test_a_run_is_measured_and_two_are_compared(studio: Studio) -> None:
    one, two = made("one", sample__steps=2), made("two", adapter__rank=2)
    for run in (one, two):
        run_queue.submit(run)
    until(lambda: all(run.status().state == "finished" for run in (one, two)))
    page = studio.open()
    open_tab(page, "Runs")
    picked(page, one)
    expect(page.locator("#measure-note")).to_contain_text("Nothing has been measured yet")

    measure(page, "spectra")
    spectra = evaluations.read(one, Spectra)
    assert spectra is not None
    expect(page.locator("#measured .heat tbody tr")).to_have_count(len({layer.block for layer in spectra.layers}))
    reads_values(page)
    cancelled(page, one)
    measure(page, "evaluate")
    pictures = evaluations.read(one, Pictures)
    assert pictures is not None
    chart = page.locator("[data-kind=pictures] svg")
    expect(chart.locator("circle.validation")).to_have_count(len({row.step for row in pictures.rows}))
    expect(chart.locator("circle.best")).to_have_count(1)
    expect(chart).to_have_attribute("aria-label", re.compile(r"base: pictures 0\.\d+, prompt -?0\.\d+"))

    page.locator("#measure-beside input").click()
    page.get_by_role("option", name=re.compile("^two")).click()
    page.keyboard.press("Escape")
    measure(page, "flatness")
    flat = evaluations.read(one, Flatness)
    assert flat is not None and [curve.run for curve in flat.curves] == ["", one.name, two.name]
    expect(page.locator("[data-kind=flatness] svg").first.locator("polyline")).to_have_count(3)
    shown_again(studio, page, one)
    for run in (one, two):
        ticked(page, run)
    expect(page.locator("#compare-flatness svg").first.locator("polyline")).to_have_count(3, timeout=60_000)
    readable_on_a_phone(page, one)


def reads_values(page: Page) -> None:
    """By the pointer and by the keys."""
    chart, said = page.locator("[data-kind=spectra] svg").first, page.locator("[data-kind=spectra] .reading").first
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": 150, "y": 100})
    expect(said).to_contain_text(re.compile(r"(effective|stable) rank: unet\.\S+: [\d.]+ of \d+"))
    before = said.inner_text()
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(said).not_to_have_text(before)


def cancelled(page: Page, run: Run) -> None:
    page.locator("#measure-flatness").click()
    expect(page.locator("#measure-cancel")).to_be_visible(timeout=10_000)
    expect(page.locator("#measure-evaluate")).to_be_disabled()
    page.locator("#measure-cancel").click()
    expect(page.locator("#measure-note")).to_contain_text("Cancelled.", timeout=LONG)
    assert evaluations.read(run, Flatness) is None
    expect(page.locator("[data-kind=spectra]")).to_be_visible()


def shown_again(studio: Studio, page: Page, run: Run) -> None:
    studio.reload(page)
    open_tab(page, "Runs")
    picked(page, run)
    for kind in ("pictures", "flatness", "spectra"):
        expect(page.locator(f"#measured [data-kind={kind}]")).to_be_visible()
    command = page.locator("[data-kind=flatness] pre").first
    expect(command).to_contain_text(f"understand {run.name} ")
    shot(page, "understand")


def readable_on_a_phone(page: Page, run: Run) -> None:
    """Nothing is wider than the page, and no text is smaller than 12 px."""
    for scheme, size in (("light", 390), ("dark", 390)):
        page.set_viewport_size({"width": size, "height": 844})
        page.evaluate(f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})")
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= size
        widths = page.locator("#measured svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
        assert widths and max(widths) <= size
        sizes = page.locator("#measured :is(text, p, td, th, summary, pre, strong, .key)").evaluate_all(
            "all => all.map(one => parseFloat(getComputedStyle(one).fontSize))"
        )
        assert sizes and min(sizes) >= 12
        shot(page, f"understand-{scheme}-{size}")
