"""What a person does in the Language tab, done in a browser with the embedded base and few rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import Run, all_runs
from tests.browser.conftest import Studio, shot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.usefixtures("converted_bases")]

LONG_MS = 300_000
STEPS = 3


def open_language(page: Page) -> None:
    page.get_by_role("tab", name="Language").click()
    expect(page.locator("#text-start")).to_be_visible(timeout=90_000)


def drop(page: Page, path: Path) -> None:
    expect(page.locator("#text-drop")).to_contain_text("Click to Upload", timeout=90_000)  # the last file is taken in
    page.locator("#text-drop input[type=file]").set_input_files(str(path))


def few_rows(folder: Path) -> Path:
    """Some rows of the example, under a name that is not easy."""
    lines = (EXAMPLES / "llm-orders" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    path = folder / "my orders (été) & more.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def the_run() -> Run:
    (run,) = all_runs()
    return run


def test_rows_are_seen_trained_on_and_talked_with(studio: Studio, tmp_path: Path) -> None:
    page = studio.open()
    open_language(page)
    expect(page.locator("#text-note")).to_contain_text("Chat messages")  # the tab's parts are alive
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": [{"role": "user", "content": "x"}]}\n{not json')
    drop(page, broken)
    expect(page.locator("#text-note")).to_contain_text("line 2", timeout=90_000)
    drop(page, few_rows(tmp_path))
    expect(page.locator("#text-note")).to_contain_text("12 rows", timeout=90_000)
    expect(page.locator("#text-rows .t.learn").nth(3)).to_be_visible(timeout=LONG_MS)
    expect(page.locator("#text-counts")).to_contain_text("12")
    page.locator("#text-next").click()
    expect(page.locator("#text-where")).to_have_text("rows 6 to 10 of 12")
    expect(page.locator("#text-rows header b").first).to_have_text("Row 6")
    shot(page, "language-1-rows")

    page.locator("#text-preset input").click()
    page.get_by_role("option", name="llm-smoke").click()
    expect(page.locator("#text-field-train-steps input")).to_have_value("6", timeout=90_000)
    page.locator("#text-field-train-steps input").fill(str(STEPS))
    page.locator("#text-field-sample-prompts textarea").fill("Two large teas for Nina, please.")
    page.locator("#text-start").click()
    expect(page.locator("#text-run-head .pill")).to_be_visible(timeout=90_000)
    run = the_run()
    expect(page.locator("#text-curve polyline.smooth")).to_be_visible(timeout=LONG_MS)
    studio.reload(page)
    open_language(page)
    expect(page.locator("#text-note")).to_contain_text("12 rows", timeout=90_000)
    expect(page.locator("#text-run-head h3")).to_have_text(run.title, timeout=90_000)
    expect(page.locator("#text-run-head .pill.finished")).to_be_visible(timeout=LONG_MS)
    expect(page.locator("#text-samples .reply").first).to_contain_text("Two large teas")
    shot(page, "language-2-trained")
    status = run.status()
    assert status.step == status.steps == STEPS
    assert run.config().task == "text"

    page.get_by_role("tab", name="Runs").click()
    page.locator("table.runs tbody tr").first.click()
    page.locator("#use-run").click()
    talk_side_by_side(page)
    shot(page, "language-3-chat")


def talk_side_by_side(page: Page) -> None:
    expect(page.locator("#chat-message textarea")).to_have_value("Two large teas for Nina, please.", timeout=90_000)
    page.locator("#chat-max-tokens input").fill("12")
    message = page.locator("#chat-message textarea")
    message.fill(" ")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-problems")).to_contain_text("Message is empty", timeout=90_000)
    message.fill("Three <b>pies</b> for Ann.")
    message.press("Enter")
    turn = page.locator("#chat .turn")
    expect(turn.locator(".said")).to_have_text("Three <b>pies</b> for Ann.", timeout=90_000)
    for kind in ("base", "adapted"):
        answer = turn.locator(f".answer.{kind}")
        expect(answer.locator("small")).to_have_text(re.compile("token"), timeout=LONG_MS)
        assert answer.locator("p").inner_text().strip()
    expect(page.locator("#chat-send")).to_be_enabled()
