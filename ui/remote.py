"""What programs can ask of a running app, through `gradio_client` or plain HTTP: docs/api.md has an example of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrank_diffusion import api, cli_draw, presets, requests, run_queue, runs, supervisor
from lowrank_diffusion.config import ConfigError
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.items import Item
from lowrank_diffusion.image.request import LIMITS
from lowrank_diffusion.runs import Run

from . import records, run_folder, safe, watching
from .jobs import Jobs
from .toolkit import gr

ASKED = {"stop": supervisor.stop, "pause": requests.pause, "continue": requests.go_on, "save": requests.save_now}
"""What :meth:`Remote.ask_run` can ask of a run at work."""


class Remote:
    """The functions; ``jobs`` draws."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def offer(self) -> None:
        """Make them callable by name; call inside the ``gr.Blocks``."""
        for function in (
            self.list_runs,
            self.run_status,
            self.start_run,
            self.ask_run,
            self.start_drawing,
            self.drawing_status,
        ):
            gr.api(function, api_name=function.__name__)

    def list_runs(self) -> list[dict[str, Any]]:
        """Every run, the newest first: name, title, state, step, steps."""
        return [_short(run) for run in runs.all_runs()]

    def run_status(self, name: str) -> dict[str, Any]:
        """One run: what ``list_runs`` says, its losses, validation, notes, message, and the addresses of its files."""
        run = safe.run(name)
        status = watching.status(run)
        files = [safe.url(Path(path)) for path in run_folder.files_of(run)]
        more = {"losses": status.losses, "validation": status.validation, "notes": status.notes, "files": files}
        return _short(run) | more | {"message": status.message}

    def start_run(self, preset: str, name: str, settings: dict[str, Any]) -> str:
        """Put a run into the queue; its name.

        ``settings``: by dotted key, such as ``{"data.instance": "set:cats", "train.steps": 200}``.
        """
        chosen = presets.named(preset)
        if chosen is None:
            known = ", ".join(item.name for item in [*presets.all_presets(), *presets.own_presets()])
            raise UserError(f"There is no preset {preset[:80]!r}. Presets: {known}.")
        run, _ = api.prepare(preset, settings, name or None)
        run_queue.submit(run)
        return run.name

    def ask_run(self, name: str, what: str) -> str:
        """Ask a run at work to "stop", "pause", "continue" or "save"; its state then."""
        if what not in ASKED:
            raise UserError(f"There is no {what[:40]!r} to ask for. Ask for one of: {', '.join(ASKED)}.")
        run = safe.run(name)
        ASKED[what](run)
        watching.forget(run)
        return run.status().state

    def start_drawing(self, prompt: str, adapters: list[str], settings: dict[str, Any]) -> str:
        """Begin to draw; the job's name, for ``drawing_status``.

        ``adapters``: runs, "icons", "icons:200", "icons:best", each perhaps with its strength, "icons@0.8".
        ``settings``: base, negative, seed, count, steps, guidance, width, height, sampler.
        """
        known = [key for key in api.DrawOptions.__annotations__ if key not in ("start", "mask", "device", "precision")]
        if unknown := [key for key in settings if key not in known]:
            raise UserError(f"There is no {unknown[0][:40]!r} to set. There are: {', '.join(known)}.")
        if paths := [name for name in adapters if "/" in name or "\\" in name]:
            raise UserError(f"{paths[0][:80]!r} is a path. Give the names of runs.")
        numbers = {key: value for key, value in settings.items() if key in LIMITS}
        if wrong := cli_draw.out_of_bounds(numbers, ""):
            raise ConfigError(wrong)
        given = {key: value for key, value in settings.items() if key != "base"} | {"prompt": prompt}
        request = cli_draw.request(adapters, settings.get("base"), given, "")
        return self.jobs.start([Item("", request)])

    def drawing_status(self, job: str) -> dict[str, Any]:
        """What became of a job: its state ("drawing", "done", "cancelled" or "failed"), and its pictures' addresses."""
        record = records.read(job)
        if record is None:
            raise UserError(f"There is no job {job[:80]!r}.")
        state = "drawing" if self.jobs.live(job) else record.state
        there = [record.folder / file.name for item in record.items for file in item.files]
        pictures = [safe.url(path) for path in there if path.is_file()]
        return {"state": state, "pictures": pictures, "message": record.message}


def _short(run: Run) -> dict[str, Any]:
    status = watching.status(run)
    facts = {"name": run.name, "title": run.title, "state": status.state}
    return facts | {"step": status.step, "steps": status.steps}
