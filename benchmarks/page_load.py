"""What pages cost the app: memory of a thousand that are opened, how long twenty wait, and what a training loses.

    python -m benchmarks.page_load [--loads 1000] [--pages 20] [--seconds 30] [--turns 6]

The app is started in a home of its own. A load is what a browser asks for: the page, its configuration, and every event
that opening it sets off, under a session of its own. While the example style trains on the same machine, the pages poll
as the Train tab does, and of each page a person changes a setting once a minute; measured is the time from asking to
the answer. Turns with pages and turns without follow each other: how many steps less are made with them? All of it, the
pages' side too, runs on this machine; browsers are elsewhere as a rule. Memory is the resident size of the app.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from lowrank_diffusion import presets, runs, supervisor
from tests.app_process import running_app
from ui import pace

from . import report

API = "/gradio_api"
SECONDS_PER_CHANGE = 60
SETTLED = 60
"""Seconds until the app knows how many pages there are."""


class Page:
    """One page in one browser, without the browser."""

    numbers = itertools.count()

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any]):
        self.client, self.config = client, config
        self.session = f"page{next(self.numbers)}"
        self.values = {part["id"]: part.get("props", {}).get("value") for part in config["components"]}
        self.timers = {part["id"] for part in config["components"] if part["type"] == "timer"}
        self.pace = float(pace.ON_CPU)
        """Seconds from look to look, as the app says."""

    @classmethod
    async def open(cls, client: httpx.AsyncClient) -> Page:
        """Ask for the page and its configuration, and set off what a page sets off when it is opened."""
        (await client.get("/")).raise_for_status()
        page = cls(client, (await client.get("/config")).raise_for_status().json())
        for event in page.events("load"):
            await page.send(event)
        return page

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The page's events of a kind."""
        return [d for d in self.config["dependencies"] if any(t[1] == kind for t in d["targets"]) and d["backend_fn"]]

    def setting(self) -> dict[str, Any]:
        """The event of a setting that was changed: the largest there is, it works out all that follows."""
        return max((e for kind in ("change", "input") for e in self.events(kind)), key=lambda e: len(e["inputs"]))

    async def send(self, event: dict[str, Any]) -> float:
        """Set one off and wait for its answer; seconds."""
        begin = time.perf_counter()
        body = {
            "data": [self.values.get(number) for number in event["inputs"]],
            "fn_index": event["id"],
            "session_hash": self.session,
            "event_data": None,
            "trigger_id": event["targets"][0][0],
        }
        answer = await self.client.post(f"{API}/run/predict", json=body)  # as the page asks what is not queued
        if answer.status_code != 200:
            raise RuntimeError(f"event {event['id']} failed: {answer.text[:500]}")
        taken = time.perf_counter() - begin
        for number, update in zip(event["outputs"], answer.json()["data"], strict=True):
            if number in self.timers and isinstance(update, dict) and isinstance(update.get("value"), int):
                self.pace = update["value"]
        return taken


async def load(url: str, process: psutil.Process, loads: int) -> list[tuple[int, float]]:
    """(pages opened, MB) after each tenth of them; a first few warm up."""
    taken = []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(20):
            await Page.open(client)
        taken.append((0, process.memory_info().rss / 1e6))
        for number in range(1, loads + 1):
            await Page.open(client)
            if number % max(1, loads // 10) == 0:
                taken.append((number, process.memory_info().rss / 1e6))
                print(f"{number:5} pages: {taken[-1][1]:.0f} MB", flush=True)
    return taken


async def poll(opened: list[Page], seconds: float) -> list[float]:
    """How long every event of every page took."""
    end = time.monotonic() + seconds

    async def tick(page: Page, first: float) -> list[float]:
        taken = []
        looked, changed = page.events("tick")[0], page.setting()
        edit = time.monotonic() + first * SECONDS_PER_CHANGE / page.pace
        await asyncio.sleep(first)
        while time.monotonic() < end:
            taken.append(await page.send(looked))
            if time.monotonic() > edit:
                taken.append(await page.send(changed))
                edit += SECONDS_PER_CHANGE
            await asyncio.sleep(min(page.pace, max(0.0, end - time.monotonic())))
        return taken

    ticks = [tick(page, page.pace * number / len(opened)) for number, page in enumerate(opened)]
    return [each for taken in await asyncio.gather(*ticks) for each in taken]


def main() -> None:
    """Measure and write page_load.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30, help="of a turn")
    parser.add_argument("--turns", type=int, default=6, help="with pages, and as many without")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LOWRANK_HOME"] = home  # the run is one of the app's
        with running_app(Path(home)) as url:
            process = next(p for p in psutil.Process().children() if "app.py" in p.cmdline())
            memory = asyncio.run(load(url, process, options.loads))
            run = _train(Path(home))
            turns = asyncio.run(taken_in_turns(run, url, options))
            trained = run.status().state == "training"
            supervisor.stop(run, kill_after=0)
    times = [each for turn in turns for each in turn.times]
    slower = [100 * (1 - busy.speed / alone.speed) for alone, busy in itertools.pairwise(turns) if busy.times]
    mean, half = statistics.mean(slower), 2.0 * statistics.stdev(slower) / len(slower) ** 0.5
    print("steps a second, without pages and with them in turns:", *(f"{turn.speed:.2f}" for turn in turns))
    rows = [
        {"what": f"MB more after {options.loads} page loads", "figure": f"{memory[-1][1] - memory[0][1]:.0f}"},
        {"what": f"seconds of an event, median of {len(times)}", "figure": f"{statistics.median(times):.3f}"},
        {"what": "the same, 95th percentile", "figure": f"{statistics.quantiles(times, n=20)[-1]:.3f}"},
        {"what": "steps a second less with pages, %", "figure": f"{mean:.1f} +- {half:.1f}"},
    ]
    about = (
        f"{options.pages} pages polled in {options.turns} turns of {options.seconds:.0f} s, with as many turns without "
        f"between them; a run {'trained' if trained else 'DID NOT TRAIN'}."
    )
    sizes = ", ".join(f"{size:.0f} MB after {number}" for number, size in memory)
    print(report.write("page_load", rows, f"{about} The app's process: {sizes}.", options.out))


@dataclass(frozen=True)
class Turn:
    """Some seconds of a training: steps a second, and how long the events of pages took, if there were any."""

    speed: float
    times: list[float]


async def taken_in_turns(run: runs.Run, url: str, options: argparse.Namespace) -> list[Turn]:
    """Without pages and with them, again and again; they are opened before."""
    turns = []
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        opened = [await Page.open(client) for _ in range(options.pages)]
        await poll(opened, SETTLED)
        for number in range(2 * options.turns):
            before, begin = run.status().step, time.perf_counter()
            times = await poll(opened if number % 2 else [], options.seconds)
            await asyncio.sleep(max(0.0, options.seconds - (time.perf_counter() - begin)))
            turns.append(Turn((run.status().step - before) / (time.perf_counter() - begin), times))
    return turns


def _train(home: Path) -> runs.Run:
    values = presets.find_preset("emoji-style").values
    config = presets.build(values, {"train.steps": 100_000, "sample.prompts": (), "save.every": 100_000})
    run = runs.create(config, "polled", home / "runs")
    supervisor.start(run)
    while run.status().step < 5:
        time.sleep(0.5)
    return run


if __name__ == "__main__":
    main()
