"""The Train tab: pictures in, settings, start; and the run beside them, live."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lowrank_diffusion import devices, presets, runs, supervisor
from lowrank_diffusion.config import Config, ConfigError, Problem, fields
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import data as pictures_data
from lowrank_diffusion.image.source import ModelError, resolve
from lowrank_diffusion.paths import runs_folder
from lowrank_diffusion.runs import Run

from . import pictures
from .engine import Engine
from .form import MAIN, Form, message_html, problems_html
from .monitor import Monitor
from .toolkit import gr

DEFAULT_PRESET = "emoji-style"
EXAMPLE_PRESETS = {"style-3d-icons": "emoji-style", "subject-cat": "emoji-subject"}
"""The preset made for each example set."""

OWN_PICTURES = {"data.instance": ""}
"""A preset may name an example folder for the command line; here the pictures are those in the grid."""

Pairs = list[tuple[Path, str]]


class InputsError(UserError):
    """Everything a person must put right before the run can start (``problems``)."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def launch_run(name: str, values: dict[str, Any], pairs: Pairs) -> Run:
    """Check everything, make the run directory with its own copy of the pictures, and start it.

    Raises:
        InputsError: with every problem of settings, pictures, base and device.
        UserError: where the run directory cannot be made or the process not be started; nothing stays behind.
    """
    config, problems = _checked(values, pairs)
    if not name.strip():
        problems.append(Problem("Run name", "is empty.", "Give the run a name."))
    if problems or config is None:
        raise InputsError(problems)
    try:
        return _started(runs.create(config, name), config, pairs)
    except OSError as error:
        hint = "Free some space, or set LOWRANK_HOME to another disk."
        raise UserError(f"{runs_folder()}: the run cannot be written: {error.strerror}. {hint}") from None


def _started(run: Run, config: Config, pairs: Pairs) -> Run:
    try:
        if pairs:
            folder = pictures_data.write_set(run.path / "data" / "instance", pairs)
            own = presets.build(overrides=config.dotted() | {"data.instance": str(folder)})
            runs.write_text(run.path / "config.yaml", presets.to_yaml(own))
        supervisor.start(run)
    except (OSError, UserError):
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def _checked(values: dict[str, Any], pairs: Pairs) -> tuple[Config | None, list[Problem]]:
    """The config if the values make one, and every problem that can be found without starting."""
    problems = _picture_problems(values, pairs)
    try:
        config = presets.build(overrides=values)
    except ConfigError as error:
        return None, error.problems + problems
    problems += devices.problems(config)
    try:
        resolve(config.base)
    except ModelError as error:
        problems += error.problems
    return config, problems


def _picture_problems(values: dict[str, Any], pairs: Pairs) -> list[Problem]:
    folder = values.get("data.instance")
    if folder and pairs:
        return [Problem("data.instance", "names a folder, and there are pictures above.", "Use one or the other.")]
    if not pairs and not folder:
        hint = "Drop some into the field above, load an example set, or name a folder."
        return [Problem("Pictures", "there are none.", hint)]
    try:
        found = pictures_data.scan(Path(folder), str(values.get("data.prompt") or "")) if folder else []
    except UserError as error:
        return [Problem("data.instance", str(error))]
    captions = [picture.caption for picture in found] or [caption for _, caption in pairs]
    if not values.get("data.prompt") and not all(captions):
        missing = sum(not caption for caption in captions)
        hint = "Write captions under the pictures, or one here for all."
        return [Problem("data.prompt", f"is empty and {missing} of {len(captions)} pictures have no caption.", hint)]
    return []


def counted(number: int) -> str:
    """So many pictures, in words."""
    return "1 picture" if number == 1 else f"{number} pictures"


