"""What one training step costs: time, memory and share of the device's own rate, ours beside what others run.

    python -m benchmarks.step_speed [--batch 1 4] [--only a b c lora lora+flat ...] [--modes auto ...] [--tiny]

SDXL's UNet (or --family's) at its true size with random weights, latents and embeddings cached, adapters on all
attention projections, one process on one device. Rows:
a  LoRA, the way diffusers' train_dreambooth_lora_sdxl.py trains (eager, PEFT, autocast, AdamW)
b  the same with PEFT's GraLoRA, k=2
c  LoRA with Flat-LoRA as its authors' code does it: noise added to the stored weights, drawn again and subtracted
d  row a with the UNet's repeated blocks compiled, channels-last, AdamW in one kernel, losses read at the end
e  the same with the whole UNet compiled
lora, gralora (k=2), hybrid (k=2, a quarter of the rank plain): ours, each also with +flat (sigma 0.05), through the
trainer's own task and step. Settings of one row follow a colon: `lora+flat:flat.keep=false;train.checkpointing=true`.

Every row is printed as a JSON line when it is measured, and files are written again after each: a run that is killed
has still said something. A row that fails says why and the next one goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, get_args

import peft
import torch

from lowrank_diffusion import devices
from lowrank_diffusion.config import Config, fields
from lowrank_diffusion.presets import build, parse_overrides

from . import report, sdxl

SIGMA = 0.05
PEERS = {
    "a": "LoRA, diffusers example",
    "b": "GraLoRA k2, the same loop",
    "c": "LoRA + in-place noise, the same loop",
    "d": "LoRA, the example with compiled blocks",
    "e": "LoRA, the example compiled whole",
}
COMPILED = {"d": "blocks", "e": "whole"}
OURS = [f"{kind}{flat}" for kind in ("lora", "gralora", "hybrid") for flat in ("", "+flat")]


class Runner(Protocol):
    """Takes steps; losses may come later than their step, the rest with drain()."""

    mode: str
    reason: str
    """Why not a faster mode."""

    def __call__(self, step: int) -> list[float]: ...

    def drain(self) -> list[float]: ...


@dataclass(frozen=True)
class Case:
    """One row to measure."""

    name: str
    batch: int
    mode: str

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def plain(self) -> tuple[str, int, str]:
        """The key of the same case without Flat-LoRA and its settings."""
        kind, _, settings = self.name.replace("+flat", "").partition(":")
        others = ";".join(setting for setting in settings.split(";") if not setting.startswith("flat."))
        return f"{kind}:{others}" if others else kind, self.batch, self.mode


class Bench:
    """The UNet on its device, and what all rows are measured against."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, devices.pick("auto")
        self.dtype = torch.float32 if args.tiny else torch.bfloat16
        torch.manual_seed(0)
        self.unet = sdxl.build(self.device, self.dtype, args.tiny, args.family)
        self.pristine = sdxl.Pristine(self.unet)
        self.forward_flops = sdxl.forward_flops(self.unet, args.resolution)
        self.peak_flops = sdxl.matmul_rate(self.device, self.dtype, 512 if args.tiny else 8192)

    def runner(self, case: Case, steps: int) -> Runner:
        data = sdxl.inputs(self.unet, case.batch, self.args.resolution)
        if case.kind not in PEERS:
            return sdxl.Ours(self.unet, self.config(case, steps), data)
        rank, targets = self.args.rank, sdxl.TARGETS
        common: Any = {"r": rank, "target_modules": targets}
        lora = peft.LoraConfig(lora_alpha=rank, init_lora_weights="gaussian", **common)
        config = peft.GraloraConfig(alpha=rank, gralora_k=2, **common) if case.kind == "b" else lora
        sigma = SIGMA if case.kind == "c" else 0.0
        return sdxl.Peer(self.unet, config, data, steps, sigma, COMPILED.get(case.kind, ""))

    def config(self, case: Case, steps: int) -> Config:
        """The run that a row of ours stands for; its loss is unweighted, so that it compares with the peers'."""
        kind, _, settings = case.name.partition(":")
        family, _, flat = kind.partition("+")
        rank = self.args.rank
        plain = (rank // 4 + rank // 4 % 2 or 2) if family == "hybrid" else 0
        values: dict[str, Any] = {
            "adapter.kind": "lora" if family == "lora" else "gralora",
            "adapter.rank": rank - plain,
            "adapter.hybrid_rank": plain,
            "adapter.k": 2,
            "adapter.targets": tuple(sdxl.TARGETS),
            "flat.sigma": SIGMA if flat else 0.0,
            "loss.min_snr": 0.0,
            "train.steps": steps,
            "train.batch": case.batch,
            "train.precision": "fp32" if self.args.tiny else "bf16",
            "train.execution": case.mode,
        }
        return build(overrides=values | parse_overrides(filter(None, settings.split(";"))))

    def measure(self, case: Case) -> dict[str, Any]:
        """The row's figures, or a message in their place; the UNet is bare again afterwards."""
        self.clear()
        try:
            return self._figures(case)
        except Exception as error:  # out of memory, a capture that fails: part of the result
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0]
            return {"message": f"{type(error).__name__}: {first}"[:200].replace("|", "/")}
        finally:
            self.pristine.restore()

    def _figures(self, case: Case) -> dict[str, Any]:
        args, begin = self.args, time.perf_counter()
        runner = self.runner(case, args.warmup + args.steps + 3 * args.profile)
        warmup, steps = (2, args.eager_steps) if runner.mode == "eager" else (args.warmup, args.steps)
        for step in range(warmup):
            runner(step)
        sdxl.synchronise(self.device)
        setup = time.perf_counter() - begin
        median, mean, losses = timed(runner, range(warmup, warmup + steps), self.device)
        if args.profile:
            self.profile(case, runner, warmup + steps)
        rate = 2 * self.forward_flops * case.batch / median
        return {
            "mode": runner.mode, "steps": steps, "set-up s": round(setup, 1),
            "ms/step": 1e3 * median, "mean ms": 1e3 * mean, "images/s": case.batch / median,
            "TFLOP/s": rate / 1e12, "of matmul": rate / self.peak_flops,
            **memory(self.device), "loss": statistics.fmean(losses), "message": runner.reason,
        }  # fmt: skip

    def profile(self, case: Case, runner: Runner, first: int) -> None:
        """Which kernels three steps are made of: a text file per row, in the folder of the results."""
        with torch.profiler.profile() as seen:
            for step in range(first, first + 3):
                runner(step)
            runner.drain()
            sdxl.synchronise(self.device)
        by = "self_cpu_time_total" if self.device.type == "cpu" else "self_device_time_total"
        text = seen.key_averages().table(sort_by=by, row_limit=50, max_name_column_width=90)
        folder = self.args.out or report.RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.args.name}-{report.plain(case.name)}-{case.batch}.txt").write_text(text, encoding="utf-8")

    def clear(self) -> None:
        """Nothing of the row before is left: no compiled code, captured graph, cached memory or peak."""
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def notes(self) -> str:
        size = sum(parameter.numel() for parameter in self.unet.parameters()) / 1e9
        side, forward, peak = self.args.resolution, self.forward_flops / 1e12, self.peak_flops / 1e12
        product = f"{512 if self.args.tiny else 8192}^3 product"
        return (
            f"UNet of {size:.3f} G parameters, random weights, {side} x {side} pixels, "
            f"{str(self.dtype).removeprefix('torch.')}, total rank {self.args.rank}; no VAE, no text encoder in the "
            f"step.\nForward {forward:.4g} TFLOP per picture; a step counts as two of them (forward, and backward "
            f"through the activations), adapters not counted. A {product} ran at {peak:.4g} TFLOP/s, so a step takes "
            f"at least {2e3 * forward / peak:.3g} ms per picture.\nms/step: median between CUDA events after each "
            "step (clock on a CPU); mean ms: synchronised clock over the same steps; set-up: attaching, compiling, "
            "capturing and the first steps; x a: times faster than row a at the same batch; x peer: times faster than "
            "the fastest peer's LoRA (a, d, e) at that batch; flat/plain: time of the row over the same row without "
            "+flat; loss: mean of the steps, around 1 for all rows."
        )


