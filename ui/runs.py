"""The Runs tab: every run, what became of it, its files, and what can be done with it."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lowrank_diffusion import about, files, repeat, run_queue
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run, Status

from . import curve, live, pace, plot, run_compare, run_folder, run_table, safe, watching
from .form import message_html
from .measuring import Measuring
from .run_table import AT_FIRST, View
from .steer import Steering
from .toolkit import gr, static_text
from .understand import Understand, beside_each_other


class RunsTab:
    """The tab; made inside a ``gr.Blocks``."""

    def __init__(self, release: Callable[[], None], measuring: Measuring) -> None:
        self.release, self.measuring = release, measuring
        self.chosen = gr.State(None)
        self.displayed = gr.State(())
        self.view = gr.State(View())
        self.timer = gr.Timer(pace.AT_WORK, active=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=520, elem_classes=["sheet"]):
                with gr.Row(elem_classes=["one-line"]):
                    gr.HTML("<h2>Runs</h2>", apply_default_css=False, elem_classes=["title"])
                    self.words = gr.Textbox(
                        show_label=False, container=False, placeholder="Filter: name, tag, state, adapter",
                        elem_id="runs-filter", max_lines=1, max_length=200, scale=3,
                    )  # fmt: skip
                    self.again = gr.Button("Refresh", size="sm", scale=0, min_width=90, elem_id="refresh-runs")
                self.table = gr.HTML(js_on_load=static_text("table.js"), elem_id="runs-table", apply_default_css=False)
                with gr.Column(visible=False, elem_id="comparison") as self.comparison:
                    gr.HTML("<h2>Compared</h2>", apply_default_css=False, elem_classes=["title"])
                    self.curves = curve.chart("compare-curve")
                    self.compared = gr.HTML(elem_id="compared", apply_default_css=False)
                    self.flatness = plot.component("compare-flatness")
            with gr.Column(scale=6, min_width=480, elem_classes=["sheet"]):
                self.head = gr.HTML(elem_id="runs-head", apply_default_css=False)
                with gr.Column(visible=False) as self.detail:
                    self._detail()
                self.note = gr.HTML(elem_id="runs-note", apply_default_css=False)

    def _detail(self) -> None:
        with gr.Row(elem_classes=["buttons"]):
            self.use = gr.Button("Try it", size="sm", variant="primary", elem_id="use-run", min_width=90)
            self.once_more = gr.Button("Train again…", size="sm", elem_id="again-run", min_width=90)
            self.delete = gr.Button("Delete", size="sm", elem_id="delete-run", min_width=90)
        with gr.Row(elem_classes=["one-line"], visible=False) as self.longer_row:
            self.longer_steps = gr.Number(
                200, show_label=False, container=False, precision=0, minimum=1, elem_id="longer-steps", scale=1
            )
            self.longer = gr.Button("Train so many steps more", size="sm", elem_id="longer-run", scale=3)
        self.steering = Steering("one-", self.release)
        with gr.Row(visible=False, elem_classes=["buttons", "confirm"]) as self.confirm:
            self.question = gr.HTML(apply_default_css=False)
            self.really = gr.Button("Delete for good", size="sm", variant="stop", elem_id="delete-really")
            self.keep = gr.Button("Keep it", size="sm", elem_id="delete-keep")
        self.files = gr.File(
            label="Adapter files, named after who reads them (A1111 and kohya: as Forge)",
            file_count="multiple",
            interactive=False,
            elem_id="run-files",
        )
        with gr.Row(elem_classes=["buttons"]):
            self.zip = gr.Button("Prepare the PEFT folders as a zip", size="sm", elem_id="zip-run")
            self.zipped = gr.DownloadButton("Download zip", size="sm", visible=False, elem_id="zip-download")
        self.curve = curve.chart("runs-curve")
        self.samples = gr.HTML(elem_id="runs-samples", apply_default_css=False)
        self.understand = Understand(self.measuring)
        with gr.Accordion("Name, tags and notes", open=False, elem_id="run-about"):
            self.title = gr.Textbox(label="Name", max_lines=1, elem_id="run-title", info="Its files keep their names.")
            self.tags = gr.Textbox(label="Tags, with commas between them", max_lines=1, elem_id="run-tags")
            self.notes = gr.Textbox(label="Notes", lines=4, elem_id="run-notes")
            self.say = gr.Button("Keep", size="sm", elem_id="run-say")
        with gr.Accordion("Settings (config.yaml)", open=False):
            self.config = gr.Textbox(show_label=False, lines=12, max_lines=24, buttons=["copy"], elem_classes=["mono"])
        with gr.Accordion("Log (its end)", open=False):
            self.log = gr.Textbox(
                show_label=False, lines=12, max_lines=24, buttons=["copy"], elem_classes=["mono"], autoscroll=True
            )

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`show` may change."""
        return [
            self.chosen, self.table, self.head, self.detail, self.confirm, self.question, self.use, self.zip,
            self.zipped, self.files, self.curve, self.samples, self.config, self.log, self.note, self.longer_row,
            self.title, self.tags, self.notes, *self.steering.outputs, *self.understand.changing,
            *self.understand.fixed, self.timer,
        ]  # fmt: skip

    def connect(self, demo: gr.Blocks, tab: gr.Tab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        looked: set[Any] = {self.chosen, self.view}
        typed = (self.title, self.tags, self.notes)
        fixed = (
            self.confirm,
            self.question,
            self.zipped,
            self.note,
            self.chosen,
            self.steering.note,
            *typed,
            *self.understand.fixed,
        )
        live_parts = [part for part in self.outputs if part not in fixed]
        seen: set[Any] = {*looked, self.displayed}
        self.timer.tick(self.follow, seen, [*live_parts, self.displayed], **quiet)
        gr.on([demo.load, tab.select, self.again.click], self.show_again, looked, self.outputs, **quiet)
        self.table.pick(self.pick, {self.view}, self.outputs, **quiet)
        viewed = [self.view, self.table, self.comparison, self.curves, self.compared, self.flatness]
        self.table.sorted(self.sort, looked, viewed, **quiet)
        self.table.ticked(self.tick, looked, viewed, trigger_mode="always_last", **quiet)
        self.words.change(self.filter, {*looked, self.words}, viewed, trigger_mode="always_last", **quiet)
        self.understand.connect(self.chosen, self.timer)
        self.steering.connect(self.chosen, self.show_one, self.outputs)
        self.really.click(self.delete_it, looked, self.outputs, **quiet)
        self.delete.click(self.ask, self.chosen, [self.confirm, self.question], **quiet)
        self.keep.click(lambda: gr.update(visible=False), None, self.confirm, **quiet)
        self.zip.click(self.pack, self.chosen, [self.zipped, self.note], show_progress_on=self.zip)
        self.say.click(self.keep_about, {*looked, *typed}, self.outputs, **quiet)
        self.longer.click(self.train_longer, {*looked, self.longer_steps}, self.outputs, **quiet)

    # the table

    def sort(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A column's name was pressed."""
        return self._viewed(data, data[self.view].sorted_by(str(getattr(event, "name", ""))))

    def filter(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Words were typed."""
        return self._viewed(data, replace(data[self.view], words=str(data[self.words] or "")))

    def tick(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """Rows were ticked or unticked; those that the filter hides stay as they were."""
        shown, ticked = (names_of(getattr(event, name, "")) for name in ("shown", "ticked"))
        hidden = [name for name in data[self.view].ticked if name not in shown]
        return self._viewed(data, replace(data[self.view], ticked=(*hidden, *ticked)))

    def _viewed(self, data: dict[Any, Any], view: View) -> dict[Any, Any]:
        updates: dict[Any, Any] = {self.view: view, self.table: run_table.html_of(data[self.chosen], view)}
        chosen = run_compare.chosen(view.ticked)
        if len(chosen) < 2:
            return updates | {self.comparison: gr.update(visible=False)}
        left_out = max(0, len(view.ticked) - len(chosen))
        updates |= {self.curves: run_compare.chart_of(chosen), self.compared: run_compare.html_of(chosen, left_out)}
        return updates | {self.flatness: beside_each_other(chosen), self.comparison: gr.update(visible=True)}

    # one run

    def pick(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A row was picked."""
        return self.show(str(getattr(event, "name", "")), view=data[self.view])

    def show_again(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The tab was opened, or is to be as it is now."""
        return self.show(data[self.chosen], view=data[self.view])

    def show(self, name: str | None, note: str = "", view: View = AT_FIRST) -> dict[Any, Any]:
        """The table, and everything about one run."""
        try:
            run = safe.run(name) if name else None
        except UserError as error:
            run, note = None, message_html(str(error), "bad")
        table = {self.table: run_table.html_of(run.name if run else None, view), self.note: note}
        hidden = {self.confirm: gr.update(visible=False), self.zipped: gr.update(visible=False)}
        if run is None:
            words = '<div class="nothing">Pick a run to see it.</div>'
            return table | hidden | {self.chosen: None, self.head: words, self.detail: gr.update(visible=False)}
        said = run.about
        typed = {self.title: run.title, self.tags: ", ".join(said.tags), self.notes: said.notes}
        typed |= self.understand.picked(run)
        return table | hidden | typed | {self.chosen: run.name, self.steering.note: ""} | self._details(run)

    def show_one(self, name: str | None) -> dict[Any, Any]:
        """Everything about one run; the table follows by itself."""
        return self._details(safe.run(name))

    def follow(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """It is time: what changed since this page last looked."""
        name, displayed, view = data[self.chosen], tuple(data[self.displayed]), data[self.view]
        try:
            run = safe.run(name) if name else None
        except UserError:
            run = None
        status = watching.status(run) if run else Status()
        table = run_table.html_of(run.name if run else None, view)
        head = live.status_html(run, status) if run else ""
        next_look = pace.of(status, run is not None and self.understand.busy(run))
        now = (table, head, tuple(Steering.possible(run, status).values()), next_look)
        if now == displayed:
            return {self.displayed: gr.skip()}
        return {self.table: table, self.displayed: now, self.timer: gr.Timer(next_look)} | (
            self._details(run) if run and now[1:] != displayed[1:] else {}
        )

    def _details(self, run: Run) -> dict[Any, Any]:
        status = watching.status(run)
        files = run_folder.files_of(run)
        return (
            self.steering.updates(run, status)
            | self.understand.updates(run)
            | {
                self.timer: gr.Timer(pace.of(status, self.understand.busy(run))),
                self.head: live.status_html(run, status),
                self.detail: gr.update(visible=True),
                self.use: gr.update(interactive=run.newest_adapter() is not None),
                self.longer_row: gr.update(visible=bool(run.checkpoints) and not status.active),
                self.zip: gr.update(interactive=bool(run_folder.peft_folders(run))),
                self.files: gr.update(value=files or None, visible=bool(files)),
                self.curve: curve.of_run(run.title, status),
                self.samples: live.samples_html(run, status),
                self.config: run_folder.beginning(run.path / "config.yaml"),
                self.log: run_folder.log_tail(run),
            }
        )

    def keep_about(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Name, tags and notes were typed."""
        name, view = data[self.chosen], data[self.view]
        try:
            run = safe.run(name)
            title = str(data[self.title] or "").strip()
            tags = str(data[self.tags] or "").split(",")
            said = about.checked("" if title == run.stem else title, str(data[self.notes] or ""), tags)
            about.write(run.path, said)
        except UserError as error:
            return {self.note: message_html(str(error), "bad")}
        return self.show(name, message_html("Kept."), view)

    def train_longer(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """A new run from this one's newest checkpoint."""
        view = data[self.view]
        try:
            made = repeat.longer(safe.run(data[self.chosen]), int(data[self.longer_steps] or 0))
            self.release()
            started = run_queue.submit(made)
        except UserError as error:
            return {self.note: message_html(str(error), "bad")}
        words = "is started" if started else "is in the queue"
        return self.show(
            made.name, message_html(f"{made.title} begins with what this run has learnt, and {words}."), view
        )

    def ask(self, name: str | None) -> list[Any]:
        """Delete was pressed: which run, and how much of it."""
        run = safe.run(name)
        words = f"Delete {run.title} with all its files ({files.megabytes(run.disk_bytes())})?"
        return [gr.update(visible=True), html.escape(words)]

    def delete_it(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """It is meant."""
        name, view = data[self.chosen], data[self.view]
        try:
            run = safe.run(name)
            run_queue.delete(run)
            watching.forget(run)
        except UserError as error:
            return self.show(name, message_html(str(error), "bad"), view)
        return self.show(None, message_html(f"{run.title} is deleted."), view)

    def pack(self, name: str | None) -> dict[Any, Any]:
        """Make the zip and offer it."""
        try:
            path = run_folder.zipped_peft(safe.run(name))
        except UserError as error:
            return {self.note: message_html(str(error), "bad")}
        return {self.zipped: gr.update(value=str(path), visible=True, label=f"Download {path.name}"), self.note: ""}


def names_of(text: Any) -> list[str]:
    """The names that a page sent; none where it sent something else."""
    try:
        names = json.loads(str(text)[:1_000_000])
    except (ValueError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
