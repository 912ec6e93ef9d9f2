"""One day: own pictures got into shape, three runs queued, the app killed, all done, compared, chosen and used."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from lowrank_diffusion.runs import Run, all_runs
from tests.app_process import running_app
from tests.browser.conftest import shot
from tests.browser.test_generate import choose, drawn, fill, jobs, pixels
from tests.browser.test_pictures import card, dialog, drag, drop, icons, text_of, tool
from tests.browser.test_runs import ticked
from tests.browser.test_studio import open_tab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

QUIET_MS = 90_000
SETTINGS = {"train-steps": "9", "train-batch": "2", "save-every": "3", "sample-every": "9", "sample-steps": "4"}


def test_nothing_is_typed_twice_and_nothing_lost(browser: Browser, home: Path, tmp_path: Path) -> None:
    window = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    with running_app(home) as url:
        page = opened(window.new_page(), url)
        drop(page, icons(tmp_path / "in"), 12)
        card(page, "icon-01.png").locator(".view").click()
        drag(page, (0.2, 0.2), (0.8, 0.6))
        page.keyboard.press("Escape")
        expect(dialog(page)).to_be_hidden()
        tool(page, "Put in front", "sks,")
        expect(text_of(page, "icon-00.png")).to_have_value(re.compile("^sks, a toy"), timeout=QUIET_MS)
        queued(page)
        kill(url)
    assert len(all_runs()) == 3
    with running_app(home) as url:  # at another address, in the same browser
        page.goto(url)
        everything_is_done()
        compared(page)
        used(page, home)
    window.close()


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    page.locator("#start").wait_for()
    page.wait_for_function("sessionStorage.getItem('lowrank-diffusion-draft')", timeout=QUIET_MS)
    return page


def setting(page: Page, key: str, value: str) -> None:
    page.locator(f"#field-{key}").locator("input, textarea").first.fill(value)


def queued(page: Page) -> None:
    """Three runs that differ in one setting; only that is typed again."""
    page.locator("#field-data-word").locator("input, textarea").first.press_sequentially("sks", delay=15)
    page.locator("#other-settings").get_by_text("All other settings").click()
    for key, value in SETTINGS.items():
        setting(page, key, value)
    setting(page, "validation-holdout", "3")
    setting(page, "validation-every", "3")
    setting(page, "optimizer-warmup", "0")
    page.locator("#other-settings").get_by_text("All other settings").click()
    for number, rate in enumerate(("0.001", "0.002", "0.0005"), 1):
        setting(page, "optimizer-lr", rate)
        name = page.locator("#run-name").locator("input, textarea").first
        name.fill(f"rate-{number}")
        page.wait_for_timeout(1200)
        page.locator("#start").click()
        wait(lambda number=number: len(all_runs()) == number, 90)
    expect(page.locator("#now")).to_contain_text("2. rate-3", timeout=QUIET_MS)
    expect(page.locator("#problems")).to_have_text("")
    shot(page, "day-queued")


def kill(url: str) -> None:
    """The app dies as by a power cut; what trains is another process."""
    port = int(url.rpartition(":")[2])
    listening = [one.pid for one in psutil.net_connections("tcp") if one.laddr.port == port and one.status == "LISTEN"]
    (pid,) = {pid for pid in listening if pid}
    os.kill(pid, signal.SIGKILL)


def everything_is_done() -> None:
    wait(lambda: all(run.status().state == "finished" for run in all_runs()), 240)


def wait(true, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, [(run.title, run.status().state, run.status().message) for run in all_runs()]
        time.sleep(0.2)


def of(title: str) -> Run:
    return next(run for run in all_runs() if run.title == title)


def compared(page: Page) -> None:
    expect(page.locator("#start")).to_be_visible(timeout=QUIET_MS)
    open_tab(page, "Runs")
    for title in ("rate-1", "rate-2", "rate-3"):
        ticked(page, of(title))
    table = page.locator("table.compared")
    expect(table).to_contain_text("optimizer.lr", timeout=QUIET_MS)
    expect(table.locator("tbody tr", has=page.locator("code"))).to_have_count(1)
    shot(page, "day-compared")
    frames = [item for item in (of("rate-1").path / "data" / "instance" / "metadata.jsonl").read_text().splitlines()]
    assert any('"frame"' in line for line in frames) and all("sks, a toy" in line for line in frames)


def used(page: Page, home: Path) -> None:
    """The best checkpoint chosen by a grid, a picture drawn with it, and that picture's file dropped."""
    run = of("rate-2")
    assert run.adapter("best").step in (3, 6, 9)
    page.locator(f'table.runs tr[data-name="{run.name}"] b').click()
    expect(page.locator("#runs-head h3")).to_have_text("rate-2", timeout=QUIET_MS)
    page.locator("#use-run").click()
    expect(page.locator("#draw")).to_be_visible(timeout=QUIET_MS)
    fill(page, steps=2, count=1)
    page.locator("#grid-panel > button").first.click()
    choose(page, "axis-1", "checkpoints")
    page.locator("#values-1").locator("input, textarea").first.fill("all")
    page.locator("#draw-grid").click()
    cells = page.locator("table.grid td .open")
    expect(cells).to_have_count(len(run.adapters()), timeout=180_000)
    shot(page, "day-grid")
    page.locator("#compare input").uncheck()
    page.locator("#draw").click()
    drawn(page, 1)
    (picture,) = jobs(home)[-1].glob("*-adapted.png")
    first = pixels(picture)
    fill(page, prompt="something else", seed=77, steps=5)
    page.locator("#dropped-png input[type=file]").set_input_files(str(picture))
    expect(page.locator("#seed input")).not_to_have_value("77", timeout=QUIET_MS)
    page.locator("#draw").click()
    wait(lambda: len(jobs(home)) == 3 and list(jobs(home)[-1].glob("*-adapted.png")) != [], 180)
    (again,) = jobs(home)[-1].glob("*-adapted.png")
    assert (pixels(again) == first).all()
