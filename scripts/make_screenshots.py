"""Take the pictures of the README from the real app: `python -m scripts.make_screenshots`, some minutes on two cores.

The app runs in a home of its own, trains the example style, and is driven as a person would; what is seen is kept as
docs/runs.png, docs/generate.png, and docs/training.webp, a short animation of the training.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run, all_runs

DOCS = PROJECT / "docs"
SIZE = {"width": 1400, "height": 900}
FRAMES = 24
FRAME_WIDTH = 700


def main() -> None:
    """Take all of them."""
    from tests.app_process import chromium, running_app  # of this checkout

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.environ["LOWRANK_HOME"] = folder
        with running_app(Path(folder)) as url:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto(url)
            page.locator("#start").wait_for()
            trained(page)
            looked_back(page)
            drawn(page)
            browser.close()


def trained(page: Page) -> None:
    """The example style from Start to its end, a frame every few seconds."""
    page.get_by_role("button", name="Example: style 3d icons").click()
    page.locator(".picture-card").nth(19).wait_for()
    page.locator("#other-settings").get_by_text("All other settings").click()
    page.locator("#field-validation-holdout input").fill("3")
    page.locator("#field-validation-every input").fill("20")
    page.locator("#other-settings").get_by_text("All other settings").click()
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(2500)
    page.locator("#start").click()
    frames: list[Image.Image] = []
    while not all_runs() or all_runs()[0].status().state not in ("finished", "failed"):
        frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        page.wait_for_timeout(4000)
    page.wait_for_timeout(5000)
    animate(frames, DOCS / "training.webp")


def animate(frames: list[Image.Image], path: Path) -> None:
    """Some of the frames, evenly spaced, small."""
    chosen = [frames[round(number * (len(frames) - 1) / (FRAMES - 1))] for number in range(FRAMES)]
    height = round(FRAME_WIDTH * SIZE["height"] / SIZE["width"])
    small = [frame.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS) for frame in chosen]
    small[0].save(path, save_all=True, append_images=small[1:], duration=400, loop=0, quality=60, method=6)


def looked_back(page: Page) -> None:
    """The Runs tab with the run and one again from it, compared."""
    page.get_by_role("tab", name="Runs").click()
    page.locator("table.runs tbody tr b").first.click()
    page.locator("#again-run").click()
    page.locator("#start").wait_for()
    page.wait_for_timeout(2000)
    page.locator("#field-optimizer-lr input").fill("0.0005")
    page.locator("#run-name").locator("input, textarea").first.fill("half-the-rate")
    page.wait_for_timeout(2000)
    page.locator("#start").click()
    finished("half-the-rate")
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_timeout(3000)
    for box in page.locator("input[data-tick]").all()[:2]:
        box.click()
        page.wait_for_timeout(800)
    page.locator("table.runs tbody tr b").last.click()
    page.wait_for_timeout(3000)
    page.screenshot(path=DOCS / "runs.png")


def finished(title: str) -> Run:
    """Wait for the run of this name."""
    while True:
        for run in all_runs():
            if run.title == title and run.status().state in ("finished", "failed"):
                return run
        time.sleep(1)


def drawn(page: Page) -> None:
    """A grid of strengths and prompts with the adapter."""
    page.locator("#use-run").click()
    page.locator("#draw").wait_for()
    page.locator("#prompt textarea").fill("a 3d icon of a whale")
    page.locator("#count input").fill("4")
    page.locator("#draw").click()
    page.locator("#drawn .open").nth(7).wait_for(timeout=180_000)
    page.wait_for_timeout(3000)
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=DOCS / "generate.png")


if __name__ == "__main__":
    main()
