"""From `make run` on an installed studio to the first picture of what was trained, by a browser that waits for nothing.

    python -m benchmarks.first_picture [--example subject]

The clock starts with the command. A page is opened as soon as the app answers; it presses the example, Start, and when
the run has ended, *Try it* and Draw. The home is new, so nothing is cached. `.venv` is there already.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run, all_runs
from tests.app_process import answers, chromium, free_port

from . import report

EXAMPLES = {"subject": ("Example: subject cat", "a photo of sks cat wearing a hat"),
            "style": ("Example: style 3d icons", "a 3d icon of a whale")}  # fmt: skip


class Clock:
    """What had happened how many seconds after the command."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.rows: list[dict[str, object]] = []

    def note(self, what: str) -> None:
        self.rows.append({"what": what, "seconds": round(time.perf_counter() - self.begin, 1)})
        print(self.rows[-1], flush=True)


def main() -> None:
    """Measure and write first_picture_EXAMPLE.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", choices=list(EXAMPLES), default="subject")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LOWRANK_HOME"] = home
        port = free_port()
        clock = Clock()
        app = subprocess.Popen(
            ["make", "-s", "run", f"ARGS=--no-browser --port {port}"], cwd=PROJECT, start_new_session=True
        )
        try:
            followed(f"http://127.0.0.1:{port}", *EXAMPLES[options.example], clock)
        finally:
            os.killpg(app.pid, signal.SIGTERM)
            app.wait(30)
    about = "Seconds since `make run`, on a machine where it has been run before; a new home, so nothing is cached."
    print(report.write(f"first_picture_{options.example}", clock.rows, about, options.out))


def followed(url: str, example: str, prompt: str, clock: Clock) -> None:
    """The whole way of a person who knows where to click."""
    while not answers(f"{url}/health"):
        time.sleep(0.1)
    clock.note("the app answers")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(url)
        page.get_by_role("button", name=example).click()
        page.locator(".picture-card").first.wait_for()
        clock.note("the page is open, the pictures are in it")
        page.locator("#start").click()
        trained(clock)
        drawn(page, prompt)
        clock.note("a picture of one's own prompt is drawn, base and adapted")
        browser.close()


def trained(clock: Clock) -> Run:
    """Wait for the run, noting its first step and first sample."""
    seen: set[str] = set()
    while True:
        time.sleep(0.1)
        for run in all_runs()[:1]:
            state = run.status()
            happened = {
                "the first step is done": state.step > 0,
                "the first sample of the adapter is drawn": any(step for step, *_ in state.samples),
                "the training has ended": state.state == "finished",
            }
            for what in (what for what, so in happened.items() if so and what not in seen):
                seen.add(what)
                clock.note(what)
            if state.state in ("failed", "stopped", "interrupted"):
                raise RuntimeError(f"the run has {state.state}")
            if state.state == "finished":
                return run


def drawn(page: Page, prompt: str) -> None:
    """Draw with the run's adapter, as its button *Try it* leads to."""
    page.get_by_role("tab", name="Runs").click()
    page.locator("table.runs tbody tr b").first.click()
    page.locator("#use-run").click()
    page.locator("#draw").wait_for()
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#count input").fill("1")
    page.locator("#draw").click()
    page.locator("#drawn .open").nth(1).wait_for()


if __name__ == "__main__":
    main()
