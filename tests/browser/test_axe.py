"""What axe-core finds on every tab, in both themes, on a phone and on a desk: nothing serious that is ours."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, expect

from lowrank_diffusion import events, presets, run_queue, runs
from tests.app_process import running_app
from tests.browser.conftest import settled

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
TABS = ("Train", "Generate", "Language", "Runs")
SCREENS = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1400, "height": 900}}
GRADIO = {
    "label-content-name-mismatch": ("button",),  # of an upload field
    "aria-prohibited-attr": (".svelte-",),  # an empty upload field
    "nested-interactive": (".toast-", "button.lg"),
    "color-contrast": (".or", ".min_value", ".max_value", ".overflow-menu"),
    "scrollable-region-focusable": (".tab-container",),
}
"""What Gradio's own parts do wrong: by rule, what the selector of such an element holds."""


SMALL = """() => {
  const how = { visibilityProperty: true, opacityProperty: true };
  const seen = (part) => part.checkVisibility(how) && part.getClientRects().length;
  const name = (part) => `${part.tagName}#${part.id}.${part.className} ${(part.textContent || '').trim().slice(0, 40)}`;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const wrong = [];
  while (texts.nextNode()) {
    const part = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !seen(part) || part.closest('svg, script, style, .unseen')) continue;
    const size = parseFloat(getComputedStyle(part).fontSize);
    if (size < 12) wrong.push(`text of ${size} px: ${name(part)}`);
  }
  for (const part of document.querySelectorAll('button, input:not([type=file]), select, summary, a[download]')) {
    const { width, height } = (part.closest('label') || part).getBoundingClientRect();
    if (part.matches('.link, input[type=range]') || !seen(part) || width <= 1 || height <= 1) continue;
    if (height < 24 || width < 24) wrong.push(`target of ${width} x ${height} px: ${name(part)}`);
  }
  return wrong;
}"""
"""Visible text below 12 px, and targets below 24 px (WCAG 2.5.8) that do not stand in a line of text."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_HOME", str(home))
        for name in ("one", "two"):
            run = runs.create(presets.build(presets.find_preset("smoke").values), name)
            log = events.EventLog(run.events_path)
            log.append(events.Began(1))
            log.append(events.Started(0, 12, "cpu", "float32", 1000))
            for step in range(1, 13):
                log.append(events.Stepped(step, 1 / step, 1e-3, 1.0, 0.5))
            log.append(events.Validated(12, 0.3))
            log.append(events.Note("A note."))
            log.append(events.Finished(12))
        waits = runs.create(presets.build(presets.find_preset("smoke").values), "waits")
        run_queue.pause()
        run_queue.submit(waits)
        with running_app(home) as url:
            yield url


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_serious_on_any_tab(browser: Browser, app: str, theme: Any, screen: str):
    window = browser.new_context(viewport=SCREENS[screen], color_scheme=theme)  # type: ignore[arg-type]
    try:
        page = window.new_page()
        page.goto(app)
        page.locator("#start").wait_for()
        page.get_by_role("button", name="Example: subject cat").click()
        expect(page.locator(".picture-card")).to_have_count(7)
        wrong: list[str] = []
        for tab in TABS:
            opened(page, tab)
            wrong += [f"{tab}: {line}" for line in [*violations(page), *page.evaluate(SMALL)]]
        assert wrong == []
    finally:
        window.close()


def opened(page: Page, tab: str) -> None:
    """The tab, and of Runs a comparison with a run in detail."""
    handle = page.get_by_role("tab", name=tab, exact=True).first
    if not handle.is_visible():
        page.locator(".overflow-menu > button").first.click()
        handle = page.locator(".overflow-dropdown button", has_text=tab).first
    handle.click()
    if tab == "Runs":
        compared(page)
        page.locator("table.runs tbody tr b").nth(1).click()
        expect(page.locator("#runs-head h3")).to_have_text(re.compile("one|two"))
    settled(page, 500, 3000)


def compared(page: Page) -> None:
    """Two runs are ticked and their curves there. Opening the tab may be answered late, by a table without ticks."""
    expect(page.locator("table.runs tbody tr")).to_have_count(3)
    curves, end = page.locator("#compare-curve polyline.smooth"), time.monotonic() + 90
    while curves.count() < 2:
        assert time.monotonic() < end, "two runs are ticked and not compared"
        for number in (1, 2):
            page.locator("input[data-tick]").nth(number).set_checked(True)
            settled(page, 500, 3000)


def violations(page: Page) -> list[str]:
    """Serious and critical ones that are not Gradio's, each with the element and what axe says of it."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
    lines = []
    for rule in found:
        if rule["impact"] not in ("serious", "critical"):
            continue
        for node in rule["nodes"]:
            place = " ".join(map(str, node["target"]))
            if not any(part in place or part in node["html"] for part in GRADIO.get(rule["id"], ())):
                lines.append(f"{rule['id']}: {place}: {node['html'][:160]}")
    return lines
