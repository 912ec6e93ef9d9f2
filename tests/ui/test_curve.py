from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from ui import curve


def test_smoothing_a_constant_gives_the_constant_from_the_first_point_on() -> None:
    assert [value for _, value in curve.smoothed([(step, 0.25) for step in range(1, 50)])] == pytest.approx([0.25] * 49)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0812, 0.0934), (0, 12345), (3, 3.0000001), (0, 0)])
def test_ticks_are_inside_the_range_and_few(low: float, high: float) -> None:
    marks = curve.ticks(low, high)
    assert len(marks) <= 6
    assert all(low - 1e-9 <= mark <= high + 1e-9 for mark in marks)


def test_a_long_run_becomes_a_short_well_formed_drawing() -> None:
    losses = [(step, 0.1 + math.exp(-step / 900)) for step in range(1, 5001)]
    text = curve.svg(losses, [(100, 0.5), (5000, 0.2)], 5000)
    figure = ElementTree.fromstring(text)
    lines = {line.get("class"): line.get("points", "").split() for line in figure.iter("polyline")}
    assert set(lines) == {"raw", "smooth", "held"}
    assert len(lines["raw"]) <= curve.MOST_POINTS
    assert len(text) < 40_000


def test_not_a_number_is_left_out_and_no_loss_is_said_plainly() -> None:
    assert "<svg" not in curve.svg([(1, math.nan)])
    assert "nan" not in curve.svg([(1, 0.2), (2, math.nan), (3, 0.1)])
