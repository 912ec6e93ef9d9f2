"""The example of the Language tab from the first click to the last answer: about six minutes, so only if asked for.

LOWRANK_LONG=1 python -m pytest tests/browser/test_orders.py -s
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from lowrank_diffusion import events
from lowrank_diffusion.runs import Run, Status, all_runs
from tests.browser.conftest import Studio, shot
from tests.browser.test_language import open_language

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("LOWRANK_LONG"), reason="takes minutes; LOWRANK_LONG=1 runs it"),
]
LONG_SECONDS = 1500


def wait(page: Page, run: Run, until: Callable[[Status], bool]) -> None:
    """Look at the run's files, not at the page: a browser that is asked ten times a second takes from the training."""
    begin = time.monotonic()
    while not until(run.status()):
        assert time.monotonic() - begin < LONG_SECONDS, run.log_path.read_text()[-2000:]
        page.wait_for_timeout(2000)


def test_a_small_model_learns_to_write_orders_as_json(studio: Studio) -> None:
    """With the base unconverted, as on the first day; the time is printed, the answers are judged."""
    page = studio.open()
    open_language(page)
    begin = time.monotonic()
    page.get_by_role("button", name="Example: llm orders").click()
    expect(page.locator("#text-field-train-steps input")).to_have_value("110", timeout=60_000)
    page.locator("#text-start").click()
    expect(page.locator("#text-run-head .pill")).to_be_visible(timeout=60_000)
    (run,) = all_runs()
    wait(page, run, lambda status: len(status.losses) > 9)
    expect(page.locator("#text-curve polyline.smooth")).to_be_visible(timeout=60_000)
    shot(page, "orders-1-training")
    wait(page, run, lambda status: not status.active)
    expect(page.locator("#text-run-head .pill.finished")).to_be_visible(timeout=60_000)
    seconds = time.monotonic() - begin
    shot(page, "orders-2-trained")
    told = [record.event for record in events.tail(run.events_path)[0]]
    matches = [e.value for e in told if isinstance(e, events.Measured) and e.name == "exact match"]
    print(f"\n{seconds:.0f} s from the first click to the end; exact match {matches[0]:.2f} -> {matches[-1]:.2f}")
    assert matches[0] <= 0.1 and matches[-1] >= 0.8

    page.get_by_role("tab", name="Runs").click()
    page.locator("table.runs tbody tr").first.click()
    page.locator("#use-run").click()
    message = page.locator("#chat-message textarea")
    expect(message).to_have_value("Two large mochas for Malik", timeout=60_000)
    message.press("Enter")
    answer = page.locator("#chat .turn .answer.adapted")
    expect(answer.locator("small")).to_have_text(re.compile("token"), timeout=300_000)
    expect(answer.locator("p")).to_contain_text('"Malik"')
    shot(page, "orders-3-chat")
