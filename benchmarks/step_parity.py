"""Does the captured step learn what the eager step learns, does it repeat to the bit, and does it resume to the bit?

    python -m benchmarks.step_parity [key=value ...] [--preset smoke] [--steps 100] [--fast captured] [--jobs 3]

Runs of one preset through the command line, by default GraLoRA with Flat-LoRA on the embedded base: eager in float32,
eager in bfloat16, the fast step in bfloat16 without a compiler, and with one three times, of which one is stopped half
way and resumed.

All of them see the same pictures, timesteps, noise and perturbations, so that their losses differ by rounding alone.
The bound: two bfloat16 runs that round independently, each as far from float32 as the eager one, lie sqrt(2) times
that distance apart.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lowrank_diffusion import events, runs, supervisor
from lowrank_diffusion.paths import PROJECT

from . import report

SETTINGS = ("adapter.kind=gralora", "flat.sigma=0.05", "sample.prompts=[]")


def main() -> None:
    args = arguments()
    names = {
        "float32": ["train.execution=eager", "train.precision=fp32"],
        "eager": ["train.execution=eager"],
        "plain": [f"train.execution={args.fast}"],
        "fast": [f"train.execution={args.fast}"],
        "again": [f"train.execution={args.fast}"],
        "resumed": [f"train.execution={args.fast}"],
    }
    common = [*SETTINGS, f"train.steps={args.steps}", f"save.every={args.steps}", "train.precision=bf16"]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = {name: pool.submit(train, args, name, [*common, *own, *args.settings]) for name, own in names.items()}
        seen = {name: job.result() for name, job in jobs.items()}
    rows = table(seen)
    notes = f"Preset {args.preset}, {args.steps} steps, {' '.join([*SETTINGS, *args.settings])}; fast: {args.fast}."
    print(report.write("step_parity", rows, f"{notes}\n{__doc__[__doc__.index('All of them') :].strip()}", args.out))


def train(args: argparse.Namespace, name: str, settings: list[str]) -> runs.Run:
    """A run to its last step: the plain one without a compiler, the resumed one stopped half way."""
    interrupt = name == "resumed"
    environment = os.environ | ({"TORCH_COMPILE_DISABLE": "1"} if name == "plain" else {})
    tool = [sys.executable, "-m", "lowrank_diffusion"]
    command = [*tool, "train", args.preset, "--name", f"parity-{name}", *settings]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment) as shown:
        assert shown.stdout is not None
        run = runs.find(shown.stdout.readline().removeprefix("run ").strip())
        while interrupt and shown.poll() is None and len(losses(run)) < args.steps // 2:
            time.sleep(0.02)
        if interrupt:
            supervisor.stop(run)
        shown.communicate()
    if interrupt:
        subprocess.run([*tool, "resume", run.name], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    if len(losses(run)) != args.steps:
        raise SystemExit(f"{run.path} has {len(losses(run))} steps: see its log.txt")
    return run


def losses(run: runs.Run) -> list[float]:
    """One loss a step."""
    return [event.loss for event in told(run) if isinstance(event, events.Stepped)]


def told(run: runs.Run) -> list[events.Event]:
    """What the run has said so far."""
    return [record.event for record in events.tail(run.events_path)[0]]


def adapter(run: runs.Run) -> dict[str, Tensor]:
    """The exact plain LoRA of a run, every tensor."""
    return load_file(run.files()[0])


def products(run: runs.Run) -> Tensor:
    """B A of every layer, float64, in one vector: pairs that differ may still be the same adapter."""
    tensors = adapter(run)
    downs = [name for name in tensors if name.endswith("lora_A.weight")]
    pairs = [(tensors[name.replace("lora_A", "lora_B")].double(), tensors[name].double()) for name in downs]
    return torch.cat([(b @ a).flatten() for b, a in pairs])


def table(seen: dict[str, runs.Run]) -> list[dict[str, Any]]:
    """Distances between runs; a run that repeats another has none at all."""
    pairs = ["eager float32", "plain float32", "fast float32", "fast eager", "again fast", "resumed fast"]
    rows = {pair: distance(seen, *pair.split()) for pair in pairs}
    rows["fast eager"]["bound"] = math.sqrt(2) * rows["eager float32"]["rms of differences"]
    return list(rows.values())


def distance(seen: dict[str, runs.Run], one: str, other: str) -> dict[str, Any]:
    """Of two runs' losses and adapters."""
    traces = torch.tensor([losses(seen[name]) for name in (one, other)], dtype=torch.float64)
    first, second = (products(seen[name]) for name in (one, other))
    tensors, others = adapter(seen[one]), adapter(seen[other])
    same = sum(torch.equal(tensors[name], others[name]) for name in tensors)
    gap = traces[0] - traces[1]
    started = [event for event in told(seen[one]) if isinstance(event, events.Started)]
    return {
        "run": one,
        "against": other,
        "mode": ", ".join(dict.fromkeys(event.mode for event in started)),
        "starts": len(started),
        "losses equal": f"{int((gap == 0).sum())} of {gap.numel()}",
        "rms of differences": float(gap.square().mean().sqrt()),
        "bound": "",
        "largest": float(gap.abs().max()),
        "mean loss": float(traces[0].mean()),
        "tensors equal": f"{same} of {len(tensors)}",
        "adapters differ by": float((first - second).norm() / second.norm()),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_parity", description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="on top of the preset")
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--fast", default="captured", help="train.execution of the runs that are compared")
    parser.add_argument("--jobs", type=int, default=3, help="runs at a time")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
