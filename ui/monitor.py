"""The live panel: any page that opens it sees the run as it is, and polls for what is new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowrank_diffusion import run_queue, supervisor
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run, Status

from . import curve, live, pace, queue_bar, safe, steer, watching
from .form import message_html, prefix
from .steer import Steering
from .toolkit import gr


class Monitor:
    """A run selector with the chosen run's state, curve, samples and the buttons that steer it.

    ``bar`` and ``start`` stand below the settings: what is running and waiting is also shown where a run is started.
    """

    def __init__(self, task: str, on_start: Callable[[], None], bar: gr.HTML, start: gr.Button) -> None:
        self.task, self.on_start, self.bar, self.start = task, on_start, bar, start
        ids = prefix(task)
        self.selector = gr.Dropdown(
            choices=[],
            value=None,
            label="Run shown",
            allow_custom_value=True,
            elem_id=f"{ids}run-shown",
            container=True,
        )
        self.head = gr.HTML(elem_id=f"{ids}run-head", apply_default_css=False)
        self.steering = Steering(ids, on_start)
        self.curve = curve.chart(f"{ids}curve")
        self.samples = gr.HTML(elem_id=f"{ids}samples", apply_default_css=False)
        self.displayed = gr.State({})
        self.timer = gr.Timer(pace.AT_WORK, active=task == "image")  # the tab that is in front at first

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`look` may change."""
        parts = [self.selector, self.head, self.curve, self.samples, self.displayed, self.timer, self.bar, self.start]
        return [*parts, *self.steering.outputs]

    def connect(self, demo: gr.Blocks) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        inputs = {self.selector, self.displayed}
        self.timer.tick(self.tick, inputs, self.outputs, **quiet)
        demo.load(self.attach, None, self.outputs, **quiet)
        self.bar.pressed(self.press, {self.selector}, self.outputs, **quiet)
        self.selector.input(self.choose, {self.selector}, self.outputs, **quiet)
        self.steering.connect(self.selector, self.show, self.outputs)

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
            "curve": (self.curve, lambda: curve.of_run(run.title if run else "", status)),
            "samples": (self.samples, lambda: live.samples_html(run, status)),
            "state": (self.steering.note, lambda: ""),  # what was said of an action is old once the state has moved on
            "pace": (self.timer, lambda: gr.update(value=now["pace"])),
        }
        head = live.status_html(run, status) if status.state != "gone" else message_html(status.message, "bad")
        now = {
            "choices": [shown for shown, _ in live.choices(self.task)],
            "head": head,
            "bar": queue_bar.html_of(),
            "start": queue_bar.start_words(),
            "curve": (name, len(status.losses), len(status.validation), status.step, status.steps),
            "samples": (name, len(status.samples)),
            "state": (name, status.state),
            "steer": (status.state, *Steering.possible(run, status).values()),
            "pace": pace.of(status),
        }
        updates = {part: value() for key, (part, value) in views.items() if displayed.get(key) != now[key]}
        if tuple(displayed.get("steer", ())) != now["steer"]:
            updates |= self.steering.updates(run, status)
        return updates | {self.displayed: now} if updates else {self.displayed: gr.skip()}

    def _run(self, name: str | None) -> tuple[Run | None, Status]:
        if not name:
            return None, Status()
        run = safe.run(name)
        return run, watching.status(run)

    def press(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A button above Start was pressed: the run of its line is shown or ended, or the queue is changed."""
        name, act = str(getattr(event, "name", "")), str(getattr(event, "act", ""))
        if act == "show":
            return self.show(name) if name in [key for _, key in live.choices(self.task)] else {}
        note = ""
        if act in QUEUE:
            note = steer.done(name, QUEUE[act], "")
        elif act in ("pause-queue", "continue-queue"):
            run_queue.pause(paused=act == "pause-queue")
        return self.show(data[self.selector]) | {self.steering.note: note}


def _end(run: Run) -> str:
    waited = run.status().state == "waiting"
    supervisor.stop(run)
    return "" if waited else "It finishes the step, saves and ends; Resume goes on exactly from there."


QUEUE: dict[str, steer.Steered] = {
    "end": _end,
    "up": lambda run: run_queue.move(run, -1),
    "hold": run_queue.hold,
    "release": lambda run: run_queue.hold(run, False),
    "remove": run_queue.remove,
}
"""What the buttons of a line do."""
