"""The fields of the Generate tab: what to draw, with which adapters, from what, and what changes along the axes."""

from __future__ import annotations

import secrets
from typing import Any

from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import grid, samplers
from lowrank_diffusion.image.parameters import Parameters

from . import drafts, draw_form, safe
from .form import message_html
from .start_panel import StartPanel
from .toolkit import gr

ROWS = 3
SIMPLE = ("prompt", "negative", "base", "count", "steps", "guidance", "width", "height", "seed", "sampler", "compare")
"""The fields that are one of a request's each."""
AXES = {
    "": "nothing", "checkpoint": "checkpoints", "adapter": "adapters", "strength": "strength",
    "prompt": "whole prompts", "words": "words of the prompt", "seed": "seeds", "guidance": "guidance",
    "steps": "steps", "sampler": "samplers",
}  # fmt: skip
EXAMPLES = '0.5, 1, 1.5 · 0.2-1 x5 · 1-4 · all · "a cat, red", a dog'


class RequestForm:
    """Made inside a ``gr.Blocks``."""

    def __init__(self) -> None:
        self.uploads = gr.State([])
        self.prompt = gr.Textbox(label="Prompt", lines=2, elem_id="prompt", placeholder="What to draw")
        self.lines = gr.Checkbox(
            False, label="One prompt a line, drawn in turn", elem_id="prompt-lines", container=False
        )
        self.negative = gr.Textbox(label="Negative prompt", lines=1, elem_id="negative", placeholder="What not to draw")
        self.base = gr.Textbox(
            "embedded", label="Base model", elem_id="base", max_lines=1,
            info="embedded, a diffusers folder, one .safetensors file, or a hub id (owner/name)",
        )  # fmt: skip
        self.adapters: list[tuple[gr.Dropdown, gr.Slider]] = []
        for number in range(1, ROWS + 1):
            with gr.Row(elem_classes=["adapter-row"]):
                choice = gr.Dropdown(
                    [("none", "")], value="", label=f"Adapter {number}", allow_custom_value=True, scale=3,
                    elem_id=f"adapter-{number}",
                )  # fmt: skip
                strength = gr.Slider(-1, 2, 1, step=0.05, label="Strength", scale=2, elem_id=f"strength-{number}")
                self.adapters.append((choice, strength))
        self.upload = gr.UploadButton("Add an adapter file (.safetensors)", size="sm", elem_id="adapter-file")
        self.upload_note = gr.HTML(elem_id="upload-note", apply_default_css=False)
        self._numbers()
        self.begin = StartPanel()
        with gr.Accordion("Grid: the same with things changed", open=False, elem_id="grid-panel") as self.grid_panel:
            self._axes()

    def _numbers(self) -> None:
        with gr.Row(elem_classes=["numbers"]):
            self.count = gr.Number(2, label="Pictures", elem_id="count")
            self.steps = gr.Number(20, label="Steps", elem_id="steps")
            self.guidance = gr.Number(5, label="Guidance", elem_id="guidance")
            native = draw_form.native("")
            self.width = gr.Textbox(label="Width (px)", placeholder=native, elem_id="width", max_lines=1)
            self.height = gr.Textbox(label="Height (px)", placeholder=native, elem_id="height", max_lines=1)
        with gr.Row(elem_classes=["seed-row"]):
            self.sampler = gr.Dropdown(
                [draw_form.OWN_SAMPLER, *samplers.SAMPLERS], value=draw_form.OWN_SAMPLER, label="Sampler",
                elem_id="sampler", scale=2, min_width=120,
            )  # fmt: skip
            self.seed = gr.Number(0, label="Seed", elem_id="seed", scale=2, min_width=90)
            self.random = gr.Button("Random seed", size="sm", elem_id="random-seed", scale=1, min_width=110)
        self.compare = gr.Checkbox(
            True, label="Side by side: draw each seed with the base alone as well", elem_id="compare", container=False
        )

    def _axes(self) -> None:
        self.axes: list[tuple[gr.Dropdown, gr.Textbox]] = []
        choices = [(label, kind) for kind, label in AXES.items()]
        for number in range(1, grid.MOST_AXES + 1):
            with gr.Row(elem_classes=["adapter-row"]):
                kind = gr.Dropdown(choices, value="", label=f"Axis {number}", scale=2, elem_id=f"axis-{number}")
                values = gr.Textbox(
                    label="Values", placeholder=EXAMPLES, scale=3, max_lines=3, elem_id=f"values-{number}"
                )  # fmt: skip
                self.axes.append((kind, values))
        self.draw_grid = gr.Button("Draw the grid", elem_id="draw-grid", size="sm")

    @property
    def choices(self) -> list[gr.Dropdown]:
        """The adapter selectors."""
        return [choice for choice, _ in self.adapters]

    @property
    def suited(self) -> list[Any]:
        """What ``suit`` fills in."""
        return [self.base, self.steps, self.guidance, self.upload_note]

    @property
    def kept(self) -> dict[str, Any]:
        """The fields that outlive the page, by name."""
        rows = {f"adapter-{number}": choice for number, choice in enumerate(self.choices)}
        rows |= {f"strength-{number}": strength for number, (_, strength) in enumerate(self.adapters)}
        rows |= {f"axis-{number}": kind for number, (kind, _) in enumerate(self.axes)}
        rows |= {f"values-{number}": values for number, (_, values) in enumerate(self.axes)}
        return {name: getattr(self, name) for name in (*SIMPLE, "lines")} | rows | self.begin.kept

    @property
    def changes(self) -> list[Any]:
        """The events after which they are written."""
        return [
            part.input if part in (self.begin.start, self.begin.mask) else part.change for part in self.kept.values()
        ]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` and :meth:`fill` may change."""
        return [*dict.fromkeys([*self.kept.values(), *self.begin.outputs]), self.grid_panel, self.uploads]

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Show what was kept of an earlier page; of adapters those that are still there."""
        updates = drafts.fitting(self.kept, values)
        uploads = draw_form.still_there([updates.get(choice, "") for choice in self.choices])
        options = draw_form.adapter_choices(uploads)
        known = [value for _, value in options]
        for choice in self.choices:
            if choice in updates:
                value = updates[choice] if updates[choice] in known else ""
                updates[choice] = gr.update(choices=options, value=value)
        for part in (self.begin.start, self.begin.mask):
            updates.pop(part, None)
        if any(updates.get(kind) for kind, _ in self.axes):
            updates[self.grid_panel] = gr.update(open=True)
        return updates | self.begin.restore(values) | ({self.uploads: uploads} if uploads else {})

    def connect(self, quiet: dict[str, Any]) -> None:
        """Bind the events."""
        self.begin.connect(quiet)
        self.random.click(lambda: secrets.randbelow(2**32), None, self.seed, **quiet)
        for choice in self.choices:
            choice.input(suit, [choice, self.base], self.suited, **quiet)
        gr.on([self.base.change], sized, self.base, [self.width, self.height], trigger_mode="always_last", **quiet)
        self.upload.upload(
            self.take,
            {self.upload, self.uploads, *self.choices},
            [self.uploads, self.upload_note, *self.choices],
            **quiet,
        )

    @property
    def inputs(self) -> set[Any]:
        """What :meth:`answers` reads."""
        return set(self.kept.values())

    def answers(self, data: dict[Any, Any]) -> dict[str, Any]:
        """The fields by name, for ``draw_form.build_request``."""
        answers = {name: data[getattr(self, name)] for name in (*SIMPLE, "lines")}
        answers |= {name: data[part] for name, part in self.begin.kept.items()}
        return answers | {"adapters": [(data[choice], data[strength]) for choice, strength in self.adapters]}

    def axes_of(self, data: dict[Any, Any]) -> list[tuple[str, str]]:
        """The axes that were chosen, with their values."""
        return [(data[kind], str(data[values] or "")) for kind, values in self.axes if data[kind]]

    def refresh(self, uploads: list[str]) -> list[Any]:
        """Runs come and go: offer those there are."""
        options = draw_form.adapter_choices(uploads)
        return [gr.update(choices=options) for _ in self.choices]

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """An adapter file was uploaded: check it and put it into the first free row."""
        uploads = list(data[self.uploads] or [])
        try:
            path = safe.uploaded(data[self.upload])
            about = draw_form.describe_adapter(path)
        except UserError as error:
            return {self.upload_note: message_html(str(error), "bad")}
        uploads.append(str(path))
        options = draw_form.adapter_choices(uploads)
        updates: dict[Any, Any] = {choice: gr.update(choices=options) for choice in self.choices}
        free = next((choice for choice in self.choices if not data[choice]), None)
        if free is not None:
            updates[free] = gr.update(choices=options, value=f"file:{path}")
        return updates | {self.uploads: uploads, self.upload_note: message_html(about)}

    def fill(self, read: Parameters, uploads: list[str]) -> tuple[dict[Any, Any], list[str]]:
        """What a handler returns to show what a picture was drawn from, and what could not be taken over."""
        notes, values = list(read.notes), dict(read.values)
        updates: dict[Any, Any] = {self.count: 1, self.lines: False, self.compare: False}
        updates |= {self.negative: "", self.width: "", self.height: "", self.sampler: draw_form.OWN_SAMPLER}
        files = {name: values.pop(name, "") for name in ("start", "mask")}
        for name, value in values.items():
            part = self.begin.change if name == "change" else getattr(self, name)
            updates[part] = (value or draw_form.OWN_SAMPLER) if name == "sampler" else value
        updates |= {part: str(updates[part]) for part in (self.width, self.height)}
        updates |= self._started(files, notes)
        options, free = draw_form.adapter_choices(uploads), list(self.adapters)
        updates |= {choice: gr.update(choices=options, value="") for choice in self.choices}
        for adapter in read.adapters:
            value = draw_form.choice_of(adapter, uploads)
            if not value or not free or not -1 <= adapter.strength <= 2:
                why = "is not on this machine" if not value else "does not fit: three adapters of -1 to 2 do"
                notes.append(f"The adapter {adapter.path.rpartition('/')[2]} × {adapter.strength:g} {why}.")
                continue
            choice, strength = free.pop(0)
            updates[choice] = gr.update(choices=options, value=value)
            updates[strength] = adapter.strength
        return updates, notes

    def _started(self, files: dict[str, str], notes: list[str]) -> dict[Any, Any]:
        if not files["start"]:
            return self.begin.nothing()
        try:
            return self.begin.show(files["start"], files["mask"])
        except UserError:
            notes.append("Its start picture or its mask is not here any more: drop them again.")
            return self.begin.nothing()


def sized(base: str) -> list[Any]:
    """The base is another one: its own size stands in the empty fields."""
    native = draw_form.native(str(base or ""))
    return [gr.update(placeholder=native)] * 2


def suit(choice: str, base: str) -> list[Any]:
    """An adapter was chosen: its run's base and its samples' steps and guidance, and a note."""
    cfg = draw_form.run_settings(choice or "")
    return [gr.skip()] * 4 if cfg is None else as_in(cfg, base)


def as_in(cfg: Config, base: str) -> list[Any]:
    """What a run with these settings puts into the fields of ``RequestForm.suited``; ``base`` is what stands there."""
    own, steps, guidance = cfg.base.path, cfg.sample.steps, cfg.sample.guidance
    note = f"As in its run: base {own}, {steps} steps, guidance {guidance:g}."
    if base not in ("", "embedded", own):
        note += f" The base was {base}."
    return [own, steps, guidance, message_html(note)]
