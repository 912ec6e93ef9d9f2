"""The part of a run's detail that measures its adapters, follows what is measured, and shows what came of it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from lowrank_diffusion import evaluations
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run

from . import live, pace, plot, safe, understood
from .form import message_html
from .measure_worker import Evaluate, Flatness, Spectra
from .measuring import Live, Measuring
from .toolkit import gr

KINDS = {"Evaluate": "evaluation", "Flatness": "flatness", "Spectra": "spectra"}
NOTHING = "Nothing has been measured yet. Evaluate compares every kept checkpoint with the base."


class Understand:
    """Made where it is shown."""

    def __init__(self, measuring: Measuring) -> None:
        self.measuring = measuring
        self.displayed = gr.State(())
        with gr.Column(elem_id="understand"):
            gr.HTML('<h4 class="section">Understand</h4>', apply_default_css=False)
            with gr.Row(elem_classes=["buttons"]):
                self.buttons = {
                    name: gr.Button(name, size="sm", elem_id=f"measure-{name.lower()}", min_width=90) for name in KINDS
                }
                self.cancel = gr.Button("Cancel", size="sm", visible=False, elem_id="measure-cancel", min_width=90)
            with gr.Row(elem_classes=["one-line"]):
                self.encoder = gr.Textbox(
                    label="Encoder for Evaluate", placeholder="embedded", max_lines=1, elem_id="measure-encoder",
                    info="A folder or hub id of a CLIP, SigLIP or DINO; empty: the embedded one.",
                )  # fmt: skip
                self.beside = gr.Dropdown(
                    [], multiselect=True, label="Runs beside it for Flatness", max_choices=7, elem_id="measure-beside",
                    info="Trained on the same base; measured at the same draws.",
                )  # fmt: skip
            self.state = gr.HTML(elem_id="measure-note", apply_default_css=False)
            self.plots = plot.component("measured")

    @property
    def changing(self) -> list[Any]:
        """What :meth:`updates` changes."""
        return [*self.buttons.values(), self.cancel, self.state, self.plots]

    @property
    def fixed(self) -> list[Any]:
        """What :meth:`picked` changes."""
        return [self.encoder, self.beside]

    def connect(self, chosen: Any, timer: gr.Timer) -> None:
        """Bind the events. ``chosen``: the state with the run's name; ``timer``: that of the tab."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        timer.tick(self.follow, {chosen, self.displayed}, [*self.changing, self.displayed], **quiet)
        self._chosen = chosen
        typed = {chosen, self.encoder, self.beside}
        for name, button in self.buttons.items():
            started = button.click(lambda data, name=name: self.start(data, name), typed, self.changing, **quiet)
            started.then(lambda: gr.Timer(pace.AT_WORK), None, timer, **quiet)
        self.cancel.click(self.stop, {chosen}, self.changing, **quiet)

    def busy(self, run: Run) -> bool:
        """Whether something is being measured of it."""
        return self.measuring.live(run) is not None

    def updates(self, run: Run) -> dict[Any, Any]:
        """What shows a run."""
        now, ready = self.measuring.live(run), run.newest_adapter() is not None
        words, well = self.measuring.ended(run)
        said = _progress(now) if now else message_html(words, "" if well else "bad") if words else ""
        measured = understood.html_of(run)
        nothing = "" if measured or said else f'<div class="nothing">{NOTHING}</div>'
        return {button: gr.update(interactive=ready and now is None) for button in self.buttons.values()} | {
            self.cancel: gr.update(visible=now is not None),
            self.state: said + nothing,
            self.plots: measured,
        }

    def picked(self, run: Run) -> dict[Any, Any]:
        """What is typed, for another run."""
        others = [choice for choice in live.choices(run.task) if choice[1] != run.name]
        return {self.encoder: gr.update(visible=run.task == "image"), self.beside: gr.update(choices=others, value=[])}

    def follow(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """It is time: how far a job is, and what came of it."""
        try:
            run = safe.run(data[self._chosen])
        except UserError:
            return {self.displayed: gr.skip()}
        now = self.measuring.live(run)
        seen = (run.name, _progress(now) if now else str(self.measuring.ended(run)), _stamps(run))
        if seen == tuple(data[self.displayed]):
            return {self.displayed: gr.skip()}
        updates = self.updates(run)
        if seen[2] == tuple(data[self.displayed])[2:3]:
            del updates[self.plots]  # only how far it is has changed
        return updates | {self.displayed: seen}

    def start(self, data: dict[Any, Any], name: str) -> dict[Any, Any]:
        """A button was pressed."""
        run = safe.run(data[self._chosen])
        others = [safe.run(other).path for other in data[self.beside] or []]
        paths: tuple[Path, ...] = (run.path, *others)
        jobs = {
            "Evaluate": Evaluate(run.path, str(data[self.encoder] or "").strip()),
            "Flatness": Flatness(paths),
            "Spectra": Spectra(run.path),
        }
        self.measuring.start(run, KINDS[name], jobs[name])
        return self.updates(run)

    def stop(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Cancel was pressed."""
        run = safe.run(data[self._chosen])
        self.measuring.cancel(run)
        return self.updates(run) | {self.cancel: gr.update(interactive=True)}


def _stamps(run: Run) -> str:
    """Changes when something has been measured."""
    files = sorted((run.path / evaluations.FOLDER).glob("*.json"))
    return " ".join(f"{path.name} {path.stat().st_mtime_ns}" for path in files if path.is_file())


def _progress(now: Live) -> str:
    """A bar with words."""
    share = now.done / now.total if now.total else 0.0
    if now.cancelled:
        words = "cancelling"
    elif now.waiting:
        words = "waits for what is measured of another run"
    elif not now.total:
        words = "loading"
    else:
        left = f", {live.duration(now.left)} left" if now.left else ""
        words = f"{now.done} of {now.total}{left}"
    busy = "" if share else " busy"
    return (
        f'<div class="draw-bar"><span>{html.escape(now.what.capitalize())}: {html.escape(words)}</span>'
        f'<div class="bar{busy}" role="progressbar" aria-label="{html.escape(now.what)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div></div>'
    )


def beside_each_other(chosen: list[Run]) -> str:
    """The flatness of ticked runs: measured together if some have been, else each as it was measured."""
    records = [(run, record) for run in chosen if (record := evaluations.read(run, evaluations.Flatness))]
    names = {run.name for run in chosen}
    for _, record in sorted(records, key=lambda pair: -pair[1].made):
        if names <= {curve.run for curve in record.curves}:
            return understood.drawn(record, understood.flatness)
    return "".join(
        f"<h5>{html.escape(run.title)}</h5>{understood.drawn(record, understood.flatness)}" for run, record in records
    )
