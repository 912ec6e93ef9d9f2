"""How much faster more GPUs of one host train: images/s at the same batch per GPU, and the ratio to one GPU.

    python -m benchmarks.scaling [key=value ...] [--gpus 1,2] [--batch 1 4] [--no-compile] [--tiny]

SDXL's UNet at its real size with random weights, made on each GPU; latents and embeddings cached; Flat-GraLoRA on all
attention projections unless settings say otherwise. The processes are started by the command that starts a training,
meet in trainers/parallel.py and take the trainer's own steps; only the task's data are made up. --tiny does the same
with a toy UNet in two processes on the CPU: does the way work?
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lowrank_diffusion import devices, plan, presets, runs, supervisor
from lowrank_diffusion.config import Config
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run
from trainers import fast, parallel
from trainers.fast import FastStep
from trainers.parallel import World
from trainers.step import Step

from . import report, sdxl

KEYS = (
    "gpus", "batch", "mode", "steps", "set-up s", "ms/step", "images/s", "x one", "efficiency", "peak GiB", "loss",
    "message",
)  # fmt: skip
RESULT = "scaling.jsonl"


def config(args: argparse.Namespace, gpus: int, batch: int) -> Config:
    """The run that a row stands for."""
    values: dict[str, Any] = {
        "adapter.kind": "gralora",
        "adapter.k": 2,
        "adapter.rank": args.rank,
        "adapter.targets": tuple(sdxl.TARGETS),
        "flat.sigma": 0.05,
        "train.gpus": gpus,
        "train.batch": batch,
        "train.steps": args.warmup + args.steps,
        "train.device": "cpu" if args.tiny else "cuda",
        "train.precision": "fp32" if args.tiny else "bf16",
    }
    return presets.build(overrides=values | presets.parse_overrides(args.settings))


class Worker:
    """One of a run's processes: all batch sizes on one UNet."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.run = args, Run(args.worker)
        cfg = self.run.config()
        self.begin = time.perf_counter()
        device = devices.pick(cfg.train.device)
        self.dtype = devices.dtype(cfg.train.precision, device)
        self.world, self.device = parallel.join(cfg.train.gpus, device)
        torch.manual_seed(0)  # the same weights everywhere
        self.unet = sdxl.build(self.device, self.dtype, args.tiny)
        self.pristine = sdxl.Pristine(self.unet)

    def measure(self) -> None:
        """A line of results for every batch size; all processes decide alike whether there is time for one."""
        for batch in self.args.batch:
            if self.world.any(time.time() > self.args.until):
                self._tell({"batch": batch, "message": "not started: the time was over"})
                continue
            self._tell({"batch": batch} | self._figures(config(self.args, self.world.size, batch), self.world))
            self.pristine.restore()
            torch.compiler.reset()
            gc.collect()
            devices.release(self.device)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            self.begin = time.perf_counter()

    def _state(self, cfg: Config, world: World) -> Step:
        task = sdxl.CachedDreamBooth(self.unet, cfg, sdxl.inputs(self.unet, cfg.train.batch, self.args.resolution))
        if self.args.compile or self.device.type != "cuda":
            return fast.build(task, cfg, self.device, self.dtype, world)
        return FastStep(task, cfg, self.device, self.dtype, plan.forced(cfg, "captured"), world)

    def _figures(self, cfg: Config, world: World) -> dict[str, Any]:
        args, cuda = self.args, self.device.type == "cuda"
        state = self._state(cfg, world)
        for step in range(args.warmup):
            state.advance(step)
        state.drain()
        sdxl.synchronise(self.device)
        world.wait()
        setup, begin = time.perf_counter() - self.begin, time.perf_counter()
        results = [result for step in range(args.warmup, args.warmup + args.steps) for result in state.advance(step)]
        results += state.drain()
        sdxl.synchronise(self.device)
        world.wait()
        took = (time.perf_counter() - begin) / args.steps
        return {
            "gpus": world.size, "mode": state.plan.mode, "steps": args.steps, "set-up s": round(setup, 1),
            "ms/step": 1e3 * took, "images/s": cfg.train.batch * world.size / took,
            "peak GiB": torch.cuda.max_memory_reserved() / 2**30 if cuda else "",
            "loss": statistics.fmean(result.loss for result in results), "message": state.plan.why_not_faster,
        }  # fmt: skip

    def _tell(self, figures: dict[str, Any]) -> None:
        if self.world.first:
            with (self.run.path / RESULT).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"gpus": self.world.size} | figures) + "\n")


