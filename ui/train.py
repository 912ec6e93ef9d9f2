"""The tab that trains, for every task: data in, settings, start; and the run beside them, live.

What a task learns from is another module's: :mod:`.picture_panel` and :mod:`.row_panel`.
"""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable
from typing import Any

from lowrank_diffusion import blanks, presets
from lowrank_diffusion.bases import MODEL_KEY
from lowrank_diffusion.config import ConfigError, fields
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.purposes import PURPOSES
from lowrank_diffusion.runs import Run

from . import changed, drafts, queue_bar, summary
from .base_picker import BasePicker
from .form import MAIN, Form, label, message_html, prefix, problems_html
from .launch import InputsError, launch_run
from .memory import Memory
from .monitor import Monitor
from .own_preset import OwnPreset
from .panel import Panel
from .toolkit import gr, static_text

PAUSE = 0.7
"""Seconds without a change before the data are looked at again."""


class TrainTab:
    """The tab; made inside a ``gr.Blocks``. ``release`` frees the memory that a training is about to need."""

    def __init__(self, panel: Panel, release: Callable[[], None]) -> None:
        self.panel, self.release, self.task = panel, release, panel.task
        self.first = panel.first_preset if panel.first_preset in self.names() else ""
        self.memory = Memory(self.task, self.first)
        first = self.memory.build(self.first, panel.own(self.memory.values(self.first), None))
        self.form = Form(first)
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=520):
                with gr.Column(elem_classes=["sheet"]):
                    gr.HTML(f"<h2>{panel.title}</h2>", apply_default_css=False, elem_classes=["title"])
                    panel.place()
                self._settings()
            with gr.Column(scale=6, min_width=420, elem_classes=["sheet", "run-card"]):
                gr.HTML("<h2>Run</h2>", apply_default_css=False, elem_classes=["title"])
                self.monitor = Monitor(self.task, release, self.bar, self.start)

    def names(self) -> list[str]:
        """The presets to choose from, a person's own last."""
        every = [*presets.all_presets(), *presets.own_presets()]
        return [preset.name for preset in every if preset.task == self.task]

    def _settings(self) -> None:
        ids = prefix(self.task)
        with gr.Column(elem_classes=["sheet"]):
            gr.HTML("<h2>Settings</h2>", apply_default_css=False, elem_classes=["title"])
            chosen = [(purpose.title, name) for name, purpose in PURPOSES.items()]
            self.purpose = gr.Radio(
                chosen, value=self._purpose_of(self.first), label="What is it?", elem_id=f"{ids}purpose",
                visible=self.task == "image",
            )  # fmt: skip
            with gr.Row():
                self.preset = gr.Dropdown(
                    self.names(), value=self.first or None, label="Preset", elem_id=f"{ids}preset", filterable=False
                )
                self.name = gr.Textbox(self.first, label="Run name", elem_id=f"{ids}run-name", max_lines=1)
            about = message_html(self.memory.about(self.first))
            self.about = gr.HTML(about, elem_id=f"{ids}preset-about", apply_default_css=False)
            self.changes_shown = gr.HTML(
                js_on_load=static_text("pick.js"), elem_id=f"{ids}changed", apply_default_css=False
            )
            with gr.Row(elem_classes=["fields"]):
                self.form.place(*MAIN[self.task])
            self.picker = BasePicker(self.task, ids)
            self.own = OwnPreset(ids)
            with gr.Accordion("All other settings", open=False, elem_id=f"{ids}other-settings") as self.others:
                self.form.place_rest()
            # What the settings were before a person changed any: the page holds it, so that it outlives the app too.
            first = self.memory.note(self.first, self.panel.own(self.memory.values(self.first), None))
            self.filled = gr.HTML(first, html_template="<div></div>", elem_id=f"{ids}filled", apply_default_css=False)
            self.before = gr.State(None)
            self.undo = gr.HTML(js_on_load=static_text("undo.js"), elem_id=f"{ids}undo", apply_default_css=False)
        with gr.Column(elem_classes=["sheet", "start-bar"]):
            self.problems = gr.HTML(elem_id=f"{ids}problems", apply_default_css=False)
            self.summary = gr.HTML(elem_id=f"{ids}told", apply_default_css=False)
            self.bar = gr.HTML(js_on_load=static_text("bar.js"), elem_id=f"{ids}now", apply_default_css=False)
            self.start = gr.Button("Start training", variant="primary", elem_id=f"{ids}start", elem_classes=["start"])

    @property
    def kept(self) -> dict[str, Any]:
        """The components whose values outlive the page, by name."""
        values = {"preset": self.preset, "purpose": self.purpose, "name": self.name, "filled": self.filled}
        return values | self.form.widgets | self.panel.kept

    @property
    def changes(self) -> list[Any]:
        """The events after which they are written."""
        parts = [self.preset, self.purpose, self.name, *self.form.widgets.values()]
        return [*(part.change for part in parts), *self.panel.changes]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return [*self.kept.values(), self.about, self.changes_shown, *self.panel.outputs]

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Show what was kept of an earlier page."""
        own = {name: part for name, part in self.kept.items() if name not in self.panel.kept}
        updates = drafts.fitting(own, values) | self.panel.restore(values)
        if self.preset in updates:
            updates[self.about] = message_html(self.memory.about(updates[self.preset]))
        return updates

    def again(self, run: Run, data: dict[Any, Any]) -> dict[Any, Any]:
        """Show the settings and the data of a run; what ``data`` say is there now can be had back. Raises UserError."""
        config = run.config()
        shown, own = self.form.fill(config), self.panel.of_run(run, config)
        values = {key: shown[part] for key, part in self.form.widgets.items()} | own
        settings = config.dotted() | {key: value for key, value in own.items() if key in fields()}
        settings.pop("task")
        updates = self.restore(values) | {self.name: run.title, self.filled: self.memory.note(self.first, settings)}
        words = f"The settings and the data of {run.title}. Change what is to be different, and start."
        updates |= {self.about: message_html(words)}
        return updates | self.undoing(f"The form now shows {run.title}.", data)

    def connect(self, demo: gr.Blocks) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        everything = {*self.kept.values(), *self.panel.inputs}
        changed = [*self.outputs, self.problems, self.before, self.undo]
        self.preset.input(self.choose, everything, changed, **quiet)
        self.purpose.input(self.choose_purpose, everything, changed, **quiet)
        self.changes_shown.picked(self.reset, everything, changed, **quiet)
        self.picker.connect(self.form.widgets[MODEL_KEY])
        self.own.connect(self, everything)
        demo.load(lambda: gr.update(choices=self.names()), None, self.preset, **quiet)
        self.undo.pressed(self.press, everything | {self.before}, changed, **quiet)
        answers: list[Any] = [self.form.widgets[key] for key in blanks.ANSWERS.values() if key in self.form.widgets]
        if answers:
            filled = [self.form.widgets[key] for key in blanks.FILLED] + [self.filled]
            # Not input: a value that is pasted or filled in makes no keystroke. And once more when a preset has come,
            # for what was typed while the server answered: by one event, so that no answer overtakes a later one.
            typed = [part.change for part in (*answers, self.filled)]
            gr.on(typed, self.answer, everything, filled, trigger_mode="always_last", **quiet)
        self.start.click(None, self.name, self.bar, js=static_text("starting.js"), **quiet)
        # Every click counts, also while an earlier one is answered; that a double click is one start, the page sees to.
        started = [self.problems, self.others, self.summary, *self.monitor.outputs]
        self.start.click(self.begin, everything, started, trigger_mode="multiple", **quiet)
        shown = [self.summary, self.changes_shown]
        gr.on(self.changes, self.look, everything, shown, trigger_mode="always_last", **quiet)
        self.panel.connect(demo, self)
        self.monitor.connect(demo)

    def choose(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Another preset was chosen: what a person typed stays."""
        return self.fill(data[self.preset], data)

    def fill(self, name: str, data: dict[Any, Any], replace: bool = False) -> dict[Any, Any]:
        """Show a preset's settings, with what a person changed before, or (``replace``) without.

        A run's name that was typed is never replaced.
        """
        widgets = self.form.widgets
        if (preset := self.memory.preset_of(name)) is None:
            return {self.problems: ""}
        purpose = data[self.purpose] if data[self.purpose] in preset.purposes else self._purpose_of(name)
        worded = PURPOSES[purpose].settings if purpose in preset.purposes[1:] else {}
        changed = self.changed(data)
        stay = set() if replace else changed
        typed = {key: self.form.value(key, data) for key in blanks.ANSWERS.values() if key in stay}
        try:
            values = self.memory.values(name)
            own = self.panel.own(values, data) | worded | typed
            shown = self.form.fill(self.memory.build(name, own))
        except ConfigError as error:
            return {self.problems: problems_html(error.problems, self.task)}
        before = self.memory.preset(data[self.filled])
        updates = {widgets[key]: shown[widgets[key]] for key in widgets if key not in stay}
        if str(data[self.name] or "").strip() in ("", before):
            updates[self.name] = name
        updates |= {
            self.preset: name,
            self.purpose: purpose,
            self.about: message_html(self.memory.about(name)),
            self.problems: "",
        }
        updates[self.filled] = self.memory.note(name, own)
        lost = [key for key in changed if data[widgets[key]] != shown[widgets[key]]]
        if not lost:
            return updates | {self.undo: ""}
        count = "one of your values" if len(lost) == 1 else f"{len(lost)} of your values"
        words = f"{name}: {count} {'replaced' if replace else 'kept'} ({_listed([label(key) for key in lost])})."
        return updates | self.undoing(words, data, *(() if replace else ("Replace",)))

    def _purpose_of(self, name: str) -> str | None:
        """What a preset is worded for."""
        preset = presets.named(name)
        return next(iter(preset.purposes), None) if preset else None

    def choose_purpose(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Something else is to be learnt: by the chosen preset, if it is made for that, else by one that is."""
        purpose, chosen = data[self.purpose], self.memory.preset_of(data[self.preset])
        if purpose not in PURPOSES:
            return {}
        made = [preset for preset in presets.all_presets() if purpose in preset.purposes]
        made.sort(key=lambda preset: preset.purposes.index(purpose))
        name = chosen.name if chosen and purpose in chosen.purposes else made[0].name
        return self.fill(name, data) | {self.about: message_html(PURPOSES[purpose].about)}

    def reset(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A changed setting is to be as the preset says, or (no key) all of them."""
        key = str(getattr(event, "key", ""))
        shown, changed = self.form.fill(self.memory.base(data[self.filled])), self.changed(data)
        back = {self.form.widgets[name]: shown[self.form.widgets[name]] for name in changed if key in (name, "")}
        words = f"{label(key)} is as in the preset." if key in changed else "All settings are as in the preset."
        return back | self.undoing(words, data)

    def changed(self, data: dict[Any, Any]) -> set[str]:
        """The settings that are not as they were filled in: a person's own."""
        shown = self.form.fill(self.memory.base(data[self.filled]))
        parts = self.form.widgets.items()
        return {key for key, part in parts if not _same(data[part], shown[part])}

    def undoing(self, words: str, data: dict[Any, Any], *others: str) -> dict[Any, Any]:
        """What a handler adds to offer for a while that everything becomes again as ``data`` say it is now."""
        before = {name: data[part] for name, part in self.kept.items() if part in data}
        buttons = "".join(f"<button type=button data-name={name}>{name}</button>" for name in ("Undo", *others))
        mark = time.monotonic_ns()  # the same words a second time are shown again
        bar = f'<div class="undo" role="status" data-mark="{mark}"><span>{html.escape(words)}</span>{buttons}</div>'
        return {self.before: before, self.undo: bar}

    def press(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A button of the undo bar was pressed."""
        if getattr(event, "name", "") == "Replace":
            return self.fill(data[self.preset], data, replace=True)
        before = data[self.before]
        again = self.restore(before) if isinstance(before, dict) else {}
        return again | {self.before: None, self.undo: ""}

    def answer(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """What the pictures show, or its word, was typed: it goes into the captions and prompts that nobody changed."""
        answers = {key: self.form.value(key, data) for key in blanks.ANSWERS.values()}
        return self.refilled(data, answers, blanks.FILLED)

    def refilled(self, data: dict[Any, Any], own: dict[str, Any], keys: tuple[str, ...]) -> dict[Any, Any]:
        """What a handler returns to fill those of ``keys`` that nobody changed as the preset is with ``own`` values."""
        changed = self.changed(data)
        name, before = self.memory.preset(data[self.filled]), self.memory.own(data[self.filled])
        try:
            shown = self.form.fill(self.memory.build(name, before | own))
        except ConfigError:  # said at the start
            return {}
        parts = {key: self.form.widgets[key] for key in keys if key not in changed}
        return {part: shown[part] for part in parts.values()} | {self.filled: self.memory.note(name, before | own)}

    async def look(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Something has changed: what a run would learn now, once there is a pause."""
        await asyncio.sleep(PAUSE)
        beside, changes = await asyncio.to_thread(lambda: (summary.of_form(self, data), self._changes(data)))
        return {self.summary: beside, self.changes_shown: changes}

    def _changes(self, data: dict[Any, Any]) -> str:
        """What is not as the preset says."""
        name = self.memory.preset(data[self.filled])
        shown, parts = self.form.fill(self.memory.base(data[self.filled])), self.form.widgets
        keys = [key for key in parts if key in self.changed(data)]
        return changed.html_of(name, [(key, shown[parts[key]], data[parts[key]]) for key in keys])

    def begin(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Start was pressed."""
        now = {self.bar: queue_bar.html_of(), self.start: gr.update(value=queue_bar.start_words())}
        try:
            values = self.form.values(data)
            run = launch_run(str(data[self.name] or ""), values, self.panel.chosen(data))
            self.release()
        except (ConfigError, InputsError) as error:
            main = MAIN[self.task]
            folded = any(problem.key in fields() and problem.key not in main for problem in error.problems)
            opened = {self.others: gr.update(open=True)} if folded else {}
            return {self.problems: problems_html(error.problems, self.task)} | opened | now
        except UserError as error:
            return {self.problems: message_html(str(error), "bad")} | now
        return self.monitor.show(run.name) | {self.problems: "", self.summary: summary.of_form(self, data)}


def _same(one: Any, other: Any) -> bool:
    """Whether two values look the same in a field: an empty one is None or a text."""
    return one == other or (one in (None, "") and other in (None, ""))


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
