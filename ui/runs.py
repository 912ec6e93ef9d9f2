"""The Runs tab: every run, what became of it, its files, and what can be done with it."""

from __future__ import annotations

import html
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lowrank_diffusion import runs, supervisor
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.files import Unreadable, read_part
from lowrank_diffusion.runs import Run, RunError

from . import live, safe, watching
from .curve import smoothed
from .form import message_html
from .monitor import RESUMABLE, RESUME_NOTE, STOP_NOTE
from .toolkit import gr, static_text

LOG_BYTES = 20_000
COLUMNS = ("Name", "State", "Step", "Loss", "Started", "Adapter", "Took")


def table_html(chosen: str | None) -> str:
    """All runs, newest first."""
    rows = "".join(_row(run, run.name == chosen) for run in runs.all_runs())
    if not rows:
        return '<div class="nothing">No runs yet. Start one in the Train or the Language tab.</div>'
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return f'<div class="table"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(run: Run, chosen: bool) -> str:
    try:
        cells = _cells(run)
    except Exception as error:  # whatever a stranger's folder holds, it costs its own line only
        words = f"cannot be shown: {type(error).__name__}"
        cells = [f"<b>{html.escape(run.title)}</b>", live.pill("unreadable"), "", "", "", html.escape(words), ""]
    body = "".join(f"<td>{cell}</td>" for cell in cells)
    mark = ' class="chosen" aria-selected="true"' if chosen else ""
    return f'<tr tabindex="0" data-name="{html.escape(run.name)}"{mark}>{body}</tr>'


def _cells(run: Run) -> list[str]:
    status = watching.status(run)
    loss = f"{smoothed(status.losses)[-1][1]:.4f}" if status.losses else ""
    took = live.duration(status.took) if status.started else ""
    step = f"{status.step}/{status.steps}" if status.steps else ""
    cells = [f"<b>{html.escape(run.title)}</b>", live.pill(status.state), html.escape(step), loss]
    return [*cells, live.created(run), html.escape(_kind(run)), took]


def _kind(run: Run) -> str:
    """What the run trains, in a word or two."""
    try:
        config = run.config()
    except UserError:
        return "unreadable config.yaml"
    return config.adapter.method.words(config.adapter) + (", flat" if config.flat.sigma else "")


def files_of(run: Run) -> list[str]:
    """Adapter files to download: the finished ones, else those of the newest checkpoint."""
    return [str(path) for path in _paths(run) if path.is_file()]


def peft_folders(run: Run) -> list[Path]:
    """The newest PEFT folders of a run: the native adapter, and for texts the same as a plain LoRA."""
    return [path for path in _paths(run) if path.is_dir()]


def _paths(run: Run) -> list[Path]:
    adapter = run.newest_adapter()
    return adapter.paths if adapter else []


