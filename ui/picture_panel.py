"""Pictures to learn from: dropped, captioned and checked, in the grid of :mod:`.pictures`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lowrank_diffusion.config import Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import data as pictures_data
from lowrank_diffusion.runs import Run

from . import pictures
from .form import message_html
from .toolkit import gr
from .train import TrainTab

EXAMPLE_PRESETS = {"style-3d-icons": "emoji-style", "subject-cat": "emoji-subject"}
"""The preset made for each example set."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their captions."""

    pairs: list[tuple[Path, str]]

    def problems(self, values: dict[str, Any]) -> list[Problem]:
        """What keeps a run with these settings from learning from them."""
        folder = values.get("data.instance")
        if folder and self.pairs:
            return [Problem("data.instance", "names a folder, and there are pictures above.", "Use one or the other.")]
        if not self.pairs and not folder:
            hint = "Drop some into the field above, load an example set, or name a folder."
            return [Problem("Pictures", "there are none.", hint)]
        try:
            found = pictures_data.scan(Path(folder), str(values.get("data.prompt") or "")) if folder else []
        except UserError as error:
            return [Problem("data.instance", str(error))]
        captions = [picture.caption for picture in found] or [caption for _, caption in self.pairs]
        if values.get("data.prompt") or all(captions):
            return []
        missing = sum(not caption for caption in captions)
        hint = "Write captions under the pictures, or one here for all."
        return [Problem("data.prompt", f"is empty and {missing} of {len(captions)} pictures have no caption.", hint)]

    def write(self, run: Run) -> dict[str, Any]:
        """Copy them into the run."""
        if not self.pairs:
            return {}
        return {"data.instance": str(pictures_data.write_set(run.path / "data" / "instance", self.pairs))}


def counted(number: int) -> str:
    """So many pictures, in words."""
    return "1 picture" if number == 1 else f"{number} pictures"


class PicturePanel:
    """The drop field, the example sets and the grid."""

    task: ClassVar[str] = "image"
    title: ClassVar[str] = "Pictures to learn from"
    first_preset: ClassVar[str] = "emoji-style"

    def place(self) -> None:
        """Make the components here."""
        with gr.Row(equal_height=True):
            self.drop = gr.File(
                label="Drop pictures here (and .txt captions of the same names)",
                file_count="multiple", height=108, elem_id="drop", elem_classes=["drop"], scale=3,
            )  # fmt: skip
            with gr.Column(scale=1, min_width=150, elem_classes=["stack"]):
                self.examples = {
                    folder.name: gr.Button(f"Example: {folder.name.replace('-', ' ')}", size="sm")
                    for folder in pictures.example_sets()
                }
                self.clear = gr.Button("Remove all", size="sm", elem_id="remove-all")
        self.grid = pictures.grid()
        self.note = gr.HTML(elem_id="picture-note", apply_default_css=False)
        with gr.Row(elem_classes=["one-line"], equal_height=True):
            self.caption = gr.Textbox(
                show_label=False, container=False, placeholder="One caption for all pictures", scale=4,
                elem_id="caption-all",
            )  # fmt: skip
            self.caption_all = gr.Button("Put on all", size="sm", scale=1, min_width=110, elem_id="put-on-all")

    @property
    def inputs(self) -> set[Any]:
        """The grid holds everything."""
        return {self.grid}

    def chosen(self, data: dict[Any, Any]) -> PictureSet:
        """The pictures in the grid. Raises RefusedError."""
        return PictureSet(pictures.chosen(data[self.grid]))

    def own(self, preset: dict[str, Any], data: dict[Any, Any] | None) -> dict[str, Any]:
        """The pictures are those in the grid, whatever folder a preset names."""
        return {"data.instance": ""}

    def connect(self, demo: gr.Blocks, tab: TrainTab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.drop.upload(
            self.take, {self.drop, self.grid}, [self.drop, self.grid, self.note],
            show_progress="minimal", show_progress_on=self.note, api_visibility="private",
        )  # fmt: skip
        self.grid.restore(self.restore, None, [self.grid, self.note], **quiet)
        for name, button in self.examples.items():
            button.click(self._example_taker(name, tab), None, [self.grid, self.note, tab.preset], **quiet)
        self.clear.click(lambda: ([], ""), None, [self.grid, self.note], **quiet)
        gr.on(
            [self.caption_all.click, self.caption.submit],
            self.put_on_all, {self.caption, self.grid}, [self.grid, self.note], **quiet,
        )  # fmt: skip

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Files were dropped."""
        before = pictures.items_of(data[self.grid])
        items, refused = pictures.add(data[self.drop] or [], before)
        added = len(items) - len(before)
        note = message_html(f"{added} added, {counted(len(items))} in the set." if items else "")
        if refused:
            note += message_html("Not taken:\n" + "\n".join(refused), "bad")
        return {self.drop: None, self.grid: items, self.note: note}

    def restore(self, event: gr.EventData) -> dict[Any, Any]:
        """The page was reloaded: its pictures and captions are still there."""
        items = pictures.restored(getattr(event, "kept", ""))
        note = message_html(f"{counted(len(items))} kept from before the page was reloaded.") if items else ""
        return {self.grid: items, self.note: note}

    def _example_taker(self, name: str, tab: TrainTab) -> Any:
        def take_example() -> dict[Any, Any]:
            preset = EXAMPLE_PRESETS.get(name)
            try:
                items = pictures.example(name)
            except UserError as error:
                return {self.note: message_html(str(error), "bad")}
            chosen = f" The preset is now {preset}, which is made for it." if preset else ""
            note = message_html(f"{len(items)} pictures of the example set {name}.{chosen}")
            return {self.grid: items, self.note: note} | ({tab.preset: preset} if preset else {})

        return take_example

    def put_on_all(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """One caption for every picture."""
        items = pictures.items_of(data[self.grid])
        caption = str(data[self.caption] or "").strip()
        if not items:
            return {self.note: message_html("There are no pictures yet to put a caption on.", "bad")}
        return {self.grid: [item | {"caption": caption} for item in items], self.note: ""}
