"""Does a run that was killed, or lost its newest checkpoint to a power cut, end with the same bits?

    python -m benchmarks.crash [--kills 20] [--seed 0]

One run is left alone. Each other one is the same, with ``kill -9`` at a random moment of its life, or with its newest
checkpoint cut short, emptied, zeroed or with one bit flipped; it is resumed, and every loss and every tensor of its end
is compared. Moments come from the seed, in shares of what the undisturbed run took. Ends with 1 if any is different.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from lowrank_diffusion import presets, runs, supervisor
from lowrank_diffusion.runs import STATE, Run

SETTINGS = {
    "data.instance": "assets/examples/subject-cat", "data.resolution": 64, "data.flip": True, "sample.prompts": [],
    "adapter.rank": 4, "adapter.dropout": 0.1, "flat.sigma": 0.1, "train.batch": 1, "train.steps": 40, "train.ema": 0.9,
    "train.device": "cpu", "optimizer.lr": 1e-3, "optimizer.schedule": "cosine", "save.every": 5, "save.keep": 3,
}  # fmt: skip
CUTS: dict[str, Callable[[Path], object]] = {
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit": lambda path: _flip(path),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def make(folder: Path) -> Run:
    """A run of its own, always of the same name."""
    return runs.create(presets.build({}, SETTINGS), "crash", folder)


def wait(run: Run) -> str:
    """Until it has ended, and its process with it; the state."""
    while run.status().active:
        time.sleep(0.1)
    if (process := run.process()) is not None:
        process.wait(60)
    return run.status().state


def same_end(one: Run, other: Run) -> bool:
    """Whether losses and tensors are equal to the bit."""
    a, b = one.status(), other.status()
    left, right = (load_file(run.checkpoints[-1] / STATE) for run in (one, other))
    equal = left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    return a.losses == b.losses and a.rates == b.rates and equal


def killed(folder: Path, after: float) -> tuple[Run, str]:
    """A run that got ``kill -9`` that many seconds after its start, and was resumed; and where it was then."""
    run = make(folder)
    supervisor.start(run)
    time.sleep(after)
    if (process := run.process()) is not None:
        process.kill()
    wait(run)
    status = run.status()
    where = f"{status.stage or status.state}, step {status.step}"
    if status.state != "finished":
        supervisor.start(run)
        wait(run)
    return run, where


def cut_off(folder: Path, damage: Callable[[Path], object]) -> tuple[Run, str]:
    """A run whose newest checkpoint was damaged while it was not looked at."""
    run = make(folder)
    supervisor.start(run)
    while run.status().step < 22:
        time.sleep(0.05)
    if (process := run.process()) is not None:
        process.kill()
    wait(run)
    newest = run.checkpoints[-1]
    damage(newest / STATE)
    supervisor.start(run)
    wait(run)
    return run, newest.name


def main() -> int:
    """Print a line for each run; 1 if one ended in another way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, same, cases = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = make(folder)
        begin = time.monotonic()
        supervisor.start(alone)
        assert wait(alone) == "finished", alone.log_path.read_text()[-2000:]
        whole = time.monotonic() - begin
        print(f"undisturbed: {whole:.1f} s, seed {options.seed}", flush=True)
        jobs = [("kill -9", lambda: killed(folder, draw.uniform(0.02, 0.98) * whole))] * options.kills
        jobs += [(what, lambda damage=damage: cut_off(folder, damage)) for what, damage in CUTS.items()]
        for what, job in jobs:
            run, where = job()
            equal = run.status().state == "finished" and same_end(alone, run)
            cases, same = cases + 1, same + equal
            print(f"{cases:3} {what:12} at {where:32} {'same bits' if equal else run.status().message}", flush=True)
    print(f"{same} of {cases} ended with the same bits")
    return int(same != cases)


if __name__ == "__main__":
    sys.exit(main())