def zipped_peft(run: Run) -> Path:
    """The PEFT folders in one zip. Raises RunError where there are none yet, UserError for a full disk."""
    folders = peft_folders(run)
    if not folders:
        raise RunError(f"{run.name} has no PEFT folder yet. Wait for its first checkpoint.")
    target = safe.downloads_folder() / run.name / f"{run.title}-peft.zip"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            whole = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
            for path in sorted(path for path in whole if path.resolve().is_relative_to(run.path.resolve())):
                packed.write(path, path.relative_to(folders[0].parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}. Free some space.") from None
    return target


def beginning(path: Path) -> str:
    """A text file as far as a page shows it."""
    try:
        return read_part(path, LOG_BYTES)
    except Unreadable as error:
        return f"{path.name} {error}"


def log_tail(run: Run) -> str:
    """The end of what the process printed."""
    try:
        return read_part(run.log_path, LOG_BYTES, end=True)
    except Unreadable:
        return ""


def delete(run: Run) -> None:
    """Delete a run's directory. Raises RunError while it is active."""
    if run.process() is not None:
        raise RunError(f"{run.title} is {run.status().state}. Stop it first; then it can be deleted.")
    shutil.rmtree(run.path)
    watching.forget(run)


class RunsTab:
    """The tab; made inside a ``gr.Blocks``."""

    def __init__(self, release: Callable[[], None]) -> None:
        self.release = release
        self.chosen = gr.State(None)
        self.displayed = gr.State(())
        self.timer = gr.Timer(2, active=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=520, elem_classes=["sheet"]):
                with gr.Row(elem_classes=["one-line"]):
                    gr.HTML("<h3>Runs</h3>", apply_default_css=False, elem_classes=["title"])
                    self.again = gr.Button("Refresh", size="sm", scale=0, min_width=90, elem_id="refresh-runs")
                self.table = gr.HTML(js_on_load=static_text("table.js"), elem_id="runs-table", apply_default_css=False)
            with gr.Column(scale=6, min_width=480, elem_classes=["sheet"]):
                self.head = gr.HTML(elem_id="runs-head", apply_default_css=False)
                with gr.Column(visible=False) as self.detail:
                    self._detail()
                self.note = gr.HTML(elem_id="runs-note", apply_default_css=False)

    def _detail(self) -> None:
        with gr.Row(elem_classes=["buttons"]):
            self.use = gr.Button("Try it", size="sm", variant="primary", elem_id="use-run", min_width=90)
            self.stop = gr.Button("Stop and save", size="sm", variant="stop", elem_id="stop-run", min_width=90)
            self.resume = gr.Button("Resume", size="sm", elem_id="resume-run", min_width=90)
            self.delete = gr.Button("Delete", size="sm", elem_id="delete-run", min_width=90)
        with gr.Row(visible=False, elem_classes=["buttons", "confirm"]) as self.confirm:
            gr.HTML("Delete this run with all its files?", apply_default_css=False)
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
        self.curve = gr.HTML(elem_id="runs-curve", apply_default_css=False)
        self.samples = gr.HTML(elem_id="runs-samples", apply_default_css=False)
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
            self.chosen, self.table, self.head, self.detail, self.confirm, self.stop, self.resume, self.use, self.zip,
            self.zipped, self.files, self.curve, self.samples, self.config, self.log, self.note,
        ]  # fmt: skip

    def connect(self, demo: gr.Blocks, tab: gr.Tab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        live_parts = [part for part in self.outputs if part not in (self.confirm, self.zipped, self.note, self.chosen)]
        self.timer.tick(self.follow, [self.chosen, self.displayed], [*live_parts, self.displayed], **quiet)
        gr.on([demo.load, tab.select, self.again.click], self.show, self.chosen, self.outputs, **quiet)
        self.table.pick(self.pick, None, self.outputs, **quiet)
        for button, act, words in (
            (self.stop, supervisor.stop, STOP_NOTE),
            (self.resume, self._go_on, RESUME_NOTE),
            (self.really, delete, "Deleted."),
        ):
            button.click(self._actor(act, words), self.chosen, self.outputs, **quiet)
        self.delete.click(lambda: gr.update(visible=True), None, self.confirm, **quiet)
        self.keep.click(lambda: gr.update(visible=False), None, self.confirm, **quiet)
        self.zip.click(self.pack, self.chosen, [self.zipped, self.note], show_progress_on=self.zip)

    def pick(self, event: gr.EventData) -> dict[Any, Any]:
        """A row was picked."""
        return self.show(str(getattr(event, "name", "")))

    def show(self, name: str | None, note: str = "") -> dict[Any, Any]:
        """The table, and everything about one run."""
        try:
            run = safe.run(name) if name else None
        except UserError as error:
            run, note = None, message_html(str(error), "bad")
        table = {self.table: table_html(run.name if run else None), self.note: note}
        hidden = {self.confirm: gr.update(visible=False), self.zipped: gr.update(visible=False)}
        if run is None:
            words = '<div class="nothing">Pick a run to see it.</div>'
            return table | hidden | {self.chosen: None, self.head: words, self.detail: gr.update(visible=False)}
        return table | hidden | {self.chosen: run.name} | self._details(run)

    def follow(self, name: str | None, displayed: tuple[str, ...]) -> dict[Any, Any]:
        """Two seconds have passed: what changed since this page last looked."""
        try:
            run = safe.run(name) if name else None
        except UserError:
            run = None
        now = (table_html(run.name if run else None), live.status_html(run, watching.status(run)) if run else "")
        if now == tuple(displayed):
            return {self.displayed: gr.skip()}
        return {self.table: now[0], self.displayed: now} | (
            self._details(run) if run and now[1:] != tuple(displayed)[1:] else {}
        )

    def _details(self, run: Run) -> dict[Any, Any]:
        status = watching.status(run)
        path, files = run.path / "config.yaml", files_of(run)
        return {
            self.head: live.status_html(run, status),
            self.detail: gr.update(visible=True),
            self.stop: gr.update(interactive=status.active and not run.requested("stop")),
            self.resume: gr.update(interactive=status.state in RESUMABLE and status.resumable),
            self.use: gr.update(interactive=run.newest_adapter() is not None),
            self.zip: gr.update(interactive=bool(peft_folders(run))),
            self.files: gr.update(value=files or None, visible=bool(files)),
            self.curve: live.curve_html(status),
            self.samples: live.samples_html(run, status),
            self.config: beginning(path),
            self.log: log_tail(run),
        }

    def _actor(self, act: Callable[[Run], None], words: str) -> Callable[[str | None], dict[Any, Any]]:
        def do(name: str | None) -> dict[Any, Any]:
            try:
                run = safe.run(name)
                act(run)
                watching.forget(run)
            except UserError as error:
                return self.show(name, message_html(str(error), "bad"))
            return self.show(name if run.path.exists() else None, message_html(words))

        return do

    def _go_on(self, run: Run) -> None:
        self.release()
        supervisor.start(run)

    def pack(self, name: str | None) -> dict[Any, Any]:
        """Make the zip and offer it."""
        try:
            path = zipped_peft(safe.run(name))
        except UserError as error:
            return {self.note: message_html(str(error), "bad")}
        return {self.zipped: gr.update(value=str(path), visible=True, label=f"Download {path.name}"), self.note: ""}
