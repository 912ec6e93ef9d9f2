"""The Generate tab: a form on the left, what is drawn on the right; drawing itself belongs to no page."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from lowrank_diffusion.config import ConfigError
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import grid, items, parameters

from . import canvas, draw_form, jobs, pace, records, safe, watching
from .engine import Engine
from .form import message_html, problems_html
from .jobs import Jobs
from .request_form import RequestForm
from .toolkit import gr, static_text

BUSY_NOTE = "A training is at work: drawing shares the machine with it, and both are slower for that time."
NO_PAIR_NOTE = "Side by side: no adapter is chosen, so there is only the base to draw."
ASK_NOTE = "The prompt is empty, so the pictures will show anything. Press Draw again if that is meant."
POLL_SECONDS = 1
"""Where nothing is drawn."""


class GenerateTab:
    """The tab; made inside a ``gr.Blocks``."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.jobs = engine, Jobs(engine)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420, elem_classes=["sheet", "generate"]):
                self._asking()
            with gr.Column(scale=7, min_width=480, elem_classes=["sheet", "generate"]):
                self._canvas()
        self.shown, self.page, self.asked = gr.State(""), gr.State(0), gr.State(False)
        self.displayed, self.bin = gr.State(()), gr.State("")
        self.timer = gr.Timer(POLL_SECONDS, active=False)

    def _asking(self) -> None:
        self.dropped = gr.File(
            label="Drop a PNG here to use what it was drawn from", height=76, elem_id="dropped-png",
            elem_classes=["drop", "slim"], file_types=[".png"],
        )  # fmt: skip
        self.taken_note = gr.HTML(elem_id="taken-note", apply_default_css=False)
        self.form = RequestForm()
        with gr.Column(elem_classes=["draw-row"]):
            self.problems = gr.HTML(elem_id="draw-problems", apply_default_css=False)
            with gr.Row(elem_classes=["buttons"]):
                self.draw = gr.Button("Draw", variant="primary", elem_id="draw", scale=3)
                self.cancel = gr.Button("Cancel", elem_id="cancel", scale=1, interactive=False)

    def _canvas(self) -> None:
        script = static_text("canvas.js")
        with gr.Row(elem_classes=["one-line"]):
            gr.HTML("<h3>Pictures</h3>", apply_default_css=False, elem_classes=["title"])
            small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 96}
            self.go_on = gr.Button("Continue", visible=False, elem_id="draw-on", **small)
            self.zip = gr.Button("Zip", visible=False, elem_id="zip-pictures", **small)
            self.zipped = gr.DownloadButton("Download zip", visible=False, elem_id="zip-ready", **small)
            self.delete = gr.Button("Delete all", visible=False, elem_id="delete-pictures", **small)
        self.progress = gr.HTML(elem_id="draw-progress", apply_default_css=False)
        self.pictures = gr.HTML(canvas.NOTHING, js_on_load=script, elem_id="drawn", apply_default_css=False)
        self.facts = gr.HTML(elem_id="draw-settings", apply_default_css=False)
        self.note = gr.HTML(elem_id="canvas-note", apply_default_css=False)
        self.undo = gr.HTML(js_on_load=static_text("undo.js"), elem_id="canvas-undo", apply_default_css=False)
        gr.HTML("<h3>History</h3>", apply_default_css=False, elem_classes=["title"])
        self.strip = gr.HTML(js_on_load=script, elem_id="history", apply_default_css=False)

    @property
    def kept(self) -> dict[str, Any]:
        """The fields that outlive the page, by name."""
        return self.form.kept

    @property
    def changes(self) -> list[Any]:
        """The events after which they are written."""
        return self.form.changes

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return self.form.outputs

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Show what was kept of an earlier page."""
        return self.form.restore(values)

    @property
    def looks(self) -> list[Any]:
        """What :meth:`look` may change."""
        buttons = [self.cancel, self.go_on, self.zip, self.zipped, self.delete]
        shown = [self.progress, self.pictures, self.facts, self.strip, self.note, self.undo, self.problems]
        return [self.shown, self.page, self.displayed, self.timer, self.asked, self.bin, *shown, *buttons]

    def connect(self, demo: gr.Blocks, tab: gr.Tab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        form = self.form
        place: set[Any] = {self.shown, self.page, self.displayed}
        form.connect(quiet)
        gr.on([demo.load, tab.select], form.refresh, form.uploads, form.choices, **quiet)
        gr.on([demo.load, tab.select], self.attach, place, self.looks, **quiet)
        tab.select(self.warm, None, None, **quiet)
        self.timer.tick(self.tick, place, self.looks, **quiet)
        inputs = {*form.inputs, *place, self.asked, form.uploads}
        gr.on([self.draw.click, form.prompt.submit], self.start, inputs, self.looks, **quiet)
        form.draw_grid.click(self.start_grid, inputs, self.looks, **quiet)
        self.cancel.click(self.give_up, place, self.looks, **quiet)
        self.go_on.click(self.continued, place, self.looks, **quiet)
        self.delete.click(self.delete_all, place, self.looks, **quiet)
        self.undo.pressed(self.bring_back, {*place, self.bin}, self.looks, **quiet)
        self.zip.click(self.pack, self.shown, [self.zipped, self.note], **quiet)
        filled = [self.taken_note, *form.outputs, *self.looks, self.dropped]  # the first says what went wrong
        for part in (self.pictures, self.strip):
            part.act(self.act, {*place, form.uploads}, filled, **quiet)
        self.dropped.upload(self.take, {self.dropped, form.uploads}, filled, **quiet)

    def warm(self) -> None:
        """The tab was opened: load what drawing needs while the prompt is written; a training has the machine first."""
        if not watching.active():
            self.engine.warm()

    def attach(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The tab was opened, or the page: show the job at work, else the newest."""
        return self.look(data[self.shown] or self.jobs.foremost(), data[self.page])

    def tick(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Time has passed: what changed since this page last looked."""
        updates = self.look(data[self.shown], data[self.page])
        before, now = dict(data[self.displayed]), dict(updates[self.displayed])
        parts = {"progress": self.progress, "pictures": self.pictures, "facts": self.facts, "strip": self.strip}
        for name, part in parts.items():
            if before.get(name) == now[name]:
                updates.pop(part)
        for part in (self.note, self.undo, self.problems, self.asked, self.zipped):
            updates.pop(part, None)
        return updates

    def look(self, name: str, page: int) -> dict[Any, Any]:
        """A job as it is, and the strip."""
        record, at_work = records.read(name) if name else None, self.jobs.live(name)
        every = records.names()
        shown = {
            "progress": canvas.progress_html(record, at_work), "pictures": canvas.pictures_html(name, record),
            "facts": "" if at_work else canvas.facts_html(record),
            "strip": canvas.strip_html(every, page, name, [one for one in every if self.jobs.live(one)]),
        }  # fmt: skip
        on = record is not None and not at_work and record.state != "done"
        return {
            self.shown: name, self.page: page, self.displayed: tuple((key, hash(text)) for key, text in shown.items()),
            self.progress: shown["progress"], self.pictures: shown["pictures"], self.facts: shown["facts"],
            self.strip: shown["strip"], self.timer: gr.Timer(POLL_SECONDS if at_work else pace.IDLE),
            self.cancel: gr.update(interactive=at_work is not None), self.go_on: gr.update(visible=on),
            self.zip: gr.update(visible=bool(name) and not at_work), self.zipped: gr.update(visible=False),
            self.delete: gr.update(visible=bool(name) and not at_work),
        }  # fmt: skip

    def start(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Draw was pressed."""
        answers = self.form.answers(data)
        try:
            request = draw_form.build_request(answers)
            if not request.prompt and not data[self.asked]:
                return {self.asked: True, self.problems: message_html(ASK_NOTE)}
            prompts = draw_form.prompts(str(answers["prompt"] or ""), bool(answers["lines"]))
            name = self.jobs.start(items.several(prompts, request))
        except draw_form.RequestError as error:
            return {self.problems: problems_html(error.problems)}
        notes = [NO_PAIR_NOTE] if answers["compare"] and not request.adapters else []
        return self._begun(name, notes)

    def start_grid(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Draw the grid was pressed."""
        try:
            request = draw_form.build_request(self.form.answers(data))
            uploads = list(data[self.form.uploads] or [])
            plan = grid.make(request, self.form.axes_of(data), lambda name: draw_form.file_of(name, uploads))
            return self._begun(self.jobs.start([cell.item for cell in plan.cells], plan.axes), [])
        except (draw_form.RequestError, ConfigError) as error:
            return {self.problems: problems_html(error.problems)}

    def _begun(self, name: str, notes: list[str]) -> dict[Any, Any]:
        notes += [BUSY_NOTE] if watching.active() else []
        said = message_html("\n".join(notes))
        return self.look(name, 0) | {self.problems: said, self.asked: False, self.note: "", self.undo: ""}

    def give_up(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Cancel was pressed; what is done stays."""
        self.jobs.cancel(data[self.shown])
        return self.look(data[self.shown], data[self.page])

    def continued(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Continue was pressed. Raises UserError."""
        return self._begun(self.jobs.go_on(data[self.shown]), [])

    def delete_all(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """All pictures of a job are put into the bin. Raises UserError."""
        return self._deleted(data, data[self.shown], "")

    def _deleted(self, data: dict[Any, Any], name: str, file: str) -> dict[Any, Any]:
        if self.jobs.live(name):
            raise UserError("These pictures are being drawn. Cancel that first.")
        count = len(records.loose(name))
        token = jobs.delete(name, file)
        words = f"{Path(file).name} deleted." if file else f"{count} picture{'s' * (count != 1)} deleted."
        offer = (
            f'<div class="undo" role="status"><span>{html.escape(words)}</span>'
            f'<button type="button" data-name="Undo">Undo</button></div>'
        )
        now = name if file else self.jobs.foremost()
        return self.look(now, data[self.page]) | {self.undo: offer, self.bin: token, self.note: ""}

    def bring_back(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Undo was pressed. Raises UserError."""
        return self.look(jobs.undo(data[self.bin]), data[self.page]) | {self.undo: "", self.bin: ""}

    def pack(self, name: str) -> dict[Any, Any]:
        """Make the zip and offer it. Raises UserError."""
        path = records.zipped(name)
        return {self.zipped: gr.update(value=str(path), visible=True), self.note: ""}

    def act(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """Something was chosen on the canvas or in the strip. Raises UserError."""
        what, file = (str(getattr(event, name, "")) for name in ("what", "file"))
        if what == "page":
            return self.look(data[self.shown], int(file) if file.isdecimal() and len(file) < 6 else 0)
        if what == "job":
            records.folder_of(file)
            return self.look(file, data[self.page]) | {self.note: ""}
        if what == "delete":
            return self._deleted(data, data[self.shown], file)
        path = records.picture_of(data[self.shown], file)
        if what == "start":
            return self.form.begin.show(str(path)) | {self.taken_note: message_html("It is the start picture now.")}
        return self._filled(path, list(data[self.form.uploads] or []))

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """A PNG was dropped: the form becomes what it was drawn from. Raises UserError."""
        path = safe.uploaded(data[self.dropped])
        return {self.dropped: None} | self._filled(path, list(data[self.form.uploads] or []))

    def _filled(self, path: Path, uploads: list[str]) -> dict[Any, Any]:
        updates, notes = self.form.fill(parameters.read(path), uploads)
        words = "\n".join([f"These are the settings of {path.name}.", *notes])
        return updates | {self.taken_note: message_html(words)}
