"""What a training step of the embedded base costs on a CPU: LoRA, GraLoRA and hybrid, each plain and flat.

    python -m benchmarks.cpu_step [key=value ...] [--rounds 12] [--threads N] [--only lora gralora+flat ...]

All rows train side by side in one process and take turns, one step each, in an order that changes from round to round:
what else the machine does slows all of them alike. A ratio is the median of the rounds' own ratios. Same pictures,
batch, layers and number of trained parameters in every row: total rank 16, of which a hybrid's plain part has 4.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lowrank_diffusion import presets, runs
from trainers import fast
from trainers.dreambooth import DreamBooth
from trainers.step import Step

from . import report

PLAIN: dict[str, Any] = {
    "adapter.targets": "attention", "adapter.text_encoders": "none", "flat.sigma": 0.05, "optimizer.lr": 1e-3,
    "optimizer.text_encoder_lr": None, "data.caption_dropout": 0.0, "validation.holdout": 2, "train.steps": 160,
}  # fmt: skip
"""What is compared are adapters of the UNet's attention, as every trainer has them, whatever the preset adds."""
RANK, SIGMA = 16, 0.05
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"adapter.kind": "lora", "adapter.rank": RANK},
    "gralora": {"adapter.kind": "gralora", "adapter.k": 2, "adapter.rank": RANK},
    "hybrid": {"adapter.kind": "gralora", "adapter.k": 2, "adapter.rank": 12, "adapter.hybrid_rank": RANK - 12},
}
ROWS = [f"{kind}{flat}" for kind in KINDS for flat in ("", "+flat")]
STEPS = 1000
"""Of the run that a row stands for. Measured in its middle, where every perturbation is drawn."""


def build(row: str, options: argparse.Namespace, folder: Path) -> Step:
    """The row's task and its step, as training would take it."""
    kind, _, flat = row.partition("+")
    settings = PLAIN | presets.parse_overrides(options.settings) | KINDS[kind]
    settings |= {"flat.sigma": SIGMA if flat else 0.0, "train.device": "cpu", "train.steps": STEPS}
    cfg = presets.build(presets.find_preset(options.preset).values, settings)
    run = runs.create(cfg, row.replace("+", "-"), folder)
    device = torch.device("cpu")
    task = DreamBooth(run, run.config(), device, torch.float32, lambda *_: None)
    return fast.build(task, run.config(), device, torch.float32)


def measure(states: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of every row's step in every round, after one that warms up."""
    taken: dict[str, list[float]] = {row: [] for row in states}
    for number in range(rounds + 1):
        order = list(states)[number % len(states) :] + list(states)[: number % len(states)]
        for row in order:
            begin = time.perf_counter()
            states[row].advance(STEPS // 2 + number)
            states[row].drain()
            if number:
                taken[row].append(time.perf_counter() - begin)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return taken


def rows(states: dict[str, Step], taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The table; a ratio is empty where the other row was left out."""

    def ratio(row: str, other: str) -> float | str:
        if other not in taken:
            return ""
        return statistics.median(a / b for a, b in zip(taken[row], taken[other], strict=True))

    return [
        {
            "row": row,
            "parameters": sum(p.numel() for p in state.parameters.values()),
            "mode": state.plan.mode,
            "s/step": statistics.median(taken[row]),
            "fastest": min(taken[row]),
            "slowest": max(taken[row]),
            "x lora": ratio(row, "lora"),
            "flat/plain": ratio(row, row.partition("+")[0]) if "+flat" in row else "",
        }
        for row, state in states.items()
    ]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="on top of the preset")
    parser.add_argument("--preset", default="emoji-style")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=f"from {' '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=12, help="measured steps of each row")
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--out", type=Path, default=report.RESULTS, help="folder of the results")
    parser.add_argument("--name", default="cpu_step")
    return parser.parse_args(argv)


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        states = {row: build(row, options, Path(folder)) for row in options.only}
        taken = measure(states, options.rounds)
    some: Any = next(iter(states.values())).task
    notes = (
        f"Preset {options.preset}, adapters of the UNet's attention, {' '.join(options.settings)}; "
        f"batch {some.cfg.train.batch}, {some.side} px, "
        f"{len(some.layers)} layers, total rank {RANK}, sigma {SIGMA}; {options.rounds} rounds in turns. s/step: "
        "median; x lora, flat/plain: medians of the ratios within a round."
    )
    print(report.write(options.name, rows(states, taken), notes, options.out))


if __name__ == "__main__":
    main()
