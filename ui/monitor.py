"""The live panel: any page that opens it sees the run as it is, and polls for what is new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowrank_diffusion import requests, supervisor
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run, Status

from . import live, safe, watching
from .form import message_html, prefix
from .toolkit import gr

RESUMABLE = ("stopped", "interrupted", "failed")
STOP_NOTE = "Asked to stop. It finishes the step, saves a checkpoint and ends; Resume goes on exactly from there."
SAMPLE_NOTE = "Asked for samples. They are drawn after the current step and appear below."
RESUME_NOTE = "Going on from the newest checkpoint."
POLL_SECONDS = 2
SLOW_POLL_SECONDS = 4
"""Where nothing happens, or on a CPU: a look costs the browser a quarter of a second of a core that training wants."""


class Monitor:
    """A run selector with the chosen run's state, curve, samples and the buttons that steer it.

    ``bar`` and ``start`` stand below the settings: what is running and waiting is also shown where a run is started.
    """

    def __init__(self, task: str, on_start: Callable[[], None], bar: gr.HTML, start: gr.Button) -> None:
        self.task, self.on_start, self.bar, self.start = task, on_start, bar, start
        ids, small = prefix(task), {"size": "sm", "interactive": False}
        self.selector = gr.Dropdown(
            choices=[],
            value=None,
            label="Run shown",
            allow_custom_value=True,
            elem_id=f"{ids}run-shown",
            container=True,
        )
        self.head = gr.HTML(elem_id=f"{ids}run-head", apply_default_css=False)
        with gr.Row(elem_classes=["buttons"]):
            self.stop = gr.Button("Stop and save", variant="stop", elem_id=f"{ids}stop", **small)
            self.resume = gr.Button("Resume", elem_id=f"{ids}resume", **small)
            self.sample = gr.Button("Sample now", elem_id=f"{ids}sample-now", **small)
        self.note = gr.HTML(elem_id=f"{ids}run-note", apply_default_css=False)
        self.curve = gr.HTML(elem_id=f"{ids}curve", apply_default_css=False)
        self.samples = gr.HTML(elem_id=f"{ids}samples", apply_default_css=False)
        self.displayed = gr.State({})
        self.timer = gr.Timer(POLL_SECONDS, active=task == "image")  # the tab that is in front at first

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`look` may change."""
        buttons = [self.stop, self.resume, self.sample, self.bar, self.start]
        return [self.selector, self.head, self.note, self.curve, self.samples, self.displayed, self.timer, *buttons]

    def connect(self, demo: gr.Blocks) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        inputs = {self.selector, self.displayed}
        self.timer.tick(self.tick, inputs, self.outputs, **quiet)
        demo.load(self.attach, None, self.outputs, **quiet)
        self.bar.pressed(self.press, {self.selector}, self.outputs, **quiet)
        self.selector.input(self.choose, {self.selector}, self.outputs, **quiet)
        for button, act in ((self.stop, self.ask_stop), (self.resume, self.ask_resume), (self.sample, self.ask_sample)):
            button.click(act, {self.selector}, self.outputs, **quiet)

    def attach(self) -> dict[Any, Any]:
        """A page was opened or reloaded: show the run at work, else the newest."""
        run = watching.foremost(self.task)
        return self.show(run.name if run else None)

    def show(self, name: str | None) -> dict[Any, Any]:
        """Everything about one run."""
        updates = self.look(name, {})
        updates[self.selector] = gr.update(choices=live.choices(self.task), value=name)
        return updates

    def choose(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Another run was picked in the selector."""
        return self.show(data[self.selector])

    def tick(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """It is time: what changed since this page last looked."""
        return self.look(data[self.selector], data[self.displayed] or {})

    def look(self, name: str | None, displayed: dict[str, Any]) -> dict[Any, Any]:
        """Updates for whatever differs from ``displayed``; an empty dict where nothing does."""
        try:
            run, status = self._run(name)
        except UserError as error:
            run, status = None, Status(state="gone", message=str(error))
        views = {
            "choices": (self.selector, lambda: gr.update(choices=live.choices(self.task))),
            "head": (self.head, lambda: head),
            "bar": (self.bar, lambda: now["bar"]),
            "start": (self.start, lambda: gr.update(value=now["start"])),
            "curve": (self.curve, lambda: live.curve_html(status)),
            "samples": (self.samples, lambda: live.samples_html(run, status)),
            "stop": (self.stop, lambda: gr.update(interactive=now["stop"])),
            "resume": (self.resume, lambda: gr.update(interactive=now["resume"])),
            "state": (self.note, lambda: ""),  # what was said about an action is old once the state has moved on
            "sample": (self.sample, lambda: gr.update(interactive=now["sample"])),
            "pace": (self.timer, lambda: gr.update(value=now["pace"])),
        }
        head = live.status_html(run, status) if status.state != "gone" else message_html(status.message, "bad")
        now = {
            "choices": [shown for shown, _ in live.choices(self.task)],
            "head": head,
            "bar": live.bar_html(),
            "start": live.start_words(),
            "curve": (name, len(status.losses), len(status.validation), status.step, status.steps),
            "samples": (name, len(status.samples)),
            "state": (name, status.state),
            "stop": bool(run and status.active and not run.requested("stop")),
            "resume": status.state in RESUMABLE and status.resumable,
            "sample": bool(run and status.state == "training" and not run.requested("sample")),
            "pace": POLL_SECONDS if status.active and status.device != "cpu" else SLOW_POLL_SECONDS,
        }
        updates = {part: value() for key, (part, value) in views.items() if displayed.get(key) != now[key]}
        return updates | {self.displayed: now} if updates else {self.displayed: gr.skip()}

    def _run(self, name: str | None) -> tuple[Run | None, Status]:
        if not name:
            return None, Status()
        run = safe.run(name)
        return run, watching.status(run)

    def _act(self, data: dict[Any, Any], act: Callable[[Run], None], done: str) -> dict[Any, Any]:
        name = data[self.selector]
        try:
            run = safe.run(name)
            act(run)
            watching.forget(run)
            note = message_html(done)
        except UserError as error:
            note = message_html(str(error), "bad")
        return self.show(name) | {self.note: note}

    def press(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A button above Start was pressed: the run of its line is shown, or ended."""
        name = str(getattr(event, "name", ""))
        if getattr(event, "act", "") != "end":
            return self.show(name) if name in [key for _, key in live.choices(self.task)] else {}
        try:
            run = safe.run(name)
            supervisor.stop(run)
            watching.forget(run)
            note = message_html(STOP_NOTE if run.status().state != "waiting" else "")
        except UserError as error:
            note = message_html(str(error), "bad")
        return self.show(data[self.selector]) | {self.note: note}

    def ask_stop(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Stop was pressed."""
        return self._act(data, supervisor.stop, STOP_NOTE)

    def ask_resume(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Resume was pressed."""

        def go_on(run: Run) -> None:
            self.on_start()
            supervisor.start(run)

        return self._act(data, go_on, RESUME_NOTE)

    def ask_sample(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Sample now was pressed."""
        return self._act(data, requests.sample_now, SAMPLE_NOTE)
