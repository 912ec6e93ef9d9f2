"""What pages cost the app: memory of a thousand that are opened, and how long twenty wait for what is new.

    python -m benchmarks.page_load [--loads 1000] [--pages 20] [--seconds 60]

The app is started in a home of its own. A load is what a browser asks for: the page, its configuration, and every event
that opening it sets off, under a session of its own. Polling pages tick as the Train tab does while a run trains on the
same machine; measured is the time from asking to having the answer. Memory is the resident size of the app's process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from lowrank_diffusion import presets, runs, supervisor
from lowrank_diffusion.paths import PROJECT
from ui.monitor import SLOW_POLL_SECONDS

from . import report

API = "/gradio_api"


class Page:
    """One page in one browser, without the browser."""

    numbers = itertools.count()

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any]):
        self.client, self.config = client, config
        self.session = f"page{next(self.numbers)}"
        self.values = {part["id"]: part.get("props", {}).get("value") for part in config["components"]}

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
        return time.perf_counter() - begin


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


async def poll(url: str, pages: int, seconds: float) -> list[float]:
    """How long every tick of every page took."""
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        opened = [await Page.open(client) for _ in range(pages)]
        end = time.monotonic() + seconds

        async def tick(page: Page, first: float) -> list[float]:
            taken = []
            event = page.events("tick")[0]
            await asyncio.sleep(first)
            while time.monotonic() < end:
                taken.append(await page.send(event))
                await asyncio.sleep(max(0.0, SLOW_POLL_SECONDS - taken[-1]))
            return taken

        ticks = [tick(page, SLOW_POLL_SECONDS * number / pages) for number, page in enumerate(opened)]
        return [each for taken in await asyncio.gather(*ticks) for each in taken]


def main() -> None:
    """Measure and write page_load.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--port", type=int, default=7893)
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"LOWRANK_HOME": home}
        command = [sys.executable, "app.py", "--no-browser", "--port", str(options.port)]
        with (Path(home) / "app.txt").open("wb") as log:
            app = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(url)
            memory = asyncio.run(load(url, psutil.Process(app.pid), options.loads))
            os.environ["LOWRANK_HOME"] = home  # the run is one of the app's
            run = _train(Path(home))
            ticks = asyncio.run(poll(url, options.pages, options.seconds))
            trained = run.status().state == "training"
            supervisor.stop(run, kill_after=0)
        finally:
            app.terminate()
            app.wait(30)
    rows = [
        {"what": f"MB more after {options.loads} page loads", "figure": f"{memory[-1][1] - memory[0][1]:.0f}"},
        {"what": f"seconds of a tick, median of {len(ticks)}", "figure": f"{statistics.median(ticks):.3f}"},
        {"what": "the same, 95th percentile", "figure": f"{statistics.quantiles(ticks, n=20)[-1]:.3f}"},
    ]
    about = (
        f"{options.pages} pages polled for {options.seconds:.0f} s; a run {'trained' if trained else 'DID NOT TRAIN'}."
    )
    sizes = ", ".join(f"{size:.0f} MB after {number}" for number, size in memory)
    print(report.write("page_load", rows, f"{about} The app's process: {sizes}.", options.out))


def _wait(url: str) -> None:
    for _ in range(240):
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError("the app does not answer")


def _train(home: Path) -> runs.Run:
    values = presets.find_preset("smoke").values
    config = presets.build(values, {"data.instance": "assets/examples/subject-cat", "train.steps": 100_000})
    run = runs.create(config, "polled", home / "runs")
    supervisor.start(run)
    while run.status().state != "training":
        time.sleep(0.5)
    return run


if __name__ == "__main__":
    main()
