"""Does a small language model learn to turn orders into strict JSON, and how long does that take?

Trains the preset llm-orders through the command line, then answers the 100 held-out orders, whose names and items were
never trained on, with the base alone and with the adapter.

    python -m benchmarks.llm_orders [key=value ...] [--preset llm-orders] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from lowrank_diffusion import adapters, devices, runs
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.text.metrics import Answers, answer
from lowrank_diffusion.text.model import Base
from lowrank_diffusion.text.rows import read

from . import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="on top of the preset")
    parser.add_argument("--preset", default="llm-orders")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    run, seconds, busy = train(options.preset, options.settings)
    base, adapted = answers(run)
    rows = [row("base", base), row("adapted", adapted)]
    notes = (
        f"Preset {options.preset} {' '.join(options.settings)}; {len(base.texts)} held-out orders, answered greedily. "
        f"The run, with its own validation and exports: {seconds:.0f} s, {busy:.0f} s of CPU time."
    )
    print(report.write("llm_orders", rows, notes, options.out))


def train(preset: str, settings: list[str]) -> tuple[runs.Run, float, float]:
    """A run through the command line: (run, seconds from start to end, CPU seconds of the training process)."""
    begin, busy = time.perf_counter(), 0.0
    command = [sys.executable, "-m", "lowrank_diffusion", "train", preset, *settings]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        run = runs.find(shown.stdout.readline().removeprefix("run ").strip())
        for line in shown.stdout:
            print(line, end="", flush=True)
            with suppress(psutil.Error, AttributeError):  # it may be gone
                times = run.process().cpu_times()
                busy = times.user + times.system
    if shown.returncode:
        raise SystemExit(shown.returncode)
    return run, time.perf_counter() - begin, busy


def answers(run: runs.Run) -> tuple[Answers, Answers]:
    """What the base says to the held-out orders, and what it says with the run's adapter."""
    cfg = run.config()
    device = devices.pick(cfg.train.device)
    base = Base.of(cfg.base, device, torch.float32)
    tokenizer, model, rows = base.tokenizer(cfg.text.template), base.model().eval(), read(Path(cfg.text.held_out))
    plain = answer(model, tokenizer, rows, cfg.sample.tokens)
    (folder,) = (path for path in run.path.glob("*-peft") if not path.name.endswith("-lora-peft"))
    return plain, answer(adapters.load(model, folder), tokenizer, rows, cfg.sample.tokens)


def row(name: str, answers: Answers) -> dict[str, Any]:
    """One line of the table."""
    return {
        "model": name,
        "exact match %": 100 * answers.exact_match,
        "valid JSON %": 100 * sum(map(is_json, answers.texts)) / len(answers.texts),
        "tokens/s": answers.tokens_per_second,
    }


def is_json(text: str) -> bool:
    """Whether it is one JSON value and nothing else."""
    with suppress(ValueError):
        json.loads(text)
        return True
    return False


if __name__ == "__main__":
    main()
