"""The figure of an experiment: every arm's paired difference with its interval, every seed a point; and its curves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .design import Experiment


def draw(rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]], experiment: Experiment, path: Path) -> None:
    """Write an SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "evidence"  # the same file for the same figures
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.2 + 0.36 * len(rows)), width_ratios=(3, 2))
    _differences(left, rows, experiment)
    _curves(right, runs, experiment)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _differences(axes: Any, rows: Sequence[dict[str, Any]], experiment: Experiment) -> None:
    margin = 100 * experiment.margin
    axes.axvspan(-margin, margin, color="0.93")
    axes.axvline(0, color="0.6", linewidth=1)
    shown = [row for row in rows if row["arm"] != experiment.baseline and row["pairs"]]
    for place, row in enumerate(reversed(shown)):
        axes.plot(row["gaps"], [place] * len(row["gaps"]), ".", color="0.7", markersize=4)
        axes.plot([row["low"], row["high"]], [place, place], color="C0", linewidth=2)
        axes.plot(row["difference"], place, "o", color="C0", markersize=5)
    axes.set_yticks(range(len(shown)), [row["arm"] for row in reversed(shown)])
    axes.set_xlabel(f"loss less that of {experiment.baseline}, % of the base's (left is better)")


def _curves(axes: Any, runs: Sequence[dict[str, Any]], experiment: Experiment) -> None:
    for arm in (arm for arm, what in experiment.arms.items() if not what.like):
        mine = [run["measures"] for run in runs if run["arm"] == arm and run["seed"] in experiment.seeds]
        steps = [0, *experiment.measured]
        shares = [
            [m["scoring"] / rows[0]["scoring"] * 100 for rows in mine for m in rows if m["step"] == s] for s in steps
        ]
        axes.plot(
            steps, [statistics.mean(share) if share else float("nan") for share in shares], label=arm, linewidth=1
        )
    axes.set_xlabel("steps")
    axes.set_ylabel("loss, % of the base's")
    axes.legend(fontsize=7)
