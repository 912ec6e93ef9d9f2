"""From raw runs to what may be concluded: paired differences, intervals, equivalence, and Holm over all arms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from .design import Arm, Experiment

Run = dict[str, Any]


def value(run: Run, experiment: Experiment, arm: str, measure: str = "scoring") -> float:
    """An arm's measure of a run, at the strength and the checkpoint that the arm is measured at."""
    what = experiment.arms[arm]
    return measured_at(run, what)[f"{measure} at 0.75" if what.scale != 1 else measure]


def measured_at(run: Run, arm: Arm) -> dict[str, float]:
    """The measures of the checkpoint that an arm is judged by."""
    if not arm.chosen:
        return run["measures"][-1]
    # Chosen among those that training leaves, not the base: who trains wants an adapter.
    return min(run["measures"][1:], key=lambda row: row["validation"])


def share(run: Run, experiment: Experiment, arm: str) -> float:
    """The primary measure: the scoring loss in percent of the base's."""
    return 100 * value(run, experiment, arm) / run["measures"][0]["scoring"]


def at_edge(rates: dict[str, float], experiment: Experiment) -> list[str]:
    """Arms whose best learning rate is the grid's lowest or highest, so that a better one may lie outside."""
    ends = (min(experiment.grid), max(experiment.grid)) if experiment.grid else ()
    return [arm for arm, rate in rates.items() if rate in ends]


def best_rates(runs: Sequence[Run], experiment: Experiment) -> dict[str, float]:
    """Each arm's learning rate with the lowest mean validation loss over the tuning seeds, where the arm is judged."""
    found: dict[str, float] = {}
    for arm, what in experiment.arms.items():
        by_rate: dict[float, list[float]] = {}
        for run in (run for run in runs if run["arm"] == arm and run["lr"] is not None):
            by_rate.setdefault(run["lr"], []).append(measured_at(run, what)["validation"])
        if by_rate:
            found[arm] = min(by_rate, key=lambda rate: statistics.mean(by_rate[rate]))
    return found


def compare(runs: Sequence[Run], experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each arm: its mean, and its paired difference from the baseline; percent of the base's loss."""
    values = _by_seed(runs, experiment, share)
    rows = [_row(arm, values[arm], values[experiment.baseline], experiment) for arm in experiment.arms]
    _holm([row for row in rows if row["arm"] != experiment.baseline and row["pairs"] > 1], experiment)
    return rows


def others(runs: Sequence[Run], experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each of the other measures and each arm: base, mean, and paired difference, as they were measured."""
    rows = []
    for measure in experiment.also:
        values = _by_seed(runs, experiment, lambda run, _, arm, name=measure: value(run, experiment, arm, name))
        base = _mean([run["measures"][0][measure] for run in runs])
        for arm in experiment.arms:
            row = _row(arm, values[arm], values[experiment.baseline], experiment)
            rows.append({
                "measure": measure, "arm": arm, "base": base, "mean": row["mean %"],
                **{name: row[name] for name in ("difference", "low", "high")},
            })  # fmt: skip
    return rows


def _by_seed(
    runs: Sequence[Run], experiment: Experiment, measured: Callable[[Run, Experiment, str], float]
) -> dict[str, dict[int, float]]:
    """What is measured of each arm, by seed."""
    values: dict[str, dict[int, float]] = {arm: {} for arm in experiment.arms}
    for run in (run for run in runs if run["seed"] in experiment.seeds):
        for arm, what in experiment.arms.items():
            if (what.like or arm) == run["arm"]:
                values[arm][run["seed"]] = measured(run, experiment, arm)
    return values


def _row(arm: str, mine: dict[int, float], base: dict[int, float], experiment: Experiment) -> dict[str, Any]:
    seeds = sorted(set(mine) & set(base))
    gaps = [mine[seed] - base[seed] for seed in seeds]
    from scipy import stats  # not needed on a machine that only trains

    row: dict[str, Any] = {"arm": arm, "pairs": len(seeds), "mean %": _mean(list(mine.values())), "difference": 0.0}
    row |= {"low": 0.0, "high": 0.0, "t p": math.nan, "Wilcoxon p": math.nan, "equivalence p": math.nan}
    row |= {"Holm p": math.nan, "verdict": "", "gaps": gaps, "values": [mine[seed] for seed in seeds]}
    if arm == experiment.baseline or len(gaps) < 2 or not all(map(math.isfinite, gaps)) or len(set(gaps)) == 1:
        row["difference"] = _mean(gaps)
        return row
    mean, error = _mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
    half, free, margin = stats.t.ppf(0.975, len(gaps) - 1) * error, len(gaps) - 1, 100 * experiment.margin
    row |= {"difference": mean, "low": mean - half, "high": mean + half}
    row["t p"] = float(stats.ttest_1samp(gaps, 0.0).pvalue)
    row["Wilcoxon p"] = float(stats.wilcoxon(gaps).pvalue)
    # Two one-sided tests: both that it is above -margin and that it is below +margin.
    below, above = stats.t.sf((margin - mean) / error, free), stats.t.sf((mean + margin) / error, free)
    row["equivalence p"] = float(max(below, above))
    return row


def _holm(rows: list[dict[str, Any]], experiment: Experiment) -> None:
    """Holm's step-down correction of the t tests, and what may be said at 5 %."""
    tested = sorted((row for row in rows if math.isfinite(row["t p"])), key=lambda row: row["t p"])
    highest = 0.0
    for place, row in enumerate(tested):
        highest = row["Holm p"] = max(highest, min(1.0, row["t p"] * (len(tested) - place)))
        if row["Holm p"] < 0.05:
            row["verdict"] = "better" if row["difference"] < 0 else "worse"
        else:
            row["verdict"] = "no difference" if row["equivalence p"] < 0.05 else "undecided"
        if row["verdict"] in ("better", "worse") and row["equivalence p"] < 0.05:
            row["verdict"] += ", by less than the margin"
        elif row["verdict"] in ("better", "worse") and experiment.beyond:
            whole = min(abs(row["low"]), abs(row["high"])) > 100 * experiment.margin
            row["verdict"] += ", by more than the margin" if whole else ", not surely by the margin"


def _mean(values: list[float]) -> float:
    return statistics.mean(values) if values else math.nan