def command(run: Run, args: argparse.Namespace, until: float) -> list[str]:
    """What starts a training of this run, with this file in the trainer's place."""
    start = supervisor.command(run)
    options = ["--worker", str(run.path), "--until", str(until), "--batch", *map(str, args.batch)]
    for name in ("steps", "warmup", "resolution", "rank"):
        options += [f"--{name}", str(getattr(args, name))]
    options += ["--tiny"] * args.tiny + ["--no-compile"] * (not args.compile)
    return [*start[: start.index("trainers")], "benchmarks.scaling", *args.settings, *options]


def launch(gpus: int, args: argparse.Namespace, until: float, folder: Path) -> list[dict[str, Any]]:
    """The rows of one number of processes."""
    there = torch.cuda.device_count()
    if not args.tiny and gpus > there:
        return [{"gpus": gpus, "message": f"not measured: there are {there} GPUs"}]
    run = runs.create(config(args, gpus, args.batch[0]), f"scaling-{gpus}", folder)
    try:
        code = subprocess.run(
            command(run, args, until), cwd=PROJECT, timeout=max(60, until - time.time() + 120)
        ).returncode
        message = f"the processes ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        message = "the processes were ended: they took too long"
    result = run.path / RESULT
    found = [json.loads(line) for line in result.read_text(encoding="utf-8").splitlines()] if result.exists() else []
    return found + ([{"gpus": gpus, "message": message}] if message else [])


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: ratios are to one GPU at the same batch per GPU."""
    single = {row["batch"]: row["images/s"] for row in found if row["gpus"] == 1 and "images/s" in row}
    table = []
    for row in found:
        one = single.get(row.get("batch"))
        times = row["images/s"] / one if one and "images/s" in row else ""
        ratios = {"x one": times, "efficiency": times / row["gpus"] if times else ""}
        table.append(dict.fromkeys(KEYS, "") | row | ratios)
    return table


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the run, for example flat.sigma=0")
    parser.add_argument("--gpus", default="1,2", help="numbers of GPUs, with commas between them (default: 1,2)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="pictures per GPU and step")
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    parser.add_argument("--warmup", type=int, default=5, help="steps before that")
    parser.add_argument("--resolution", type=int, default=None, metavar="PX", help="1024, or 64 with --tiny")
    parser.add_argument("--rank", type=int, default=None, help="32, or 4 with --tiny")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="captured, but not compiled")
    parser.add_argument("--minutes", type=float, default=3.0, help="no row is started after this")
    parser.add_argument("--tiny", action="store_true", help="a toy UNet in float32, processes on the CPU")
    parser.add_argument("--out", type=Path, help="folder of the results; with --tiny none is the default")
    parser.add_argument("--name", default="scaling")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)
    args.resolution = args.resolution or (64 if args.tiny else 1024)
    args.rank = args.rank or (4 if args.tiny else 32)
    return args


def main() -> int:
    args = arguments()
    if args.worker:
        Worker(args).measure()
        return 0
    until, found = time.time() + 60 * args.minutes, list[dict[str, Any]]()
    notes = (
        f"SDXL's UNet with random weights{', toy size' if args.tiny else ''}, {args.resolution} px, total rank "
        f"{args.rank}, {' '.join(args.settings) or 'Flat-GraLoRA k 2'}, the same batch on every GPU; blocks "
        f"{'compiled' if args.compile else 'not compiled'}. ms/step: mean of {args.steps} steps by the clock between "
        "two meetings of all processes; x one: images/s over those of one GPU; efficiency: that over the GPUs."
    )
    folder = args.out or (None if args.tiny else report.RESULTS)
    with tempfile.TemporaryDirectory() as home:
        for gpus in map(int, args.gpus.split(",")):
            found += launch(gpus, args, until, Path(home))
            for row in rows(found)[-len(args.batch) :]:
                print(json.dumps({key: value for key, value in row.items() if value != ""}), flush=True)
            if folder:
                report.write(args.name, rows(found), notes, folder)
    print(report.markdown(rows(found)))
    return 0 if all("images/s" in row for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
