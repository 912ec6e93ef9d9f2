"""``python -m benchmarks.evidence NAME``: make the runs that are missing, then say what they say."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowrank_diffusion.errors import UserError

from .. import report
from . import analysis, drawing
from .design import Experiment, scoring_jobs, tuning_jobs
from .experiments import EXPERIMENTS
from .of_texts import Texts
from .running import made


def main() -> None:
    """Train what is missing, analyse, write NAME.md, NAME.svg and NAME.jsonl."""
    options = parsed()
    deadline = time.monotonic() + options.seconds
    try:
        for name in options.names:
            run(name, options, deadline)
    except UserError as error:
        raise SystemExit(str(error)) from None


def parsed() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=list(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--quick", action="store_true", help="few short runs, to see that it works")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run after that long")
    parser.add_argument("--report", action="store_true", help="only from the runs that are there")
    parser.add_argument("--runs-only", action="store_true", help="no report: it needs scipy and matplotlib")
    parser.add_argument("--model", help="base of a text experiment: folder, .gguf file or hub id; else the embedded")
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet's database, for glosses (Debian: wordnet-base)")
    parser.add_argument("--out", type=Path, default=report.RESULTS / "evidence")
    return parser.parse_args()


def run(name: str, options: argparse.Namespace, deadline: float) -> None:
    """One experiment, see :func:`main`. Raises UserError."""
    experiment = EXPERIMENTS[name]
    if isinstance(experiment.data, Texts):
        experiment = replace(experiment, data=experiment.data.here(options.model, options.wordnet))
    elif options.model or options.wordnet:
        raise UserError(f"{name} is of pictures; --model and --wordnet are for experiments of texts.")
    experiment = experiment.quick() if options.quick else experiment
    options.out.mkdir(parents=True, exist_ok=True)
    raw = options.out / f"{name}.jsonl"
    workers = 0 if options.report else options.jobs
    tuned = made(raw, list(tuning_jobs(name, experiment)), workers, deadline)
    rates = analysis.best_rates(tuned, experiment)
    wanted = list(scoring_jobs(name, experiment, rates))
    scored = made(raw, wanted, workers, deadline)
    if options.runs_only:
        return
    there, all_of = len({run["key"] for run in scored}), len({job.key for job in wanted})
    early = "" if there == all_of else (
        f"**Unfinished: {there} of {all_of} runs are there. This is a look at a part, before the planned number of "
        "seeds; nothing is concluded from it.**\n\n"
    )  # fmt: skip
    print(write(name, experiment, tuned, scored, options.out, early))


def write(
    name: str, experiment: Experiment, tuned: Sequence[dict[str, Any]], scored: Sequence[dict[str, Any]], out: Path,
    early: str = "",
) -> str:  # fmt: skip
    """The report beside the raw runs; returns its table. ``early`` says that runs are missing."""
    rows = analysis.compare(scored, experiment)
    drawing.draw(rows, scored, experiment, out / f"{name}.svg")
    shown = [{key: item for key, item in row.items() if key not in ("gaps", "values")} for row in rows]
    rates = analysis.best_rates(tuned, experiment)
    for row in shown:
        arm = experiment.arms[row["arm"]].like or row["arm"]
        row["lr"] = rates.get(arm, experiment.settings.get("optimizer.lr", 0.0))
    table = report.markdown(shown)
    devices = sorted({run["device"] for run in scored})
    head = (
        f"# {name}\n\n{early}{experiment.question}\n\n"
        f"Primary measure: {experiment.data.loss}, % of the base's; paired difference from "
        f"{experiment.baseline}, 95 % t interval; lower is better. Margin of equivalence: {100 * experiment.margin} %. "
        f"Holm over all arms. {len(scored)} runs on {', '.join(devices)}; learning rates from {len(tuned)} runs on "
        "other seeds.\n\n"
        f"`python -m benchmarks.evidence {name}`\n\n![differences]({name}.svg)\n\n"
    )
    if edge := analysis.at_edge(rates, experiment):
        table += f"\n\nBest at an end of the grid of learning rates, so perhaps better outside: {', '.join(edge)}."
    if experiment.also:
        beside = report.markdown(analysis.others(scored, experiment))
        table += f"\n\nMeasured beside it, nothing is decided by these:\n\n{beside}"
    (out / f"{name}.md").write_text(f"{head}{table}\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    main()
