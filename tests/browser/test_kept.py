"""What a person typed stays, what was done can be undone, and Start answers where the eye is; done in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from lowrank_diffusion import presets, supervisor
from lowrank_diffusion.runs import all_runs
from tests.app_process import running_app
from tests.browser.conftest import Studio, assert_quiet, shot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


WATCH = (
    "window.echo = null; const seen = new MutationObserver(() => { if (window.at && window.echo === null &&"
    " document.querySelector('#now .now')) window.echo = performance.now() - window.at; });"
    "seen.observe(document.body, {childList: true, subtree: true});"
    "document.querySelector('#start').addEventListener('click', () => { window.at = performance.now(); }, true);"
)
"""Measures how long the page takes to answer to Start."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """One app for all tests of this file; each has a browser window, and so drafts, of its own."""
    home = tmp_path_factory.mktemp("kept")
    with running_app(home) as url:
        yield url, home


@pytest.fixture
def studio(app: tuple[str, Path], browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    url, home = app
    monkeypatch.setenv("LOWRANK_HOME", str(home))
    window = browser.new_context(viewport={"width": 1400, "height": 900})
    studio = Studio(url, home, window)
    yield studio
    for run in all_runs():
        if run.process() is not None:
            supervisor.stop(run, kill_after=0)
    window.close()
    assert studio.errors == [], studio.errors
    assert_quiet(home)


def test_a_page_that_waits_draws_no_frames(studio: Studio):
    """A browser without anything to do takes nothing from the training."""
    studio.window.add_init_script("""
        const frame = window.requestAnimationFrame;
        window.frames_drawn = 0;
        window.requestAnimationFrame = (call) => { window.frames_drawn += 1; return frame.call(window, call); };
    """)
    page = ready(studio.open())
    seconds: list[int] = []
    while not seconds or (seconds[-1] and len(seconds) < 30):  # it may still be drawing what has just come
        before = page.evaluate("window.frames_drawn")
        page.wait_for_timeout(1000)
        seconds.append(page.evaluate("window.frames_drawn") - before)
    assert not seconds[-1], seconds


def test_no_list_stays_open_behind_the_keyboard(studio: Studio):
    page = ready(studio.open())
    page.locator("#run-name").locator("input, textarea").first.focus()
    passed = 0
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role') === 'combobox'"):
            passed += 1
        else:
            expect(page.locator("[role=listbox]:visible")).to_have_count(0)
    assert passed >= 3
    page.locator("#field-adapter-kind input").click()
    page.get_by_role("option", name="lora", exact=True).click()
    expect(page.locator("#field-adapter-kind input")).to_have_value("lora")


def ready(page: Page) -> Page:
    """The page knows its draft; from here on it keeps what is typed."""
    page.locator("#start").wait_for()
    page.wait_for_function("sessionStorage.getItem('lowrank-diffusion-draft')", timeout=90_000)
    expect(page.locator(".toast-body")).to_have_count(0)
    return page


def field(page: Page, name: str) -> Locator:
    return page.locator(f"#{name} input, #{name} textarea").first


def typed(page: Page, name: str, text: str) -> None:
    field(page, name).fill(text)


def kept(studio: Studio, page: Page, *words: str) -> None:
    """Wait until the page's draft holds all the words."""
    key = page.evaluate("sessionStorage.getItem('lowrank-diffusion-draft')")
    path = studio.home / "drafts" / f"{key}.json"
    for _ in range(600):
        text = path.read_text() if path.is_file() else ""
        if all(word in text for word in words):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{words} are not kept in {text[:2000]}")


def choose(page: Page, preset: str) -> None:
    page.locator("#preset input").click()
    page.get_by_role("option", name=preset, exact=True).click()
    expect(page.locator("#preset input")).to_have_value(preset)
    about = presets.find_preset(preset).about
    expect(page.locator("#preset-about")).to_contain_text(about, timeout=90_000)  # the server has answered


