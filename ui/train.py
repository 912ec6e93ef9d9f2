"""The tab that trains, for every task: data in, settings, start; and the run beside them, live.

What a task learns from is another module's: :mod:`.picture_panel` and :mod:`.row_panel`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lowrank_diffusion import devices, paths, presets, runs, supervisor
from lowrank_diffusion.bases import ModelError
from lowrank_diffusion.config import Config, ConfigError, Problem, fields
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import source as image_source
from lowrank_diffusion.paths import runs_folder
from lowrank_diffusion.runs import Run
from lowrank_diffusion.text import source as text_source

from .form import MAIN, Form, message_html, prefix, problems_html
from .monitor import Monitor
from .toolkit import gr


class InputsError(UserError):
    """Everything a person must put right before the run can start (``problems``)."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class Data(Protocol):
    """What was put into a tab to learn from."""

    def problems(self, values: dict[str, Any]) -> list[Problem]:
        """What keeps a run with these settings from learning from it."""
        ...

    def write(self, run: Run) -> dict[str, Any]:
        """Copy it into the run; the settings that say where it is, none where there is nothing to copy."""
        ...


class Panel(Protocol):
    """The part of the tab above the settings: where the data comes from."""

    task: ClassVar[str]
    title: ClassVar[str]
    first_preset: ClassVar[str]
    """The preset whose settings the tab shows first."""

    def place(self) -> None:
        """Make the components here."""
        ...

    def connect(self, demo: gr.Blocks, tab: TrainTab) -> None:
        """Bind the events."""
        ...

    @property
    def inputs(self) -> set[Any]:
        """The components that :meth:`chosen` and :meth:`own` look at."""
        ...

    def chosen(self, data: dict[Any, Any]) -> Data:
        """What is in the panel. Raises UserError."""
        ...

    def own(self, preset: dict[str, Any], data: dict[Any, Any] | None) -> dict[str, Any]:
        """Settings that a preset has no say in with what is in the panel (None: nothing): it may name example data."""
        ...


def launch_run(name: str, values: dict[str, Any], data: Data) -> Run:
    """Check everything, make the run directory with its own copy of the data, and start it.

    Raises:
        InputsError: with every problem of settings, data, base and device.
        UserError: where the run directory cannot be made or the process not be started; nothing stays behind.
    """
    config, problems = _checked(values, data)
    if not name.strip():
        problems.append(Problem("Run name", "is empty.", "Give the run a name."))
    if problems or config is None:
        raise InputsError(problems)
    try:
        return _started(runs.create(config, name), config, data)
    except OSError as error:
        hint = "Free some space, or set LOWRANK_HOME to another disk."
        raise UserError(f"{runs_folder()}: the run cannot be written: {error.strerror}. {hint}") from None


def _started(run: Run, config: Config, data: Data) -> Run:
    try:
        if written := data.write(run):
            own = presets.with_absolute_paths(presets.build(overrides=config.dotted() | written))
            paths.write_text(run.path / "config.yaml", presets.to_yaml(own))
        supervisor.start(run)
    except (OSError, UserError):
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def _checked(values: dict[str, Any], data: Data) -> tuple[Config | None, list[Problem]]:
    """The config if the values make one, and every problem that can be found without starting."""
    problems = data.problems(values)
    try:
        config = presets.build(overrides=values)
    except ConfigError as error:
        return None, error.problems + problems
    problems += devices.problems(config)
    problems += base_problems(config)
    return config, problems


def base_problems(config: Config) -> list[Problem]:
    """What can be said against the base without loading it."""
    source = text_source if config.task == "text" else image_source
    try:
        source.resolve(config.base)
    except ModelError as error:
        return error.problems
    return []


class TrainTab:
    """The tab; made inside a ``gr.Blocks``. ``release`` frees the memory that a training is about to need."""

    def __init__(self, panel: Panel, release: Callable[[], None]) -> None:
        self.panel, self.release, self.task = panel, release, panel.task
        self.names = [preset.name for preset in presets.all_presets() if task_of(preset) == self.task]
        self.first = panel.first_preset if panel.first_preset in self.names else ""
        preset = presets.find_preset(self.first) if self.first else None
        self.first_about = preset.about if preset else ""
        self.form = Form(self._built(preset.values if preset else {}, None))
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=520):
                with gr.Column(elem_classes=["sheet"]):
                    gr.HTML(f"<h3>{panel.title}</h3>", apply_default_css=False, elem_classes=["title"])
                    panel.place()
                self._settings()
            with gr.Column(scale=6, min_width=420, elem_classes=["sheet"]):
                gr.HTML("<h3>Run</h3>", apply_default_css=False, elem_classes=["title"])
                self.monitor = Monitor(self.task, release)

    def _built(self, preset: dict[str, Any], data: dict[Any, Any] | None) -> Config:
        return presets.build(preset, {"task": self.task} | self.panel.own(preset, data))

    def _settings(self) -> None:
        ids = prefix(self.task)
        with gr.Column(elem_classes=["sheet"]):
            gr.HTML("<h3>Settings</h3>", apply_default_css=False, elem_classes=["title"])
            with gr.Row():
                self.preset = gr.Dropdown(
                    self.names, value=self.first or None, label="Preset", elem_id=f"{ids}preset", filterable=False
                )
                self.name = gr.Textbox(self.first, label="Run name", elem_id=f"{ids}run-name", max_lines=1)
            self.about = gr.HTML(message_html(self.first_about), elem_id=f"{ids}preset-about", apply_default_css=False)
            with gr.Row(elem_classes=["fields"]):
                self.form.place(*MAIN[self.task])
            with gr.Accordion("All other settings", open=False, elem_id=f"{ids}other-settings") as self.others:
                self.form.place_rest()
            self.problems = gr.HTML(elem_id=f"{ids}problems", apply_default_css=False)
            self.start = gr.Button("Start training", variant="primary", elem_id=f"{ids}start", elem_classes=["start"])

    def connect(self, demo: gr.Blocks) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        widgets = list(self.form.widgets.values())
        filled = [*widgets, self.about, self.name, self.problems]
        self.preset.change(self.apply_preset, {self.preset, *self.panel.inputs}, filled, **quiet)
        self.start.click(
            self.begin,
            {self.name, *self.panel.inputs, *widgets},
            [self.problems, self.others, *self.monitor.outputs],
            **quiet,
        )
        self.panel.connect(demo, self)
        self.monitor.connect(demo)

    def apply_preset(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Fill the widgets from a preset."""
        name = data[self.preset]
        if not name:
            return {self.problems: ""}
        try:
            preset = presets.find_preset(Path(name).name)
            config = self._built(preset.values, data)
        except ConfigError as error:
            return {self.problems: problems_html(error.problems, self.task)}
        about = message_html(preset.about)
        return self.form.fill(config) | {self.about: about, self.name: preset.name, self.problems: ""}

    def begin(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Start was pressed."""
        try:
            values = self.form.values(data)
            run = launch_run(str(data[self.name] or ""), values, self.panel.chosen(data))
            self.release()
        except (ConfigError, InputsError) as error:
            main = MAIN[self.task]
            folded = any(problem.key in fields() and problem.key not in main for problem in error.problems)
            opened = {self.others: gr.update(open=True)} if folded else {}
            return {self.problems: problems_html(error.problems, self.task)} | opened
        except UserError as error:
            return {self.problems: message_html(str(error), "bad")}
        return self.monitor.show(run.name) | {self.problems: ""}


def task_of(preset: presets.Preset) -> str:
    """What a preset trains."""
    return str(preset.values.get("task", "image"))
