"""What is it, what was changed, what it will take: the settings as a person fills them in."""

from __future__ import annotations

import shlex

import pytest
from playwright.sync_api import Page, expect

from lowrank_diffusion import presets
from lowrank_diffusion.runs import all_runs

from .conftest import Studio, shot
from .test_studio import open_tab


@pytest.mark.slow
def test_purpose_changes_own_presets_and_errors(studio: Studio) -> None:
    page = studio.open()
    page.get_by_role("button", name="Example: style 3d icons").click()
    told = page.locator("#told")
    expect(told).to_contain_text("20 pictures with captions of their own.", timeout=90_000)
    expect(told).to_contain_text("160 steps of 4 = 32 passes over the pictures")

    page.locator("#field-train-steps input").fill("200")
    changed = page.locator("#changed")
    expect(changed).to_contain_text("One setting changed from emoji-style", timeout=60_000)
    expect(told).to_contain_text("200 steps of 4 = 40 passes")
    page.locator("#field-optimizer-lr input").fill("0.002")
    expect(changed).to_contain_text("2 settings changed", timeout=60_000)
    shot(page, "changed")
    changed.get_by_role("button", name="Reset Learning rate").click()
    expect(page.locator("#field-optimizer-lr input")).to_have_value("0.001", timeout=60_000)
    command_means_the_same(page)

    page.locator("#own-preset").get_by_text("Keep these settings as a preset").click()
    page.locator("#own-preset-name").locator("input, textarea").first.fill("my-icons")
    page.locator("#own-preset-keep").click()
    expect(page.locator("#preset input")).to_have_value("my-icons", timeout=60_000)
    assert (kept := presets.named("my-icons")) is not None and kept.values["train"]["steps"] == 200
    expect(changed).not_to_contain_text("changed", timeout=60_000)

    page.locator("#purpose").get_by_text("a face").click()
    expect(page.locator("#preset input")).to_have_value("emoji-subject", timeout=60_000)
    expect(page.locator("#preset-about")).to_contain_text("One person: 10 to 30 pictures")
    prompts = "a portrait photo of {word} {subject}\n{word} {subject} laughing, side light"
    expect(page.locator("#field-sample-prompts textarea")).to_have_value(prompts)
    page.locator("#bases").get_by_text("Base models on this machine").click()
    page.locator("#base-list").get_by_role("button", name="embedded").click()

    page.locator("#other-settings").get_by_text("All other settings").click()
    page.locator("#field-save-keep input").fill("0")
    page.locator("#other-settings").get_by_text("All other settings").click()
    page.locator("#start").click()
    problems = page.locator("#problems")
    expect(problems).to_contain_text("save.keep", timeout=60_000)
    problems.get_by_role("link", name="Keep").click()
    expect(page.locator("#field-save-keep input")).to_be_focused(timeout=10_000)
    expect(page.locator("#field-save-keep")).to_be_in_viewport()
    shot(page, "error-link")
    assert all_runs() == []


def command_means_the_same(page: Page) -> None:
    expect(page.locator("#told pre").first).not_to_contain_text("optimizer.lr", timeout=60_000)
    words = shlex.split(page.locator("#told pre").first.text_content() or "")
    settings = presets.parse_overrides(word for word in words[5:] if "=" in word)
    built = presets.build(presets.find_preset(words[4]).values, settings)
    assert built.train.steps == 200 and built.data.word == "3d icon" and built.optimizer.lr == 1e-3


@pytest.mark.slow
def test_a_wrong_base_is_told_where_it_is_typed(studio: Studio) -> None:
    page = studio.open()
    page.locator("#field-base-path").locator("input, textarea").first.fill("/no/such/model")
    expect(page.locator("#told")).to_contain_text("'/no/such/model' does not exist", timeout=60_000)
    open_tab(page, "Runs")
    expect(page.locator("#runs-table")).to_contain_text("No runs yet", timeout=60_000)