def robots(folder: Path, count: int = 3) -> list[str]:
    paths = [folder / f"robot-{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (160, 160), (0, 80 * number, 90)).save(path)
    return [str(path) for path in paths]


def drop(page: Page, folder: Path) -> None:
    page.locator("#drop input[type=file]").set_input_files(robots(folder))
    expect(page.locator(".picture-card")).to_have_count(3, timeout=90_000)


@pytest.mark.parametrize(("example", "count"), [("style 3d icons", 20), ("subject cat", 7)])
def test_an_example_survives_a_reload(studio: Studio, example: str, count: int) -> None:
    page = ready(studio.open())
    page.get_by_role("button", name=f"Example: {example}").click()
    expect(page.locator(".picture-card")).to_have_count(count, timeout=90_000)
    prompts = field(page, "field-sample-prompts").input_value()
    assert "{" not in prompts
    kept(studio, page, '"pictures": [{')
    studio.reload(ready(page))
    expect(page.locator(".picture-card")).to_have_count(count, timeout=90_000)
    expect(field(page, "field-sample-prompts")).to_have_value(prompts)
    ready(page)


def test_settings_of_every_tab_survive_and_two_tabs_keep_their_own(studio: Studio) -> None:
    page = ready(studio.open())
    choose(page, "emoji-subject")
    for name, text in {"run-name": "my robot", "field-train-steps": "77", "field-data-subject": "robot"}.items():
        typed(page, name, text)
    expect(field(page, "field-data-prompt")).to_have_value("a photo of {word} robot", timeout=90_000)
    page.get_by_role("tab", name="Generate").click()
    typed(page, "prompt", "a fox in the rain")
    typed(page, "seed", "99")
    page.get_by_role("tab", name="Language").click()
    page.get_by_role("button", name="Example: llm orders").click()
    expect(page.locator("#text-note")).to_contain_text("rows", timeout=90_000)
    typed(page, "text-run-name", "my orders")
    kept(studio, page, "my robot", "77", "fox in the rain", "99", "my orders", "train.jsonl")
    studio.reload(page)
    other = ready(studio.open())
    for tab in (ready(page), other):
        expect(field(tab, "run-name")).to_have_value("my robot", timeout=90_000)
        expect(tab.locator("#preset input")).to_have_value("emoji-subject")
        expect(field(tab, "field-train-steps")).to_have_value("77")
        expect(field(tab, "field-data-subject")).to_have_value("robot")
        expect(field(tab, "field-data-prompt")).to_have_value("a photo of {word} robot")
        tab.get_by_role("tab", name="Generate").click()
        expect(field(tab, "prompt")).to_have_value("a fox in the rain")
        expect(field(tab, "seed")).to_have_value("99")
        tab.get_by_role("tab", name="Language").click()
        expect(field(tab, "text-run-name")).to_have_value("my orders")
        expect(tab.locator("#text-note")).to_contain_text("rows")
    expect(page.locator("#draft-note")).to_contain_text("Your settings were kept")
    expect(other.locator("#draft-note")).to_contain_text("starts with the settings of the last one")
    other.get_by_role("tab", name="Train").click()
    typed(other, "run-name", "of the other")
    kept(studio, other, "of the other")
    studio.reload(page)
    expect(field(ready(page), "run-name")).to_have_value("my robot")


def test_settings_survive_a_restart_of_the_app(browser: Browser, tmp_path: Path) -> None:
    window = browser.new_context()
    page = None
    for turn in ("first", "second"):
        with running_app(tmp_path) as url:
            page = window.new_page() if page is None else page
            if turn == "first":
                page.goto(url)
                typed(ready(page), "run-name", "stays")
                kept(Studio(url, tmp_path, window), page, "stays")
                key = page.evaluate("sessionStorage.getItem('lowrank-diffusion-draft')")
            else:  # a test's app has another port each time, and so another storage: bring the key along
                page.goto(f"{url}/theme.css")
                page.evaluate(f"sessionStorage.setItem('lowrank-diffusion-draft', '{key}')")
                page.goto(url)
                expect(field(ready(page), "run-name")).to_have_value("stays", timeout=90_000)
    window.close()


def test_the_subject_is_asked_and_start_answers_beside_itself(studio: Studio, tmp_path: Path) -> None:
    page = ready(studio.open())
    drop(page, tmp_path)
    choose(page, "emoji-subject")
    start = page.locator("#start")
    expect(start).to_be_in_viewport()
    start.click()
    expect(page.locator("#problems")).to_contain_text("It is a", timeout=90_000)
    expect(page.locator("#problems")).to_contain_text("Its word")
    expect(page.locator("#problems")).to_be_in_viewport()
    assert all_runs() == []
    shot(page, "asked")
    field(page, "field-data-subject").press_sequentially("robot", delay=15)
    field(page, "field-data-word").press_sequentially("sks", delay=15)
    expect(field(page, "field-data-prompt")).to_have_value("a photo of sks robot", timeout=60_000)
    expect(field(page, "field-data-trigger")).to_have_value("sks robot")
    expect(field(page, "field-sample-prompts")).to_have_value(re.compile("^a photo of sks robot wearing a hat\n"))
    expect(page.locator("#told")).to_contain_text("3 pictures, all captioned 'a photo of sks robot'.", timeout=60_000)
    page.evaluate(WATCH)
    typed(page, "run-name", "first")
    start.dblclick()
    bar = page.locator("#now")
    expect(bar).to_contain_text("first", timeout=60_000)
    expect(bar.get_by_role("button", name="Stop")).to_be_in_viewport(timeout=90_000)
    assert 0 <= page.evaluate("window.echo") < 1000, "the page itself answers, not the server"
    expect(start).to_have_text("Add to the queue")
    assert len(all_runs()) == 1
    typed(page, "run-name", "second")
    page.wait_for_timeout(1000)  # a second click within a second is a double click
    start.click()
    expect(bar).to_contain_text("1. second", timeout=60_000)
    expect(bar.get_by_role("button", name="Remove")).to_be_in_viewport()
    page.locator("#run-shown input").click()
    expect(page.get_by_role("option", name=re.compile("second · in the queue"))).to_be_visible(timeout=90_000)
    page.keyboard.press("Escape")
    shot(page, "waiting")
    page.set_viewport_size({"width": 390, "height": 844})
    expect(bar.get_by_role("button", name="Remove")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shot(page, "waiting-phone")
    ends(page)


def ends(page: Page) -> None:
    """Both runs are ended from the bar."""
    bar = page.locator("#now")
    bar.get_by_role("button", name="Remove").click()
    expect(bar).not_to_contain_text("second", timeout=60_000)
    bar.get_by_role("button", name="Stop").click()
    expect(bar).to_be_empty(timeout=60_000)
    expect(page.locator("#start")).to_have_text("Start training")
    for run in all_runs():
        assert run.config().data.prompt == "a photo of sks robot"


def test_what_was_done_can_be_undone(studio: Studio, tmp_path: Path) -> None:
    page = ready(studio.open())
    drop(page, tmp_path)
    cards, undo = page.locator(".picture-card"), page.get_by_role("button", name="Undo")
    first = page.locator(".picture-card textarea").first
    first.fill("mine")
    typed(page, "caption-all", "for all")
    page.locator("#put-on-all").click()
    expect(first).to_have_value("for all")
    undo.click()
    expect(first).to_have_value("mine")
    page.locator("#remove-all").click()
    expect(cards).to_have_count(0)
    shot(page, "undo")
    undo.click()
    expect(cards).to_have_count(3)
    expect(first).to_have_value("mine")
    page.locator(".picture-card .remove").first.click()
    expect(cards).to_have_count(2)
    undo.click()
    expect(cards).to_have_count(3)


def test_a_preset_and_an_example_can_be_undone(studio: Studio, tmp_path: Path) -> None:
    page = ready(studio.open())
    drop(page, tmp_path)
    cards, undo = page.locator(".picture-card"), page.get_by_role("button", name="Undo")
    first = page.locator(".picture-card textarea").first
    first.fill("mine")
    typed(page, "run-name", "mine")
    typed(page, "field-train-steps", "55")
    choose(page, "smoke")
    expect(page.locator(".undo")).to_contain_text("one of your values kept (Steps)")
    expect(field(page, "field-adapter-rank")).to_have_value("4")
    expect(field(page, "field-train-steps")).to_have_value("55")
    page.get_by_role("button", name="Replace").click()
    expect(field(page, "field-train-steps")).to_have_value("12")
    undo.click()
    expect(field(page, "field-train-steps")).to_have_value("55")
    page.get_by_role("button", name="Example: subject cat").click()
    expect(cards).to_have_count(7, timeout=90_000)
    expect(field(page, "field-data-prompt")).to_have_value("a photo of sks cat")
    expect(field(page, "run-name")).to_have_value("mine")
    undo.click()
    expect(cards).to_have_count(3)
    expect(first).to_have_value("mine")
    expect(field(page, "field-train-steps")).to_have_value("55")
    expect(page.locator("#preset input")).to_have_value("smoke")
    page.locator("#remove-all").click()
    expect(undo).to_be_visible()
    typed(page, "run-name", "something else")
    expect(undo).to_have_count(0)
