"""What an open page costs while nothing happens: CPU time of the app and of the browser.

    python -m benchmarks.idle_page [--seconds 60]

A run of the example is there, so that every tab has something to show. Each tab stays in front for the same time in a
page of its own, in Chromium without a GPU. Percent of one core: of all the app's processes, and of all the browser's,
less what the browser takes for an empty page.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from lowrank_diffusion import presets, runs, supervisor
from tests.app_process import chromium, running_app

from . import report

TABS = ("Train", "Generate", "Language", "Runs")
SETTLED = 20
"""Seconds until a page has drawn itself and the polling of a page that waits is slow."""


def cpu_seconds(root: psutil.Process) -> float:
    """User and system time of a process and those below it."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def share(page: Page, processes: list[psutil.Process], seconds: float) -> list[float]:
    """Percent of one core that each takes while the page stays open."""
    page.wait_for_timeout(1000 * SETTLED)
    before = [cpu_seconds(process) for process in processes]
    begin = time.perf_counter()
    page.wait_for_timeout(1000 * seconds)
    taken = time.perf_counter() - begin
    return [100 * (cpu_seconds(process) - was) / taken for process, was in zip(processes, before, strict=True)]


def measured(url: str, browser: Browser, processes: list[psutil.Process], seconds: float) -> list[dict[str, object]]:
    """A row for an empty page, which the others are compared with, and one for each tab."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto("about:blank")
    app, empty = share(page, processes, seconds)
    rows: list[dict[str, object]] = [{"page": "none", "app, %": app, "browser, %": empty, "less an empty page": 0.0}]
    page.close()
    for tab in TABS:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(url)
        page.locator("#start").wait_for()
        page.get_by_role("tab", name=tab, exact=True).click()
        app, shown = share(page, processes, seconds)
        rows.append({"page": tab, "app, %": app, "browser, %": shown, "less an empty page": shown - empty})
        print(rows[-1], flush=True)
        page.close()
    return rows


def main() -> None:
    """Measure and write idle_page.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        os.environ["LOWRANK_HOME"] = home
        run = runs.create(
            presets.build(presets.find_preset("smoke").values, {"data.instance": "assets/examples/subject-cat"}),
            "seen", Path(home) / "runs",
        )  # fmt: skip
        supervisor.start(run)
        while run.status().state != "finished":
            time.sleep(0.5)
        with running_app(Path(home)) as url:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
            processes = [_process("app.py"), _process("--headless")]
            rows = measured(url, browser, processes, options.seconds)
            browser.close()
    about = f"One page of 1400 x 900 pixels, {options.seconds:.0f} s for each tab, {SETTLED} s after it was opened."
    print(report.write("idle_page", rows, about, options.out))


def _process(word: str) -> psutil.Process:
    """The topmost of this process's descendants with the word in its command line."""
    return next(p for p in psutil.Process().children(recursive=True) if any(word in part for part in p.cmdline()))


if __name__ == "__main__":
    main()
