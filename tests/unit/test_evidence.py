"""The evidence benchmark: what its analysis concludes from known runs, and that no run is made twice."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.evidence import analysis
from benchmarks.evidence.design import Arm, Experiment, job, scoring_jobs, tuning_jobs
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.of_pictures import Pictures
from benchmarks.evidence.running import made

ARMS = {"plain": Arm(), "better": Arm({"a": 1}), "same": Arm({"a": 2}), "noisy": Arm({"a": 3})}
SHAPE = Experiment("?", "plain", ARMS, {}, Pictures(5), tuple(range(12)), 0.01, (10, 20), (1e-3, 2e-3), (50, 51))


def runs(experiment: Experiment) -> list[dict[str, Any]]:
    """Better by 5 %, the same up to 0.05 %, and different by chance up to 10 %."""
    draw = random.Random(0)
    found = []
    for seed in experiment.seeds:
        base = draw.uniform(0.8, 0.9)
        gaps = {"plain": 0.0, "better": -0.05 + draw.gauss(0, 0.003), "same": draw.gauss(0, 0.0005)}
        gaps["noisy"] = 0.1 * (-1) ** seed
        for arm, gap in gaps.items():
            rows = [{"step": 0, "scoring": 2.0}, {"step": 10, "scoring": 1.0, "validation": 0.1}]
            rows.append({"step": 20, "scoring": 2 * (base + gap), "validation": 0.2, "scoring at 0.75": 0.5})
            found.append({"arm": arm, "seed": seed, "lr": None, "measures": rows})
    return found


def test_what_is_concluded():
    rows = {row["arm"]: row for row in analysis.compare(runs(SHAPE), SHAPE)}
    assert {arm: row["verdict"] for arm, row in rows.items()} == {
        "plain": "", "better": "better", "same": "no difference", "noisy": "undecided",
    }  # fmt: skip
    better = rows["better"]
    assert better["low"] < better["difference"] < better["high"] < -4 and better["pairs"] == 12
    mean = sum(better["gaps"]) / 12
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in better["gaps"]) / 11 / 12)
    assert better["high"] - mean == pytest.approx(2.200985 * spread, rel=1e-6)  # t of 11 degrees of freedom
    assert better["Holm p"] == pytest.approx(3 * better["t p"])  # the smallest of three


@pytest.mark.parametrize(
    ("margin", "said"), [(0.03, "better, by more than the margin"), (0.0495, "better, not surely by the margin"),
    (0.08, "better, by less than the margin")],
)  # fmt: skip
def test_a_question_of_more_than_the_margin_is_answered_by_the_whole_interval(margin: float, said: str):
    shape = dataclasses.replace(SHAPE, margin=margin, beyond=True)
    rows = {row["arm"]: row["verdict"] for row in analysis.compare(runs(shape), shape)}
    assert rows["better"] == said and rows["same"] == "no difference"


def test_a_checkpoint_is_chosen_by_validation_and_a_weaker_adapter_is_another_arm():
    arms = {"plain": Arm(), "chosen": Arm(chosen=True, like="plain"), "weak": Arm(scale=0.75, like="plain")}
    rows = {row["arm"]: row for row in analysis.compare(runs(SHAPE), dataclasses.replace(SHAPE, arms=arms))}
    assert rows["chosen"]["mean %"] == pytest.approx(50) and rows["weak"]["mean %"] == pytest.approx(25)
    assert rows["plain"]["mean %"] > 80


def test_each_arm_takes_its_best_rate_of_the_tuning_seeds():
    tuned = [
        {"arm": "plain", "seed": seed, "lr": lr, "measures": [{"validation": loss + seed / 1000}]}
        for seed in SHAPE.tuning for lr, loss in ((1e-3, 0.5), (2e-3, 0.4))
    ]  # fmt: skip
    assert analysis.best_rates(tuned, SHAPE) == {"plain": 2e-3}
    for run in tuned:  # the lower rate is better at its best checkpoint
        run["measures"] = [{"validation": 0.0}, {"validation": run["lr"]}, *run["measures"]]
    chosen = dataclasses.replace(SHAPE, arms={"plain": Arm(chosen=True)})
    assert analysis.best_rates(tuned, SHAPE) == {"plain": 2e-3} and analysis.best_rates(tuned, chosen) == {
        "plain": 1e-3
    }


def test_runs_that_are_there_are_not_made_again_and_a_cut_line_is_not_one(tmp_path):
    raw, wanted = tmp_path / "raw.jsonl", job("shape", SHAPE, "better", 3, 1e-3)
    raw.write_text(json.dumps({"key": wanted.key, "arm": "of before", "lr": None}) + "\n" + '{"key": "cut')
    other = job("shape", SHAPE, "same", 3, 1e-3)
    (found,) = made(raw, [wanted, other], workers=0, deadline=0)
    assert found == {"key": wanted.key, "arm": "better", "lr": 1e-3}
    assert job("elsewhere", SHAPE, "better", 3, 1e-3).key == wanted.key != other.key


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_declared_experiments_tune_and_score_on_different_seeds(name: str):
    for experiment in (EXPERIMENTS[name], EXPERIMENTS[name].quick()):
        tuned, scored = list(tuning_jobs(name, experiment)), list(scoring_jobs(name, experiment, {}))
        assert not {one.seed for one in tuned} & {one.seed for one in scored}
        assert {one.arm for one in scored} == {arm for arm, what in experiment.arms.items() if not what.like}
        assert all(what.like in experiment.arms for what in experiment.arms.values() if what.like)


def test_a_share_of_the_pictures_has_each_others_captions(tmp_path):
    from benchmarks.evidence.pictures import _pictures
    from lowrank_diffusion.image.data import scan

    experiment = EXPERIMENTS["flat_misnamed"]
    sets = {}
    for share in (0.0, 0.2):
        data = Pictures(20, misnamed=share)
        one = job("x", dataclasses.replace(experiment, data=data), "LoRA", 400)
        sets[share] = [picture.caption for picture in scan(_pictures(one, data, tmp_path / str(share)))]
    assert sorted(sets[0.0]) == sorted(sets[0.2])
    assert sum(a != b for a, b in zip(sets[0.0], sets[0.2], strict=True)) == 4


def test_the_key_of_a_run_is_what_it_was():
    assert job("flat_overfit", EXPERIMENTS["flat_overfit"], "LoRA", 100).key == "c86839cc0d782fe6283b"


@pytest.mark.parametrize("raw", sorted((report.RESULTS / "evidence").glob("*.jsonl")), ids=lambda path: path.stem)
def test_runs_that_were_made_are_all_found_again(raw: Path):
    experiment = EXPERIMENTS[raw.stem]
    wanted = list(tuning_jobs(raw.stem, experiment))
    tuned = made(raw, wanted, workers=0, deadline=0)
    assert len(tuned) == len(wanted)
    wanted = list(scoring_jobs(raw.stem, experiment, analysis.best_rates(tuned, experiment)))
    assert len(made(raw, wanted, workers=0, deadline=0)) == len(wanted)


def test_other_measures_are_reported_as_they_are_and_an_end_of_the_grid_is_told():
    shape = dataclasses.replace(SHAPE, arms={**ARMS, "weak": Arm(scale=0.75, like="plain")}, also=("bits",))
    made_up = runs(SHAPE)
    for run in made_up:
        rows = run["measures"]
        rows[0]["bits"], rows[2]["bits"], rows[2]["bits at 0.75"] = -1.0, 10.0 + run["seed"], 5.0
    rows = {row["arm"]: row for row in analysis.others(made_up, shape)}
    assert rows["plain"]["mean"] == 15.5 and rows["plain"]["base"] == -1 and rows["better"]["difference"] == 0
    assert rows["weak"]["mean"] == 5 and rows["weak"]["high"] < 0
    assert analysis.at_edge({"plain": 1e-3, "better": 1.5e-3, "same": 2e-3}, SHAPE) == ["plain", "same"]
