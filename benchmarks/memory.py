"""How much GPU memory whole jobs take, caching and samples included, beside what was estimated before they started.

    python -m benchmarks.memory [--only sdxl-8gb lora-b4 ...] [--base SDXL] [--work FOLDER] [--jobs 3] [--tiny]

Each row is a run of the trainer in processes of its own, `python -m lowrank_diffusion train PRESET ...` with few steps
and a sample before and after them, on a base of true size with random weights (an SDXL, or a Stable Diffusion 1.5 for
the sd15 presets: 7 and 2 GB, written once into --work; a folder in memory such as /dev/shm is fastest) or on --base.
Peaks come from the run's events. Rows of one's own:
`--only 'mine:sdxl-12gb;train.batch=2;flat.sigma=0.05'`, a name, a preset and settings.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowrank_diffusion import events, presets, runs
from lowrank_diffusion.config import Config
from lowrank_diffusion.devices import GIB
from lowrank_diffusion.image import memory
from lowrank_diffusion.paths import EXAMPLES, PROJECT
from scripts.write_base import Recipe, write_folder

from . import report

PLAIN = "sdxl-subject-lora;adapter.rank=32"
ROWS = {
    "sdxl-8gb": "sdxl-8gb",
    "sdxl-12gb": "sdxl-12gb",
    "sdxl-24gb": "sdxl-24gb",
    "lora-b1": PLAIN,
    "lora-b4": f"{PLAIN};train.batch=4",
    "lora-b1-checkpointed": f"{PLAIN};train.checkpointing=true",
    "lora-b4-checkpointed": f"{PLAIN};train.batch=4;train.checkpointing=true",
    "lora-b1-768px": f"{PLAIN};data.resolution=768",
    "gralora-flat-kept": f"{PLAIN};adapter.kind=gralora;flat.sigma=0.05",
    "gralora-flat-redrawn": f"{PLAIN};adapter.kind=gralora;flat.sigma=0.05;flat.keep=false",
    "lora-nf4-checkpointed": f"{PLAIN};base.quantize=nf4;train.checkpointing=true",
    "lora-b1-eager": f"{PLAIN};train.execution=eager",
    "sd15-6gb": "sd15-6gb",
    "sd15-8gb": "sd15-8gb",
    "lora-b1-eager-adamw8bit": f"{PLAIN};train.execution=eager;optimizer.name=adamw8bit",
}
"""Row -> preset and settings."""
TINY: dict[str, Any] = {"data.resolution": 128, "train.device": "cpu", "train.precision": "fp32", "train.memory": None}
STAGES = {
    "preparing": ("reading captions", "encoding pictures", "class pictures"),
    "steps": ("steps",),
    "samples": ("samples",),
}
"""The stages of events -> those of estimates."""


NOTES = """Peaks of whole jobs, caching and samples included, in GiB, without CUDA's own context (about half a GiB).
"taken" is what the process took from the GPU, "in tensors" what was in use at once. "estimate" is what
`python -m lowrank_diffusion memory` says for a GPU of this size. Stages: estimated / taken (in tensors)."""


@dataclass(frozen=True)
class Row:
    """One run to measure."""

    name: str
    preset: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, text: str, common: dict[str, Any]) -> Row:
        """From a name of ``ROWS``, or NAME:PRESET;key=value;..."""
        name, colon, recipe = text.partition(":")
        preset, *settings = (recipe if colon else ROWS[name]).split(";")
        return cls(name, preset, common | presets.parse_overrides(settings))

    def config(self) -> Config:
        """The run's settings."""
        return presets.build(presets.find_preset(self.preset).values, self.settings)

    def command(self) -> list[str]:
        """The command that trains it."""
        values = [f"{key}={_yaml(value)}" for key, value in self.settings.items()]
        return [sys.executable, "-m", "lowrank_diffusion", "train", self.preset, "--name", self.name, *values]


def _yaml(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def measure(row: Row, work: Path, available: float) -> dict[str, Any]:
    """Run it in a home of its own, so that nothing is cached and several rows can run at once."""
    home, begin = work / "homes" / row.name, time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    kernels = {"TORCHINDUCTOR_CACHE_DIR": str(work / "compiled")}  # compiled code is no part of what is measured
    environment = os.environ | kernels | {"LOWRANK_HOME": str(home)}
    done = subprocess.run(row.command(), cwd=PROJECT, env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - begin
    print(f"--- {row.name}: {seconds:.0f} s\n{done.stdout[-1500:]}{done.stderr[-1500:]}", flush=True)
    found = runs.all_runs(home / "runs")
    records, _ = events.tail(found[0].events_path) if found else ([], 0)
    told = [record.event for record in records]
    failed = [event.message for event in told if isinstance(event, events.Failed)]
    message = "; ".join(failed) or ("" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1])
    shutil.rmtree(home, ignore_errors=True)
    return figures(row.config(), told, available) | {"seconds": round(seconds), "message": _cell(message)}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:200]


