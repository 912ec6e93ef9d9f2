"""Pictures to learn from: dropped, captioned and checked, in the grid of :mod:`.pictures`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lowrank_diffusion import blanks, preflight, presets
from lowrank_diffusion.config import Config, Problem
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
            in_folder = (
                pictures_data.scan(Path(presets.located(str(folder)) or ""), str(values.get("data.prompt") or ""))
                if folder
                else []
            )
        except UserError as error:
            return [Problem("data.instance", str(error))]
        captions = [picture.caption for picture in in_folder] or [caption for _, caption in self.pairs]
        if values.get("data.prompt") or all(captions):
            return []
        missing = sum(not caption for caption in captions)
        hint = "Write captions under the pictures, or one here for all."
        return [Problem("data.prompt", f"is empty and {missing} of {len(captions)} pictures have no caption.", hint)]

    def summary(self, config: Config) -> tuple[str, list[str]]:
        """What is learnt, in a line, and notes on what is not learnt as it is. Raises UserError where it cannot be."""
        if not self.pairs:
            return "", preflight.notes(config) if config.data.instance else []
        prompt = " ".join(config.data.prompt.split())
        given = [pictures_data.Picture(path, text or prompt, *pictures.size(path)) for path, text in self.pairs]
        notes = preflight.notes(config, pictures_data.Survey(given, []))
        return captioned([text for _, text in self.pairs], prompt), notes

    def count(self, config: Config) -> int:
        """How many pictures an epoch has."""
        if self.pairs:
            return len(self.pairs) - config.validation.holdout
        pictures = pictures_data.survey(Path(config.data.instance), config.data.prompt).pictures
        return sum(picture.repeats for picture in pictures) - config.validation.holdout

    def write(self, run: Run) -> dict[str, Any]:
        """Copy them into the run."""
        if not self.pairs:
            return {}
        return {"data.instance": str(pictures_data.write_set(run.path / "data" / "instance", self.pairs))}


def counted(number: int) -> str:
    """So many pictures, in words."""
    return "1 picture" if number == 1 else f"{number} pictures"


def captioned(captions: list[str], prompt: str) -> str:
    """How many pictures are captioned with what."""
    own, missing = [text for text in captions if text], sum(not text for text in captions)
    total = counted(len(captions))
    if missing and not prompt:
        return f"{total}, {missing} without a caption."
    said = Counter([*own, *[prompt] * missing])
    if len(said) == 1:
        return f"{total}, {'all ' if len(captions) > 1 else ''}captioned '{shortened(next(iter(said)))}'."
    if missing:
        return f"{total}: {missing} captioned '{shortened(prompt)}', {len(own)} with captions of their own."
    return f"{total} with captions of their own."


def shortened(text: str, most: int = 80) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}…"


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
        """The pictures are those in the grid, whatever folder a preset names; its answers are true of that folder."""
        values = preset.get("data") or {}
        example = data is not None and pictures.all_of(data[self.grid], str(values.get("instance", "")))
        answers = {key: str(values.get(name, "")) if example else "" for name, key in blanks.ANSWERS.items()}
        return {"data.instance": ""} | answers

    @property
    def kept(self) -> dict[str, Any]:
        """The cards."""
        return {"pictures": self.grid}

    @property
    def changes(self) -> list[Any]:
        """A card or a caption was changed, by whatever."""
        return [self.grid.input]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return [self.grid, self.note]

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """The pictures that were there, if they still are."""
        if "pictures" not in values:
            return {}
        items = pictures.restored(values["pictures"])
        gone = len(pictures.items_of(values["pictures"])) - len(items)
        note = message_html(f"{counted(gone)} cannot be read any more: add them again.", "bad") if gone else ""
        return {self.grid: items, self.note: note}

    def of_run(self, run: Run, config: Config) -> dict[str, Any]:
        """A run's own pictures become cards; a folder that it was pointed to stays in its setting. Raises UserError."""
        folder = Path(config.data.instance)
        if not folder.is_relative_to(run.path):
            return {"pictures": []}
        return {"pictures": pictures.of_folder(folder), "data.instance": ""}

    def connect(self, demo: gr.Blocks, tab: TrainTab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.tab, everything = tab, {*tab.kept.values()}
        changed = [*tab.outputs, tab.before, tab.undo]
        self.drop.upload(
            self.take, {self.drop, *everything}, [self.drop, *changed],
            show_progress="minimal", show_progress_on=self.note, api_visibility="private",
        )  # fmt: skip
        for name, button in self.examples.items():
            button.click(self._example_taker(name), everything, [*changed, tab.problems], **quiet)
        self.clear.click(self.remove_all, {self.grid}, changed, **quiet)
        self.grid.taken(self.taken, None, [tab.before, tab.undo], **quiet)
        gr.on(
            [self.caption_all.click, self.caption.submit], self.put_on_all, {self.caption, self.grid}, changed, **quiet
        )

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Files were dropped."""
        before = pictures.items_of(data[self.grid])
        items, refused = pictures.add(data[self.drop] or [], before)
        added = len(items) - len(before)
        note = message_html(f"{added} added, {counted(len(items))} in the set." if items else "")
        if refused:
            note += message_html("Not taken:\n" + "\n".join(refused), "bad")
        updates: dict[Any, Any] = {self.drop: None, self.grid: items, self.note: note}
        updates |= self._asked_again(data | {self.grid: items})
        spoken = {item["path"]: item["caption"] for item in before}
        if any(spoken.get(item["path"]) not in (None, "", item["caption"]) for item in items):
            updates |= self.tab.undoing("Captions were replaced by those of the files.", {self.grid: before})
        return updates

    def _asked_again(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """With other pictures than its example's, a preset's answers about what they show no longer hold."""
        memory = self.tab.memory
        name, before = memory.preset(data[self.tab.filled]), memory.own(data[self.tab.filled])
        answers = {key: memory.values(name).get("data", {}).get(short) for short, key in blanks.ANSWERS.items()}
        stale = {key: "" for key, answer in answers.items() if answer and before.get(key) == answer}
        if not stale or pictures.all_of(data[self.grid], str(memory.values(name)["data"].get("instance", ""))):
            return {}
        return self.tab.refilled(data, stale, (*blanks.ANSWERS.values(), *blanks.FILLED))

    def _example_taker(self, name: str) -> Any:
        def take_example(data: dict[Any, Any]) -> dict[Any, Any]:
            tab, preset, before = self.tab, EXAMPLE_PRESETS.get(name, ""), pictures.items_of(data[self.grid])
            try:
                items = pictures.example(name)
            except UserError as error:
                return {self.note: message_html(str(error), "bad")}
            changed = len(tab.changed(data))
            updates = tab.fill(preset, data | {self.grid: items}, replace=True)
            chosen = f" The preset is now {preset}, which is made for it." if preset else ""
            updates |= {self.note: message_html(f"{len(items)} pictures of the example set {name}.{chosen}")}
            lost = [f"your {counted(len(before))}" if not pictures.all_of(before, "assets/examples") else ""]
            lost += [f"{changed} of your values" if changed else ""]
            if words := " and ".join(filter(None, lost)):
                updates |= tab.undoing(f"The example replaced {words}.", data)
            return updates | {self.grid: items}

        return take_example

    def remove_all(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Every card is taken out."""
        before = pictures.items_of(data[self.grid])
        offer = self.tab.undoing(f"{counted(len(before))} removed.", {self.grid: before}) if before else {}
        return {self.grid: [], self.note: ""} | offer

    def taken(self, event: gr.EventData) -> dict[Any, Any]:
        """One card was taken out, by the page itself."""
        try:
            before = pictures.items_of(json.loads(str(getattr(event, "gone", ""))))
        except (ValueError, RecursionError):
            return {}
        return self.tab.undoing(f"{str(getattr(event, 'name', ''))[:80]} removed.", {self.grid: before})

    def put_on_all(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """One caption for every picture."""
        items = pictures.items_of(data[self.grid])
        caption = str(data[self.caption] or "").strip()
        if not items:
            return {self.note: message_html("There are no pictures yet to put a caption on.", "bad")}
        replaced = sum(item["caption"] not in ("", caption) for item in items)
        words = f"The caption is on {counted(len(items))}" + (f"; {replaced} had another." if replaced else ".")
        offer = self.tab.undoing(words, {self.grid: items})
        return {self.grid: [item | {"caption": caption} for item in items], self.note: ""} | offer