def timed(runner: Runner, numbers: range, device: torch.device) -> tuple[float, float, list[float]]:
    """(median seconds between the ends of steps, mean seconds by the clock, losses), without waiting inside."""
    losses, ticks = [], [_tick(device)]
    begin = time.perf_counter()
    for step in numbers:
        losses += runner(step)
        ticks.append(_tick(device))
    losses += runner.drain()
    sdxl.synchronise(device)
    mean = (time.perf_counter() - begin) / len(numbers)
    return statistics.median(_seconds(*pair) for pair in pairwise(ticks)), mean, losses


def _tick(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begin: Any, end: Any) -> float:
    return end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1e3


def memory(device: torch.device) -> dict[str, Any]:
    """Peaks since the last reset, in GiB; nothing is known of a CPU."""
    if device.type != "cuda":
        return {"peak GiB": "", "reserved GiB": ""}
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak GiB": peaks[0] / 2**30, "reserved GiB": peaks[1] / 2**30}


KEYS = (
    "row", "batch", "mode", "steps", "set-up s", "ms/step", "mean ms", "images/s", "x a", "x peer", "flat/plain",
    "TFLOP/s", "of matmul", "peak GiB", "reserved GiB", "loss", "message",
)  # fmt: skip


class Table:
    """Rows with the same keys; ratios need rows that were measured before."""

    def __init__(self, save: Callable[[list[dict[str, Any]]], Any]):
        self.rows: list[dict[str, Any]] = []
        self._save = save
        self._taken: dict[tuple[str, int, str], float] = {}

    def add(self, case: Case, figures: dict[str, Any]) -> None:
        label = f"{case.name}  {PEERS[case.kind]}" if case.kind in PEERS else case.name
        row = dict.fromkeys(KEYS, "") | {"row": label, "batch": case.batch, "mode": case.mode} | figures
        taken = figures.get("ms/step")
        if taken:
            self._taken[case.name, case.batch, case.mode] = taken
            peers = {name: self._taken.get((name, case.batch, "eager")) for name in ("a", "d", "e")}
            best, plain = min(filter(None, peers.values()), default=None), self._taken.get(case.plain)
            row["x a"] = peers["a"] / taken if peers["a"] else ""
            row["x peer"] = best / taken if best and case.kind not in PEERS else ""
            row["flat/plain"] = taken / plain if plain and "+flat" in case.name else ""
        self.rows.append(row)
        print(json.dumps({key: value for key, value in row.items() if value != ""}), flush=True)
        self._save(self.rows)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Batch by batch; row a first, since the others are measured against it."""
    for batch in args.batch:
        for name in args.only or [*PEERS, *OURS]:
            for mode in ["eager"] if name in PEERS else args.modes:
                yield Case(name, batch, mode)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    known = get_args(fields()["train.execution"].annotation)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--family", choices=["sdxl", "sd1", "sd2"], default="sdxl", help="whose UNet")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"from {' '.join([*PEERS, *OURS])}")
    parser.add_argument("--modes", nargs="+", default=["auto"], choices=known, help="train.execution of our rows")
    parser.add_argument("--steps", type=int, default=20, help="measured steps")
    parser.add_argument("--warmup", type=int, default=5, help="steps before that")
    parser.add_argument("--eager-steps", type=int, default=6, help="measured steps of eager rows, after 2")
    parser.add_argument(
        "--resolution", type=int, default=None, metavar="PX", help="1024; 512 of sd1, sd2; 64 with --tiny"
    )
    parser.add_argument("--rank", type=int, default=None, help="32, or 4 with --tiny")
    parser.add_argument("--minutes", type=float, default=4.0, help="no row is started after this")
    parser.add_argument("--profile", action="store_true", help="also list each row's kernels in a file of its own")
    parser.add_argument("--tiny", action="store_true", help="a toy UNet in float32: does every row run?")
    parser.add_argument("--out", type=Path, help="folder of the results; with --tiny none is the default")
    parser.add_argument("--name", default="step_speed")
    args = parser.parse_args(argv)
    args.resolution = args.resolution or (64 if args.tiny else {"sdxl": 1024, "sd1": 512, "sd2": 512}[args.family])
    args.rank = args.rank or (4 if args.tiny else 32)
    wrong = [name for name in args.only or [] if name.partition(":")[0] not in [*PEERS, *OURS]]
    if wrong:
        parser.error(f"no such row: {' '.join(wrong)}. Rows: {' '.join([*PEERS, *OURS])}")
    return args


def main() -> None:
    begin = time.monotonic()
    args = arguments()
    bench = Bench(args)
    notes = bench.notes()
    print(notes, flush=True)
    folder = args.out or (None if args.tiny else report.RESULTS)
    table = Table(lambda rows: report.write(args.name, rows, notes, folder) if folder else None)
    for case in cases(args):
        late = time.monotonic() - begin > 60 * args.minutes
        figures = {"message": f"not started: {args.minutes:g} minutes were over"} if late else bench.measure(case)
        table.add(case, figures)
    print(report.markdown(table.rows))


if __name__ == "__main__":
    main()