def figures(cfg: Config, told: list[events.Event], available: float) -> dict[str, Any]:
    """A row's numbers: GiB estimated and measured, by stage and at the peak."""
    guess = memory.estimate(cfg, available)
    peaks: dict[str, events.Memory] = {}
    for event in told:
        if isinstance(event, events.Memory):
            peaks[event.stage] = event  # told again only where it is more
    started = [event for event in told if isinstance(event, events.Started)]
    reserved = max((event.reserved for event in peaks.values()), default=0) / GIB
    estimated = guess.peak / GIB
    cells = {}
    for stage, names in STAGES.items():
        expected = max((guess.total(name) for name in names if name in guess.stages), default=0) / GIB
        seen = peaks.get(stage)
        cells[stage] = f"{expected:.2f} / {seen.reserved / GIB:.2f} ({seen.allocated / GIB:.2f})" if seen else ""
    return {
        "mode": started[-1].mode if started else "",
        "limit GiB": cfg.train.memory or "",
        "estimate GiB": estimated,
        "taken GiB": reserved or "",
        "in tensors GiB": max((event.allocated for event in peaks.values()), default=0) / GIB or "",
        "estimate / taken": estimated / reserved if reserved else "",
        **cells,
    }


def write_base(work: Path, tiny: bool, family: str) -> Path:
    """A base with random weights, written if it is not there; a half written one is written again."""
    folder = work / (f"{family}-tiny" if tiny else family)
    mark = folder / "complete"
    if not mark.exists():
        begin = time.monotonic()
        write_folder(folder, Recipe(family, tiny=tiny, quick=True))
        mark.touch()
        print(f"wrote {folder} in {time.monotonic() - begin:.0f} s", flush=True)
    return folder


def _family(row: Row) -> str:
    """Of the base that a row's preset is for."""
    return "sd1" if row.preset.startswith("sd15") else "sdxl"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[*ROWS], metavar="ROW", help=f"from {' '.join(ROWS)}")
    parser.add_argument("--base", type=Path, help="an SDXL; default: random weights, written into --work")
    parser.add_argument("--work", type=Path, default=PROJECT / "build" / "memory", help="folder for base and runs")
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps of each run")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time; the GPU must have room for all of them")
    parser.add_argument("--minutes", type=float, default=8.0, help="no row is started after this")
    parser.add_argument("--tiny", action="store_true", help="a toy SDXL on the CPU: does every row run?")
    parser.add_argument("--out", type=Path, help="folder of the results; with --tiny none is the default")
    args = parser.parse_args(argv)
    wrong = [text for text in args.only if ":" not in text and text not in ROWS]
    if wrong:
        parser.error(f"no such row: {' '.join(wrong)}. Rows: {' '.join(ROWS)}")
    return args


def main(argv: list[str] | None = None) -> int:
    begin, args = time.monotonic(), arguments(argv)
    work = args.work.resolve()
    common: dict[str, Any] = {
        "base.variant": None, "data.word": "sks", "data.subject": "cat", "data.instance": str(EXAMPLES / "subject-cat"),
        "train.steps": args.steps, "train.accumulate": 1, "sample.every": 1_000_000, "sample.steps": 2,
        "sample.prompts": ["a photo of sks cat"], "prior.weight": 0.0, "optimizer.warmup": 0,
    }  # fmt: skip
    rows = [Row.of(text, common) for text in args.only]
    needed = {_family(row) for row in rows}
    bases = {name: args.base.resolve() if args.base else write_base(work, args.tiny, name) for name in needed}
    rows = [Row(row.name, row.preset, row.settings | {"base.path": str(bases[_family(row)])}) for row in rows]
    if args.tiny:
        rows = [Row(row.name, row.preset, row.settings | TINY) for row in rows]
    available = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else float("inf")
    table: list[dict[str, Any]] = []
    folder = args.out or (None if args.tiny else report.RESULTS)

    def figures_of(row: Row) -> dict[str, Any]:
        if time.monotonic() - begin < 60 * args.minutes:
            return measure(row, work, available)
        return figures(row.config(), [], available) | {"seconds": "", "message": "not started: the time was over"}

    with ThreadPoolExecutor(args.jobs) as pool:
        for row, found in zip(rows, pool.map(figures_of, rows), strict=True):
            table.append({"row": row.name, **found})
            print(json.dumps(table[-1]), flush=True)
            if folder:  # after every row: a benchmark that is killed has still said something
                report.write("memory", table, NOTES, folder)
    print(report.markdown(table))
    return int(any(found["message"] for found in table))


if __name__ == "__main__":
    sys.exit(main())
