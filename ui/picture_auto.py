"""Captions from a model, on the page: they appear picture by picture, and what is done when it is stopped stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lowrank_diffusion.errors import UserError

from . import pictures, safe
from .caption_worker import Captioned, CaptionJob
from .engine import CancelledError, Engine
from .form import message_html
from .picture_set import counted
from .process import Waiting
from .toolkit import gr

if TYPE_CHECKING:
    from .train import TrainTab

MODEL = "Salesforce/blip-image-captioning-base"
LONGEST_PROMPT = 2000


class AutoCaptions:
    """The row that asks a model; made where it is to stand."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with gr.Row(elem_classes=["one-line"], equal_height=True):
            self.model = gr.Textbox(
                label="Model", show_label=False,
                container=False, max_lines=1, placeholder=f"Model: folder or hub id ({MODEL})",
                scale=4, min_width=160, elem_id="auto-model",
            )  # fmt: skip
            self.prompt = gr.Textbox(
                label="Prompt", show_label=False,
                container=False, max_lines=1, placeholder="What it is asked (empty: as suits it)",
                scale=3, min_width=140, elem_id="auto-prompt",
            )  # fmt: skip
            self.only_empty = gr.Checkbox(
                True, label="only empty ones", container=False, min_width=146, scale=0, elem_id="auto-only-empty"
            )
            self.start = gr.Button("Caption", size="sm", scale=0, min_width=80, elem_id="auto-start")
            self.stop = gr.Button("Stop", size="sm", scale=0, min_width=60, visible=False, elem_id="auto-stop")
        self.note = gr.HTML(elem_id="auto-note", apply_default_css=False)
        self.said = pictures.teller("picture-said")

    @property
    def kept(self) -> dict[str, Any]:
        """The fields whose values outlive the page."""
        return {"auto.model": self.model, "auto.prompt": self.prompt, "auto.only_empty": self.only_empty}

    def connect(self, grid: Any, tab: TrainTab) -> None:
        """Bind the events; call once, inside the Blocks."""
        self.grid, self.tab = grid, tab
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        inputs: set[Any] = {grid, *self.kept.values()}
        outputs = [self.note, self.said, self.start, self.stop, tab.before, tab.undo]
        self.start.click(self.run, inputs, outputs, concurrency_limit=None, **quiet)
        self.stop.click(self.cancel, None, self.note, **quiet)

    def run(self, data: dict[Any, Any], page: gr.Request) -> Iterator[dict[Any, Any]]:
        """Caption the pictures; the page puts each caption on its card as it comes."""
        before = pictures.items_of(data[self.grid])
        said: dict[str, str] = {}
        working = {self.start: gr.update(visible=False), self.stop: gr.update(visible=True)}
        ready = {self.start: gr.update(visible=True), self.stop: gr.update(visible=False)}
        about = {"mark": time.monotonic_ns(), "only_empty": bool(data[self.only_empty])}
        try:
            job = self._job(data, before)
            yield working | {self.note: message_html(f"Loading {job.model}.")}
            for update in self.engine.run(_name(page), job):
                if isinstance(update, Waiting):
                    yield {self.note: message_html("Waiting: another page's pictures are captioned first.")}
                if isinstance(update, Captioned):
                    said[str(update.path)] = update.text[: pictures.LONGEST_CAPTION]
                    words = f"{len(said)} of {counted(len(job.paths))} captioned."
                    yield {self.note: message_html(words), self.said: {"captions": dict(said)} | about}
            words, kind = f"{counted(len(said))} captioned.", "good"
        except CancelledError:
            words, kind = f"Stopped. {counted(len(said))} captioned; these captions stay.", "info"
        except UserError as error:
            words, kind = str(error).replace("--model", "Model") + (_kept(len(said)) if said else ""), "bad"
        empty = sum(not text for text in said.values())
        words += f" The model says nothing of {counted(empty)}." if empty else ""
        offer = self.tab.undoing(f"{counted(len(said))} captioned.", {self.grid: before}) if said else {}
        yield ready | {self.note: message_html(words, kind)} | offer

    def _job(self, data: dict[Any, Any], items: list[pictures.Item]) -> CaptionJob:
        """Raises UserError for what cannot be done."""
        model, prompt = str(data[self.model] or "").strip(), str(data[self.prompt] or "").strip()
        if not model:
            raise UserError(f"No model is given. Type the folder or hub id of one, such as {MODEL}.")
        if len(prompt) > LONGEST_PROMPT:
            raise UserError(f"The prompt has {len(prompt):,} characters; at most {LONGEST_PROMPT:,} are taken.")
        wanted = [item for item in items if not (data[self.only_empty] and item["caption"].strip())]
        if not wanted:
            raise UserError("There is no picture without a caption." if items else "There are no pictures yet.")
        return CaptionJob(model, tuple(safe.uploaded(item["path"]) for item in wanted), prompt)

    def cancel(self, page: gr.Request) -> dict[Any, Any]:
        """Stop was pressed."""
        self.engine.cancel(_name(page))
        return {self.note: message_html("Stopping after this picture.")}


def _name(page: gr.Request) -> str:
    return f"captions {page.session_hash}"


def _kept(count: int) -> str:
    return f" {counted(count)} captioned before; these captions stay."
