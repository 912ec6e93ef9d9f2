"""The buttons that steer a run at work or in the queue; only those that mean something in its state are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowrank_diffusion import requests, run_queue, supervisor
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run, Status

from . import safe, watching
from .form import message_html
from .toolkit import gr

RESUMABLE = ("new", "stopped", "interrupted", "failed")
QUEUED = ("queued", "held")
GOES_ON = "Going on from the newest checkpoint."
WAITS = "It is in the queue, and goes on when its turn has come."

Steered = Callable[[Run], str | None]
"""Does it; what is said of it where that is not always the same."""


def resume(run: Run) -> str:
    """Go on from the newest checkpoint, now or when its turn has come; in words. Raises RunError."""
    return GOES_ON if run_queue.submit(run) else WAITS


class Steering:
    """Made inside a row's place; ``ids`` begins the names of its elements, ``release`` frees memory for a training."""

    def __init__(self, ids: str, release: Callable[[], None]) -> None:
        self.release = release
        self.buttons: dict[str, gr.Button] = {}
        with gr.Row(elem_classes=["buttons"]):
            self._button("pause", "Pause", ids)
            self._button("continue", "Continue", ids, variant="primary")
            self._button("stop", "Stop and save", ids, variant="stop")
            self._button("resume", "Resume", ids)
            self._button("save", "Save now", ids)
            self._button("up", "Up in the queue", ids)
            self._button("down", "Down", ids)
            self._button("hold", "Hold", ids)
            self._button("release", "Release", ids)
            self._button("remove", "Out of the queue", ids)
        with gr.Row(elem_classes=["one-line"], visible=False) as self.sampling:
            self.prompts = gr.Textbox(
                show_label=False, container=False, lines=1, max_lines=6, scale=4, elem_id=f"{ids}sample-prompts",
                placeholder="Other prompts to sample, one a line; empty: the run's own",
            )  # fmt: skip
            self._button("sample", "Sample now", ids, scale=1)
        self.note = gr.HTML(elem_id=f"{ids}run-note", apply_default_css=False)

    def _button(self, name: str, words: str, ids: str, **more: Any) -> None:
        elem_id = f"{ids}{'sample-now' if name == 'sample' else name}"
        visible = name == "sample"  # in a row that is not
        self.buttons[name] = gr.Button(words, size="sm", min_width=90, elem_id=elem_id, visible=visible, **more)

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`updates` and the handlers may change."""
        return [*self.buttons.values(), self.sampling, self.note]

    @staticmethod
    def possible(run: Run | None, status: Status) -> dict[str, bool]:
        """What means something for the run now."""
        asked = {what for what in requests.ALL if run is not None and run.requested(what)}
        training, paused, queued = (status.state in states for states in (("training",), ("paused",), QUEUED))
        running = (training or paused) and "stop" not in asked
        return {
            "pause": running and training and "pause" not in asked,
            "continue": running and paused,
            "stop": status.active and "stop" not in asked,
            "resume": run is not None and status.state in RESUMABLE and status.resumable,
            "save": running and "save" not in asked,
            "sample": running and training and "sample" not in asked,
            "up": queued, "down": queued, "remove": queued,
            "hold": status.state == "queued", "release": status.state == "held",
        }  # fmt: skip

    def updates(self, run: Run | None, status: Status) -> dict[Any, Any]:
        """Show what is possible."""
        possible = self.possible(run, status)
        updates = {self.buttons[name]: gr.update(visible=may) for name, may in possible.items() if name != "sample"}
        updates[self.buttons["sample"]] = gr.update(interactive=possible["sample"])
        return updates | {self.sampling: gr.update(visible=status.state in ("training", "paused"))}

    def connect(
        self, chosen: gr.components.Component, show: Callable[[str | None], dict[Any, Any]], outputs: list[Any]
    ) -> None:
        """Bind the events: ``chosen`` holds a run's name, and ``show`` makes the page show it as it is then."""
        acts: dict[str, tuple[Steered, str]] = {
            "pause": (requests.pause, "It waits after the current step, its model in memory, until you continue."),
            "continue": (requests.go_on, ""),
            "stop": (supervisor.stop, "It finishes the step, saves and ends; Resume goes on exactly from there."),
            "resume": (self._resume, ""),
            "save": (requests.save_now, "A checkpoint and its adapter's files are written after the current step."),
            "up": (lambda run: run_queue.move(run, -1), ""),
            "down": (lambda run: run_queue.move(run, 1), ""),
            "hold": (run_queue.hold, "It is passed over until it is released."),
            "release": (lambda run: run_queue.hold(run, False), ""),
            "remove": (run_queue.remove, "Out of the queue; Resume puts it back in."),
        }
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        for name, (act, words) in acts.items():
            self.buttons[name].click(self._actor(act, words, show), {chosen}, outputs, **quiet)
        sample = self._sampler(show, chosen)
        gr.on(
            [self.buttons["sample"].click, self.prompts.submit], sample, {chosen, self.prompts},
            [*outputs, self.prompts], **quiet,
        )  # fmt: skip

    def _resume(self, run: Run) -> str:
        self.release()
        return resume(run)

    def _actor(self, act: Steered, words: str, show: Callable[[str | None], dict[Any, Any]]) -> Callable[..., Any]:
        def do(data: dict[Any, Any]) -> dict[Any, Any]:
            (name,) = data.values()
            return show(name) | {self.note: done(name, act, words)}

        return do

    def _sampler(self, show: Callable[[str | None], dict[Any, Any]], chosen: Any) -> Callable[..., Any]:
        def do(data: dict[Any, Any]) -> dict[Any, Any]:
            name, prompts = data[chosen], str(data[self.prompts] or "").splitlines()
            words = "Samples are drawn after the current step and appear below."
            note = done(name, lambda run: requests.sample_now(run, prompts), words)
            return show(name) | {self.note: note}

        return do


def done(name: str | None, act: Steered, words: str) -> str:
    """Do something to the run of this name; what to say of it."""
    try:
        run = safe.run(name)
        said = act(run)
        watching.forget(run)
    except UserError as error:
        return message_html(str(error), "bad")
    return message_html(said or words)
