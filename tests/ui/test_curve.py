from __future__ import annotations

import json
import math

import pytest

from lowrank_diffusion.runs import Status
from ui import curve


def test_smoothing_a_constant_gives_the_constant_from_the_first_point_on() -> None:
    assert [value for _, value in curve.smoothed([(step, 0.25) for step in range(1, 50)])] == pytest.approx([0.25] * 49)


def test_a_long_run_becomes_short_data_with_its_lowest_validation() -> None:
    losses = [(step, 0.1 + math.exp(-step / 900)) for step in range(1, 5001)]
    text = curve.of_run("cats", Status(losses=losses, validation=[(0, 0.1), (100, 0.5), (5000, 0.2)], steps=5000))
    drawn = json.loads(text)
    (series,) = drawn["series"]
    assert len(series["raw"]) <= curve.MOST_POINTS and len(series["smooth"]) <= curve.MOST_POINTS
    assert series["held"] == [[0, 0.1], [100, 0.5], [5000, 0.2]] and series["best"] == [5000, 0.2]
    assert [key["kind"] for key in drawn["keys"]] == ["raw", "smooth", "held", "best"]
    assert "lowest: 0.2000 at step 5000" in drawn["label"] and len(text) < 40_000


def test_what_is_not_a_number_is_left_out_and_no_loss_is_an_empty_chart() -> None:
    drawn = json.loads(curve.of_run("x", Status(losses=[(1, 0.2), (2, math.nan), (3, math.inf), (4, 0.1)])))
    assert [step for step, _ in drawn["series"][0]["raw"]] == [1, 4]
    empty = json.loads(curve.of_run("x", Status(losses=[(1, math.nan)])))
    assert empty["series"][0]["raw"] == [] and empty["keys"] == []


def test_several_runs_share_a_chart_as_long_as_their_colours_can_be_told_apart() -> None:
    runs = [(f"run {number}", Status(losses=[(1, 0.5), (2, 0.4)], steps=number)) for number in range(12)]
    drawn = json.loads(curve.of_runs([*runs, ("none yet", Status())]))
    assert [one["name"] for one in drawn["series"]] == [f"run {number}" for number in range(curve.MOST_RUNS)]
    assert drawn["steps"] == curve.MOST_RUNS - 1
    assert "dashed" not in [key["kind"] for key in drawn["keys"]]
