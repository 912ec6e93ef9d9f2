"""Pictures to learn from: taken in, captioned, framed, masked and saved, on the cards of :mod:`.pictures`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from lowrank_diffusion import blanks
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run

from . import drafts, picture_files, picture_looks, picture_sets, picture_tools, pictures
from .caption_worker import CaptionWorker
from .engine import Engine
from .form import message_html
from .picture_auto import AutoCaptions
from .picture_set import PictureSet, counted, with_alpha
from .picture_sets import SetBar
from .picture_tools import CaptionTools
from .toolkit import gr
from .train import TrainTab

EXAMPLE_PRESETS = {"style-3d-icons": "emoji-style", "subject-cat": "emoji-subject"}
"""The preset made for each example set."""
EDITS = {"removed": "{name} removed.", "cut": "{name}: the border is cut off.", "changed": "{name} changed."}
"""What the page itself does with cards, in words."""
PAUSE = 0.3
"""Seconds without a change before the pictures are looked at again."""


class PicturePanel:
    """The drop field, the example sets, the saved sets, the cards and what changes their captions."""

    task: ClassVar[str] = "image"
    title: ClassVar[str] = "Pictures to learn from"
    first_preset: ClassVar[str] = "emoji-style"

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or Engine(CaptionWorker)

    def place(self) -> None:
        """Make the components here."""
        with gr.Row(equal_height=True):
            self.drop = gr.File(
                label="Drop pictures, folders or a zip here (with .txt captions, a table, masks)",
                file_count="multiple", height=108, elem_id="drop", elem_classes=["drop"], scale=3,
            )  # fmt: skip
            with gr.Column(scale=1, min_width=150, elem_classes=["stack"]):
                self.examples = {
                    folder.name: gr.Button(f"Example: {folder.name.replace('-', ' ')}", size="sm")
                    for folder in pictures.example_sets()
                }
                self.clear = gr.Button("Remove all", size="sm", elem_id="remove-all")
        self.sets = SetBar()
        self.note = gr.HTML(elem_id="picture-note", apply_default_css=False)
        self.tools = CaptionTools()
        self.grid = pictures.grid()
        self.looks, self.flags, self.large = map(pictures.teller, ("picture-looks", "picture-flags", "picture-large"))
        with gr.Accordion("Captions by a model, masks by transparency", open=False, elem_id="auto-captions"):
            self.auto = AutoCaptions(self.engine)
            self.alpha = gr.Button("Leave transparent parts out (masks)", size="sm", elem_id="alpha-masks")

    @property
    def inputs(self) -> set[Any]:
        """The grid holds everything."""
        return {self.grid}

    def chosen(self, data: dict[Any, Any]) -> PictureSet:
        """The pictures in the grid. Raises RefusedError, DataError."""
        return PictureSet(pictures.chosen(data[self.grid]))

    def own(self, preset: dict[str, Any], data: dict[Any, Any] | None) -> dict[str, Any]:
        """The pictures are those in the grid, whatever folder a preset names; its answers are true of that folder."""
        values = preset.get("data") or {}
        example = data is not None and pictures.all_of(data[self.grid], str(values.get("instance", "")))
        answers = {key: str(values.get(name, "")) if example else "" for name, key in blanks.ANSWERS.items()}
        return {"data.instance": ""} | answers

    @property
    def kept(self) -> dict[str, Any]:
        """The cards, the set they come from, and what the model is asked."""
        return {"pictures": self.grid, "set": self.sets.origin} | self.auto.kept

    @property
    def changes(self) -> list[Any]:
        """A card or a caption was changed, by whatever, or what the model is asked."""
        return [self.grid.input, *(part.change for part in self.auto.kept.values())]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return [self.grid, self.note, self.sets.origin, self.sets.chosen, *self.auto.kept.values()]

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """The pictures that were there, if they still are."""
        fields = drafts.fitting(self.auto.kept, values)
        if "pictures" not in values:
            return fields
        items = pictures.restored(values["pictures"])
        gone = len(pictures.items_of(values["pictures"])) - len(items)
        note = message_html(f"{counted(gone)} cannot be read any more: add them again.", "bad") if gone else ""
        come = self.sets.restore(values["set"]) if "set" in values else {}
        return fields | come | {self.grid: items, self.note: note}

    def of_run(self, run: Run, config: Config) -> dict[str, Any]:
        """A run's own pictures become cards; a folder that it was pointed to stays in its setting. Raises UserError."""
        folder = Path(config.data.instance)
        if not folder.is_relative_to(run.path):
            return {"pictures": [], "set": ""}
        return {"pictures": pictures.of_folder(folder), "set": "", "data.instance": ""}

    def connect(self, demo: gr.Blocks, tab: TrainTab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.tab, everything = tab, {*tab.kept.values()}
        changed = [*tab.outputs, tab.before, tab.undo]
        coming = quiet | {"show_progress": "minimal", "show_progress_on": self.note}
        self.drop.upload(self.take, {self.drop, *everything}, [self.drop, *changed], **coming)
        self.grid.came(self.take_folder, everything, changed, **coming)
        for name, button in self.examples.items():
            button.click(self._example_taker(name), everything, [*changed, tab.problems], **quiet)
        self.clear.click(self.remove_all, {self.grid, self.sets.origin}, changed, **quiet)
        # Every one counts, also while an earlier one is answered.
        each: dict[str, Any] = quiet | {"trigger_mode": "multiple"}
        self.grid.edited(self.edited, {self.grid}, [self.note, tab.before, tab.undo], **each)
        self.grid.enlarge(self.enlarge, None, self.large, **each)
        self.alpha.click(self.mask_transparent, {self.grid}, changed, **quiet)
        wanted = {self.grid, tab.form.widgets["data.trigger"], *self.tools.inputs}
        gr.on([self.tools.apply.click, self.tools.text.submit], self.change_captions, wanted, changed, **quiet)
        self.tools.connect()
        self.sets.connect(self.grid, self.note, tab)
        self.auto.connect(self.grid, tab)
        self._connect_looks(tab, quiet)

    def _connect_looks(self, tab: TrainTab, quiet: dict[str, Any]) -> None:
        self.settings = {key: tab.form.widgets[key] for key in picture_looks.SETTINGS}
        seen: set[Any] = {self.grid, self.sets.origin, *self.settings.values()}
        settings: list[Any] = list(self.settings.values())
        changes = [self.grid.input, *(part.change for part in settings)]
        later: dict[str, Any] = quiet | {"trigger_mode": "always_last"}
        gr.on(changes, self.look, seen, [self.looks, self.sets.state], **later)
        gr.on(changes, self.flag, seen, self.flags, **later)

    async def look(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Something has changed: what training makes of each picture, and whether the set is still what was saved."""
        await asyncio.sleep(PAUSE)
        state = picture_sets.state_html(data[self.sets.origin], pictures.items_of(data[self.grid]))
        return {self.looks: await asyncio.to_thread(self._seen, picture_looks.of, data), self.sets.state: state}

    async def flag(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Something has changed: what is to be looked at."""
        await asyncio.sleep(PAUSE)
        return {self.flags: await asyncio.to_thread(self._seen, picture_looks.flagged, data)}

    def _seen(self, look: Any, data: dict[Any, Any]) -> Any:
        try:
            given = pictures.chosen(data[self.grid])
            return look(given, {key: self.tab.form.value(key, data) for key in self.settings})
        except UserError:  # said at the start, when all of it has to be right
            return {}

    def enlarge(self, event: gr.EventData) -> Any:
        """A card was opened: the address of its picture, large, and of its mask. Raises UserError."""
        asked = pictures.sent(getattr(event, "item", ""))
        if not isinstance(asked, dict) or not all(isinstance(asked.get(name), str) for name in ("path", "mask")):
            return {}
        return pictures.enlarged(asked["path"], asked["mask"])

    # what changes the cards

    def take(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Files were dropped."""
        return {self.drop: None} | self._taken(data, picture_files.add(data[self.drop] or [], self._items(data)))

    def take_folder(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A folder was chosen or dropped, and its files were uploaded."""
        came, failed = (pictures.sent(getattr(event, name, "")) for name in ("files", "failed"))
        files = [(pair[0], pair[1]) for pair in came or [] if _is_pair(pair)] if isinstance(came, list) else []
        items, refused, notes = picture_files.add_tree(files, self._items(data))
        lost = [f"{str(name)[:200]}: could not be uploaded." for name in failed] if isinstance(failed, list) else []
        return self._taken(data, (items, lost + refused, notes))

    def _taken(self, data: dict[Any, Any], result: picture_files.Result) -> dict[Any, Any]:
        (items, refused, notes), before = result, self._items(data)
        added = len(items) - len(before)
        lines = [f"{added} added, {counted(len(items))} in the set."] if items else []
        note = message_html("\n".join(lines + notes))
        if refused:
            note += message_html("Not taken:\n" + "\n".join(refused), "bad")
        updates: dict[Any, Any] = {self.grid: items, self.note: note}
        updates |= self._asked_again(data | {self.grid: items})
        spoken = {item["path"]: item["caption"] for item in before}
        if any(spoken.get(item["path"]) not in (None, "", item["caption"]) for item in items):
            updates |= self.tab.undoing("Captions were replaced by those of the files.", {self.grid: before})
        return updates

    def _items(self, data: dict[Any, Any]) -> list[pictures.Item]:
        return pictures.items_of(data[self.grid])

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
            tab, preset, before = self.tab, EXAMPLE_PRESETS.get(name, ""), self._items(data)
            try:
                items = pictures.example(name)
            except UserError as error:
                return {self.note: message_html(str(error), "bad")}
            changed = len(tab.changed(data))
            updates = tab.fill(preset, data | {self.grid: items}, replace=True)
            chosen = f" The preset is now {preset}, which is made for it." if preset else ""
            updates |= {self.note: message_html(f"{len(items)} pictures of the example set {name}.{chosen}")}
            lost = [f"your {counted(len(before))}" if before and not pictures.all_of(before, "assets/examples") else ""]
            lost += [f"{changed} of your values" if changed else ""]
            if words := " and ".join(filter(None, lost)):
                updates |= tab.undoing(f"The example replaced {words}.", data)
            return updates | {self.grid: items, self.sets.origin: ""}

        return take_example

    def remove_all(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Every card is taken out."""
        before = self._items(data)
        offer = self.tab.undoing(f"{counted(len(before))} removed.", data) if before else {}
        return {self.grid: [], self.note: "", self.sets.origin: ""} | offer

    def edited(self, data: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """The page itself has changed cards: it can be undone, and what cannot be learnt so is said."""
        before = pictures.items_of(pictures.sent(getattr(event, "before", "")))
        words = EDITS.get(str(getattr(event, "what", "")), EDITS["changed"])
        offer = self.tab.undoing(words.format(name=str(getattr(event, "name", ""))[:80]), {self.grid: before})
        try:
            pictures.chosen(data[self.grid])
        except UserError as error:
            return offer | {self.note: message_html(str(error), "bad")}
        return offer

    def mask_transparent(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Transparent pictures without a mask are learnt where they are opaque. Raises UserError."""
        before = self._items(data)
        masked = [pictures.card(with_alpha(picture)) for picture in pictures.chosen(before)]
        count = sum(one["mask"] != other["mask"] for one, other in zip(before, masked, strict=True))
        if not count:
            return {self.note: message_html("No picture without a mask is transparent.")}
        words = f"Of {counted(count)} only what is opaque is learnt."
        return {self.grid: masked, self.note: ""} | self.tab.undoing(words, {self.grid: before})

    def change_captions(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """A caption tool was applied. Raises UserError for what it cannot do."""
        before = self._items(data)
        if not before:
            return {self.note: picture_tools.nothing()}
        trigger = str(data[self.tab.form.widgets["data.trigger"]] or "").strip()
        items, words = self.tools.changed(data, before, trigger)
        return {self.grid: items, self.note: ""} | self.tab.undoing(words, {self.grid: before})


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