class TrainTab:
    """The tab; made inside a ``gr.Blocks``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        names = [preset.name for preset in presets.all_presets()]
        self.first = DEFAULT_PRESET if DEFAULT_PRESET in names else ""
        preset = presets.find_preset(self.first) if self.first else None
        self.first_about = preset.about if preset else ""
        self.form = Form(presets.build(preset.values if preset else None, OWN_PICTURES))
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=520):
                self._pictures()
                self._settings()
            with gr.Column(scale=6, min_width=420, elem_classes=["sheet"]):
                gr.HTML("<h3>Run</h3>", apply_default_css=False, elem_classes=["title"])
                self.monitor = Monitor(engine.release)

    def _pictures(self) -> None:
        with gr.Column(elem_classes=["sheet"]):
            gr.HTML("<h3>Pictures to learn from</h3>", apply_default_css=False, elem_classes=["title"])
            with gr.Row(equal_height=True):
                self.drop = gr.File(
                    label="Drop pictures here (and .txt captions of the same names)",
                    file_count="multiple", height=108, elem_id="drop", scale=3,
                )  # fmt: skip
                with gr.Column(scale=1, min_width=150, elem_classes=["stack"]):
                    self.examples = {
                        folder.name: gr.Button(f"Example: {folder.name.replace('-', ' ')}", size="sm")
                        for folder in pictures.example_sets()
                    }
                    self.clear = gr.Button("Remove all", size="sm", elem_id="remove-all")
            self.grid = pictures.grid()
            self.picture_note = gr.HTML(elem_id="picture-note", apply_default_css=False)
            with gr.Row(elem_classes=["one-line"], equal_height=True):
                self.caption = gr.Textbox(
                    show_label=False, container=False, placeholder="One caption for all pictures", scale=4,
                    elem_id="caption-all",
                )  # fmt: skip
                self.caption_all = gr.Button("Put on all", size="sm", scale=1, min_width=110, elem_id="put-on-all")

    def _settings(self) -> None:
        names = [preset.name for preset in presets.all_presets()]
        with gr.Column(elem_classes=["sheet"]):
            gr.HTML("<h3>Settings</h3>", apply_default_css=False, elem_classes=["title"])
            with gr.Row():
                self.preset = gr.Dropdown(
                    names, value=self.first or None, label="Preset", elem_id="preset", filterable=False
                )
                self.name = gr.Textbox(self.first, label="Run name", elem_id="run-name", max_lines=1)
            self.about = gr.HTML(message_html(self.first_about), elem_id="preset-about", apply_default_css=False)
            with gr.Row(elem_classes=["fields"]):
                self.form.place(*MAIN)
            with gr.Accordion("All other settings", open=False, elem_id="other-settings") as self.others:
                self.form.place_rest()
            self.problems = gr.HTML(elem_id="problems", apply_default_css=False)
            self.start = gr.Button("Start training", variant="primary", elem_id="start")

    def connect(self, demo: gr.Blocks) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.drop.upload(
            self.take, {self.drop, self.grid}, [self.drop, self.grid, self.picture_note],
            show_progress="minimal", show_progress_on=self.picture_note, api_visibility="private",
        )  # fmt: skip
        self.grid.restore(self.restore, None, [self.grid, self.picture_note], **quiet)
        for name, button in self.examples.items():
            button.click(self._example_taker(name), None, [self.grid, self.picture_note, self.preset], **quiet)
        self.clear.click(lambda: ([], ""), None, [self.grid, self.picture_note], **quiet)
        gr.on(
            [self.caption_all.click, self.caption.submit],
            self.put_on_all, {self.caption, self.grid}, [self.grid, self.picture_note], **quiet,
        )  # fmt: skip
        widgets = list(self.form.widgets.values())
        filled = [*widgets, self.about, self.name, self.problems]
        self.preset.change(self.apply_preset, self.preset, filled, **quiet)
        self.start.click(
            self.begin,
            {self.name, self.grid, *widgets},
            [self.problems, self.others, *self.monitor.outputs],
            **quiet,
        )
        self.monitor.connect(demo)

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Files were dropped."""
        before = pictures.items_of(data[self.grid])
        items, refused = pictures.add(data[self.drop] or [], before)
        added = len(items) - len(before)
        note = message_html(f"{added} added, {counted(len(items))} in the set." if items else "")
        if refused:
            note += message_html("Not taken:\n" + "\n".join(refused), "bad")
        return {self.drop: None, self.grid: items, self.picture_note: note}

    def restore(self, event: gr.EventData) -> dict[Any, Any]:
        """The page was reloaded: its pictures and captions are still there."""
        items = pictures.restored(getattr(event, "items", None))
        note = message_html(f"{counted(len(items))} kept from before the page was reloaded.") if items else ""
        return {self.grid: items, self.picture_note: note}

    def _example_taker(self, name: str) -> Any:
        def take_example() -> dict[Any, Any]:
            preset = EXAMPLE_PRESETS.get(name)
            try:
                items = pictures.example(name)
            except UserError as error:
                return {self.picture_note: message_html(str(error), "bad")}
            chosen = f" The preset is now {preset}, which is made for it." if preset else ""
            note = message_html(f"{len(items)} pictures of the example set {name}.{chosen}")
            return {self.grid: items, self.picture_note: note} | ({self.preset: preset} if preset else {})

        return take_example

    def put_on_all(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """One caption for every picture."""
        items = pictures.items_of(data[self.grid])
        caption = str(data[self.caption] or "").strip()
        if not items:
            return {self.picture_note: message_html("There are no pictures yet to put a caption on.", "bad")}
        return {self.grid: [item | {"caption": caption} for item in items], self.picture_note: ""}

    def apply_preset(self, name: str | None) -> dict[Any, Any]:
        """Fill the widgets from a preset."""
        if not name:
            return {self.problems: ""}
        try:
            preset = presets.find_preset(Path(name).name)
            config = presets.build(preset.values, OWN_PICTURES)
        except ConfigError as error:
            return {self.problems: problems_html(error.problems)}
        about = message_html(preset.about)
        return self.form.fill(config) | {self.about: about, self.name: preset.name, self.problems: ""}

    def begin(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Start was pressed."""
        try:
            values = self.form.values(data)
            run = launch_run(str(data[self.name] or ""), values, pictures.chosen(data[self.grid]))
            self.engine.release()  # the training gets the memory that drawing held
        except (ConfigError, InputsError) as error:
            folded = any(problem.key in fields() and problem.key not in MAIN for problem in error.problems)
            opened = {self.others: gr.update(open=True)} if folded else {}
            return {self.problems: problems_html(error.problems)} | opened
        except UserError as error:
            return {self.problems: message_html(str(error), "bad")}
        return self.monitor.show(run.name) | {self.problems: ""}
