"""Many runs side by side: those that are there already are not made again."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .design import Job

Run = dict[str, Any]


def made(raw: Path, jobs: Sequence[Job], workers: int, deadline: float) -> list[Run]:
    """The results of ``jobs``, training those that are not in ``raw`` yet; those that were cut off stay missing.

    Args:
        raw: Lines of JSON, one a run, of any experiments.
        jobs: The runs that are wanted, all on the same data.
        workers: Processes on the one device; 0 trains nothing.
        deadline: Of ``time.monotonic``; no run is started after it.
    """
    there = {run["key"]: run for run in _lines(raw)}
    missing = list({job.key: job for job in jobs if job.key not in there}.values())
    if missing and workers:
        from .training import prepare

        prepare(missing[0].data)
        waiting = [_pool(workers).submit(_train, job, workers, deadline) for job in missing]
        for run in filter(None, (done.result() for done in as_completed(waiting))):
            there[run["key"]] = run
            _keep(raw, run)
    # One run serves every arm and experiment that asks for the same.
    return [there[job.key] | {"arm": job.arm, "lr": job.lr} for job in jobs if job.key in there]


@functools.cache
def _pool(workers: int) -> ProcessPoolExecutor:
    """Each process has a model and a CUDA context of its own: spawned, and kept for the runs of all experiments."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _keep(raw: Path, run: Run) -> None:
    with raw.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    last = run["measures"][-1]["scoring"]
    print(f"{run['arm']}, seed {run['seed']}, lr {run['lr']}: {last:.4f} in {run['seconds']:.0f} s", flush=True)


def _train(job: Job, workers: int, deadline: float) -> Run | None:
    if time.monotonic() > deadline:
        return None
    import torch

    from .training import train

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    return train(job)


def _lines(raw: Path) -> list[Run]:
    if not raw.is_file():
        return []
    lines = raw.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]  # the last may be cut
