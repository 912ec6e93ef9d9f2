"""Rows to learn from: a file dropped in, checked, and shown as the model will see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from lowrank_diffusion import preflight, presets
from lowrank_diffusion.config import Config, ConfigError, fields
from lowrank_diffusion.declare import fact
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run
from lowrank_diffusion.text import rows

from . import row_view, safe
from .engine import CancelledError, Engine
from .form import from_widget, message_html, problems_html
from .language_worker import Counting, Tokenise, Tokenised
from .process import Waiting
from .row_file import RowFile, example_files, is_example, name_of
from .toolkit import gr, static_text
from .train import TrainTab

PAGE = 5
"""Rows shown at a time."""
TOKEN_SETTINGS = tuple(key for key, field in fields("text").items() if fact(field, "tokens"))
"""The settings that decide which tokens the model sees."""
FORMATS = '<div class="nothing">Chat messages, prompt and completion, Alpaca fields, or plain text.</div>'
NOT_HELD_OUT = {"text.held_out": "", "text.answers": 0}
HELD_OUT_NOTE = "The example's held-out rows are not used with it; set Held out to keep some of these for validation."
BACK, NEXT = "‹ Back", "Next ›"


class RowPanel:
    """The drop field, the example, and the rows as the model will see them."""

    task: ClassVar[str] = "text"
    title: ClassVar[str] = "Rows to learn from"
    first_preset: ClassVar[str] = "llm-orders"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def place(self) -> None:
        """Make the components here."""
        with gr.Row(equal_height=True):
            self.drop = gr.File(
                label="Drop a .jsonl, .json or .txt file here",
                height=108, elem_id="text-drop", elem_classes=["drop"], scale=3,
            )  # fmt: skip
            with gr.Column(scale=1, min_width=150, elem_classes=["stack"]):
                self.examples = {
                    file: gr.Button(f"Example: {file.parent.name.replace('-', ' ')}", size="sm")
                    for file in example_files()
                }
                self.clear = gr.Button("Remove", size="sm", elem_id="text-remove")
        self.file = gr.HTML(
            "", html_template="<div></div>", js_on_load=static_text("kept.js"), elem_id="text-file",
            apply_default_css=False,
        )  # fmt: skip
        self.first = gr.State(0)
        self.note = gr.HTML(FORMATS, elem_id="text-note", apply_default_css=False)
        self.counts = gr.HTML(elem_id="text-counts", apply_default_css=False)
        with gr.Row(visible=False, elem_classes=["pager"]) as self.pager:
            self.back = gr.Button(BACK, size="sm", scale=0, min_width=80, elem_id="text-back")
            self.where = gr.HTML(elem_id="text-where", apply_default_css=False)
            self.on = gr.Button(NEXT, size="sm", scale=0, min_width=80, elem_id="text-next")
        self.view = gr.HTML(elem_id="text-rows", apply_default_css=False)

    @property
    def inputs(self) -> set[Any]:
        """The file."""
        return {self.file}

    def chosen(self, data: dict[Any, Any]) -> RowFile:
        """The file in the panel. Raises RefusedError."""
        return RowFile(safe.uploaded(data[self.file]) if data[self.file] else None)

    def own(self, preset: dict[str, Any], data: dict[Any, Any] | None) -> dict[str, Any]:
        """The rows are those of the panel, whatever file a preset names; its held-out rows belong to its own."""
        foreign = preset.get("text", {}).get("held_out") and not (data and is_example(data[self.file]))
        return {"data.instance": ""} | (NOT_HELD_OUT if foreign else {})

    @property
    def kept(self) -> dict[str, Any]:
        """The file."""
        return {"file": self.file}

    @property
    def changes(self) -> list[Any]:
        """There is another file."""
        return [self.file.input]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return [self.file, self.note, self.first, *self._view_parts]

    @property
    def _view_parts(self) -> list[Any]:
        return [self.counts, self.pager, self.where, self.view, self.back, self.on]

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """The file that was there, if it was not cleaned up since."""
        if "file" not in values:
            return {}
        try:
            path = safe.uploaded(str(values["file"])) if values["file"] else None
            return {self.file: str(path)} | self._plain(path) if path else self._blank()
        except UserError as error:
            return self._blank() | {self.note: message_html(safe.by_name(error, values["file"]), "bad")}

    def of_run(self, run: Run, config: Config) -> dict[str, Any]:
        """A run's own file is shown; one that it was pointed to stays in its setting."""
        path = Path(config.data.instance)
        return {"file": str(path), "data.instance": ""} if path.is_relative_to(run.path) else {"file": ""}

    def connect(self, demo: gr.Blocks, tab: TrainTab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.tab, self.widgets = tab, tab.form.widgets
        self.settings = {key: self.widgets[key] for key in TOKEN_SETTINGS}
        self.held_out = self.widgets["text.held_out"]
        again: dict[str, Any] = {
            "fn": self.look,
            "inputs": {self.file, self.first, *self.settings.values()},
            "outputs": self._view_parts,
            "concurrency_limit": None,
            **quiet,
        }
        reading: dict[str, Any] = quiet | {"show_progress": "minimal", "show_progress_on": self.note}
        everything = {*tab.kept.values()}
        changed = [*tab.outputs, tab.before, tab.undo, tab.problems]
        self.drop.upload(self.take, {self.drop, *everything}, [self.drop, *changed], **reading).then(**again)
        for file, button in self.examples.items():
            taker = self._example_taker(file)
            button.click(taker, everything, changed, **quiet).then(**again)
        self.clear.click(self.remove, everything, changed, **quiet)
        for button, step in ((self.back, -PAGE), (self.on, PAGE)):
            turning = button.click(lambda first, step=step: max(0, first + step), self.first, self.first, **quiet)
            turning.then(**again)
        changes = [change for part in self.settings.values() for change in _changes(part)]
        gr.on([*changes, tab.about.change, self.file.input], trigger_mode="always_last", **again)

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """A file was dropped."""
        try:
            path = safe.uploaded(data[self.drop])
            updates = self._plain(path)
        except UserError as error:
            still = f"\n{name_of(Path(data[self.file]))} stays." if data[self.file] else ""
            return {self.drop: None, self.note: message_html(safe.by_name(error, data[self.drop]) + still, "bad")}
        if is_example(data[self.held_out]):
            updates |= {self.widgets[key]: value for key, value in NOT_HELD_OUT.items()}
            updates[self.note] += message_html(HELD_OUT_NOTE)
        if data[self.file] and not is_example(data[self.file]):
            updates |= self.tab.undoing(f"{name_of(Path(data[self.file]))} was replaced.", data)
        return {self.drop: None, self.file: str(path)} | updates

    def remove(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Remove was pressed."""
        offer = self.tab.undoing(f"{name_of(Path(data[self.file]))} removed.", data) if data[self.file] else {}
        return self._blank() | offer

    def _blank(self) -> dict[Any, Any]:
        blank = {part: "" for part in (self.file, self.counts, self.where, self.view)}
        return blank | {self.note: FORMATS, self.first: 0, self.pager: gr.update(visible=False)}

    def _example_taker(self, file: Path) -> Any:
        def take_example(data: dict[Any, Any]) -> dict[Any, Any]:
            """An example's rows, and the settings of the preset that is made for them."""
            tab, name = self.tab, file.parent.name
            try:
                updates = {self.file: str(file)} | self._plain(file)
            except UserError as error:
                return {self.note: message_html(str(error), "bad")}
            if name not in tab.names():
                return updates
            changed = len(tab.changed(data))
            updates |= tab.fill(name, data | {self.file: str(file)}, replace=True)
            own = bool(data[self.file]) and not is_example(data[self.file])
            lost = [name_of(Path(data[self.file]))] * own + [f"{changed} of your values"] * bool(changed)
            return updates | (tab.undoing(f"The example replaced {' and '.join(lost)}.", data) if lost else {})

        return take_example

    def _plain(self, path: Path) -> dict[Any, Any]:
        """The first rows before a tokenizer has seen them, at once. Raises DataError."""
        all_rows = rows.read(path)
        words = f"{name_of(path)}: {len(all_rows):,} {'row' if len(all_rows) == 1 else 'rows'}."
        return {
            self.note: message_html(words), self.counts: "", self.first: 0,
            self.view: row_view.plain_html(all_rows[:PAGE], 0), **self._page(len(all_rows), 0),
        }  # fmt: skip

    def _page(self, total: int, first: int) -> dict[Any, Any]:
        last = min(first + PAGE, total)
        return {
            self.pager: gr.update(visible=total > PAGE),
            self.where: f'<span class="where">rows {first + 1} to {last} of {total:,}</span>',
            self.back: gr.update(value=BACK, interactive=first > 0),
            self.on: gr.update(value=NEXT, interactive=last < total),
        }

    def look(self, data: dict[Any, Any], page: gr.Request) -> Iterator[dict[Any, Any]]:
        """Show the rows as the model will see them with these settings."""
        if not data[self.file]:
            yield {self.counts: ""}
            return
        try:
            path = safe.uploaded(str(data[self.file]))
            config = self._config(data)
            job = Tokenise(path, config.base, config.text, int(data[self.first] or 0), PAGE)
            for update in self.engine.run(f"rows {page.session_hash}", job):
                match update:
                    case Waiting():
                        yield {self.counts: message_html("Waiting: the language process is at work for another view.")}
                    case Counting(done=done, total=total):
                        words = (
                            f"Counting tokens: row {done:,} of {total:,}."
                            if total
                            else "Loading the tokenizer. The first time, this takes half a minute."
                        )
                        yield {self.counts: message_html(words)}
                    case Tokenised():
                        yield self._tokenised(update, config, job.first)
        except CancelledError:
            return
        except ConfigError as error:
            yield {self.counts: problems_html(error.problems, self.task)}
        except UserError as error:
            yield {self.counts: message_html(safe.by_name(error, data[self.file]), "bad")}

    def _config(self, data: dict[Any, Any]) -> Config:
        """The settings the view depends on; the others may be wrong still. Raises ConfigError."""
        values = {key: from_widget(key, data[part]) for key, part in self.settings.items()}
        config = presets.build(overrides={"task": self.task} | values)
        if problems := preflight.base(config)[1]:
            raise ConfigError(problems)
        return config

    def _tokenised(self, update: Tokenised, config: Config, first: int) -> dict[Any, Any]:
        updates = {
            self.counts: row_view.counts_html(update.counts, config.text),
            self.view: row_view.tokens_html(update.rows, config.text),
        }
        return updates | self._page(update.counts.counted, first)


def _changes(part: Any) -> list[Any]:
    """When a person has changed a setting: texts and numbers not before they are whole."""
    return [part.blur, part.submit] if isinstance(part, gr.Textbox | gr.Number) else [part.input]
