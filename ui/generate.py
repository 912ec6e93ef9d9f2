"""The Generate tab: pictures from a base and adapters, side by side from the same seed."""

from __future__ import annotations

import html
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.request import facts

from . import drafts, draw_form, live, safe, watching
from .engine import CancelledError, Engine
from .form import message_html, problems_html
from .image_worker import Done, Job, Picture, Progress
from .process import Waiting
from .toolkit import gr

ROWS = 3
BUSY_NOTE = "A training is at work: drawing shares the machine with it, and both are slower for that time."


class GenerateTab:
    """The tab; made inside a ``gr.Blocks``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.uploads = gr.State([])
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=420, elem_classes=["sheet"]):
                self._inputs()
            with gr.Column(scale=7, min_width=480, elem_classes=["sheet"]):
                gr.HTML("<h3>Pictures</h3>", apply_default_css=False, elem_classes=["title"])
                self.progress = gr.HTML(elem_id="draw-progress", apply_default_css=False)
                self.gallery = gr.Gallery(
                    show_label=False, columns=4, height=640, object_fit="contain", elem_id="drawn",
                    buttons=["download", "fullscreen"], format="png", interactive=False,
                )  # fmt: skip
                self.facts = gr.HTML(elem_id="draw-settings", apply_default_css=False)

    def _inputs(self) -> None:
        self.prompt = gr.Textbox(label="Prompt", lines=2, elem_id="prompt", placeholder="What to draw")
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
        with gr.Row(elem_classes=["numbers"]):
            self.count = gr.Number(2, label="Pictures", elem_id="count")
            self.steps = gr.Number(20, label="Steps", elem_id="steps")
            self.guidance = gr.Number(5, label="Guidance", elem_id="guidance")
            self.width = gr.Textbox(label="Width (px)", placeholder="native", elem_id="width", max_lines=1)
            self.height = gr.Textbox(label="Height (px)", placeholder="native", elem_id="height", max_lines=1)
        with gr.Row(elem_classes=["seed-row"]):
            self.seed = gr.Number(0, label="Seed", elem_id="seed", scale=2)
            self.random = gr.Button("Random seed", size="sm", elem_id="random-seed", scale=1, min_width=110)
        self.compare = gr.Checkbox(
            True, label="Side by side: draw each seed with the base alone as well", elem_id="compare", container=False
        )
        with gr.Row(elem_classes=["buttons"]):
            self.draw = gr.Button("Draw", variant="primary", elem_id="draw", scale=3)
            self.cancel = gr.Button("Cancel", elem_id="cancel", scale=1, interactive=False)
        self.problems = gr.HTML(elem_id="draw-problems", apply_default_css=False)

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
        names = ("prompt", "negative", "base", "count", "steps", "guidance", "width", "height", "seed", "compare")
        rows = {f"adapter-{number}": choice for number, choice in enumerate(self.choices)}
        strengths = {f"strength-{number}": strength for number, (_, strength) in enumerate(self.adapters)}
        return {name: getattr(self, name) for name in names} | rows | strengths

    @property
    def changes(self) -> list[Any]:
        """The events after which they are written."""
        return [part.change for part in self.kept.values()]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return [*self.kept.values(), self.uploads]

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
        return updates | ({self.uploads: uploads} if uploads else {})

    def connect(self, demo: gr.Blocks, tab: gr.Tab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([demo.load, tab.select], self.refresh, self.uploads, self.choices, **quiet)
        tab.select(self.warm, None, None, **quiet)
        self.random.click(lambda: secrets.randbelow(2**32), None, self.seed, **quiet)
        for choice in self.choices:
            choice.input(suit, [choice, self.base], self.suited, **quiet)
        self.upload.upload(
            self.take,
            {self.upload, self.uploads, *self.choices},
            [self.uploads, self.upload_note, *self.choices],
            **quiet,
        )
        fields = {self.prompt, self.negative, self.base, self.count, self.steps, self.guidance, self.width}
        fields |= {self.height, self.seed, self.compare, *(part for row in self.adapters for part in row)}
        outputs = [self.progress, self.gallery, self.facts, self.problems, self.draw, self.cancel]
        gr.on([self.draw.click, self.prompt.submit], self.run, fields, outputs, **quiet)
        self.cancel.click(self.give_up, None, self.progress, **quiet)

    def refresh(self, uploads: list[str]) -> list[Any]:
        """Runs come and go: offer those there are."""
        options = draw_form.adapter_choices(uploads)
        return [gr.update(choices=options) for _ in self.choices]

    def warm(self) -> None:
        """The tab was opened: load what drawing needs while the prompt is written; a training has the machine first."""
        if not watching.active():
            self.engine.warm()

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

    def _answers(self, data: dict[Any, Any]) -> dict[str, Any]:
        names = ("prompt", "negative", "base", "count", "steps", "guidance", "width", "height", "seed", "compare")
        answers = {name: data[getattr(self, name)] for name in names}
        return answers | {"adapters": [(data[choice], data[strength]) for choice, strength in self.adapters]}

    def run(self, data: dict[Any, Any], page: gr.Request) -> Iterator[dict[Any, Any]]:
        """Draw was pressed. Closing the page cancels."""
        idle = {self.draw: gr.update(interactive=True), self.cancel: gr.update(interactive=False), self.progress: ""}
        try:
            request = draw_form.build_request(self._answers(data))
            folder = safe.pictures_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
            busy = {self.draw: gr.update(interactive=False), self.cancel: gr.update(interactive=True)}
            note = message_html(BUSY_NOTE) if watching.active() else ""
            yield busy | {self.problems: note, self.progress: bar(0, 0, "starting", 0)}
            began = time.monotonic()
            drawn: list[Picture] = []
            for update in self.engine.run(page.session_hash or "", Job(request, folder)):
                match update:
                    case Waiting():
                        yield {self.progress: bar(0, 0, "waiting for another page's pictures", 0)}
                    case Progress(done=done, total=total):
                        words = f"step {done} of {total}" if total else "loading the model"
                        began = began if done else time.monotonic()
                        left = (time.monotonic() - began) / done * (total - done) if done > 1 else 0
                        yield {self.progress: bar(done, total, words, left)}
                    case Picture():
                        drawn.append(update)
                        yield {self.gallery: self._gallery(drawn)}
                    case Done():
                        yield idle | {self.gallery: self._gallery(drawn), self.facts: facts_html(request, update)}
        except CancelledError as error:
            yield idle | {self.progress: message_html(str(error))}
        except draw_form.RequestError as error:
            yield idle | {self.problems: problems_html(error.problems)}
        except UserError as error:
            yield idle | {self.problems: message_html(str(error), "bad")}

    def _gallery(self, pictures: list[Picture]) -> gr.Gallery:
        captions = [
            (str(item.path), f"seed {item.seed} · {'adapted' if item.adapted else 'base'}") for item in pictures
        ]
        pairs = len({item.adapted for item in pictures}) == 2
        columns = 2 if pairs else min(4, max(2, len(pictures)))
        return gr.Gallery(value=captions, columns=columns, selected_index=None)

    def give_up(self, page: gr.Request) -> str:
        """Cancel was pressed."""
        self.engine.cancel(page.session_hash or "")
        return message_html("Cancelling after the current step.")


def suit(choice: str, base: str) -> list[Any]:
    """An adapter was chosen: its run's base and its samples' steps and guidance, and a note."""
    cfg = draw_form.run_settings(choice or "")
    return [gr.skip()] * 4 if cfg is None else as_in(cfg, base)


def as_in(cfg: Config, base: str) -> list[Any]:
    """What a run with these settings puts into the fields of ``GenerateTab.suited``; ``base`` is what stands there."""
    own, steps, guidance = cfg.base.path, cfg.sample.steps, cfg.sample.guidance
    note = f"As in its run: base {own}, {steps} steps, guidance {guidance:g}."
    if base not in ("", "embedded", own):
        note += f" The base was {base}."
    return [own, steps, guidance, message_html(note)]


def bar(done: int, total: int, words: str, left: float) -> str:
    """The progress bar; a moving one while the length is unknown."""
    share = done / total if total else 0.0
    rest = f" · {live.duration(left)} left" if left >= 1 else ""
    return (
        f'<div class="draw-bar"><div class="bar{"" if total else " busy"}" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{share * 100:.0f}"><i style="width:{share * 100:.1f}%"></i></div>'
        f"<span>{html.escape(words)}{rest}</span></div>"
    )


def facts_html(request: draw_form.DrawRequest, done: Done) -> str:
    """The exact settings of the pictures shown: one line for the eye, all of them below it."""
    pictures, took = done.pictures, live.duration(done.seconds)
    adapters = ", ".join(f"{Path(item.path).stem} × {item.strength:g}" for item in request.adapters) or "none"
    seeds = sorted({item.seed for item in pictures})
    seed = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    size = f"{request.width or 'native'} × {request.height or 'native'}"
    line = f"seed {seed} · {request.steps} steps · guidance {request.guidance:g} · {size} · adapters: {adapters}"
    full = [{"file": item.path.name, **facts(request, item.seed, item.adapted)} for item in pictures]
    text = html.escape(json.dumps(full, indent=2, ensure_ascii=False))
    return (
        f'<div class="facts"><b>{html.escape(request.prompt)}</b><br>{html.escape(line)} · {took}'
        f"<details><summary>All settings (each PNG holds its own as text metadata)</summary><pre>{text}</pre></details>"
        f"{f'<small>{html.escape(done.note)}</small><br>' if done.note else ''}"
        f"<small>Kept in <code>{html.escape(str(pictures[0].path.parent))}</code></small></div>"
    )
