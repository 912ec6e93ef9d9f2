"""Saved sets of pictures on the page: open, save, rename, delete, download."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank_diffusion import datasets
from lowrank_diffusion.errors import DataError, UserError
from lowrank_diffusion.image import sets

from . import pictures, safe
from .form import message_html
from .picture_set import counted
from .pictures import Item
from .toolkit import gr

if TYPE_CHECKING:
    from .train import TrainTab

_ORIGIN = re.compile(r"set:(?P<name>[\w-]{1,60})@(?P<version>\d{1,9}) (?P<key>[0-9a-f]{16})", re.ASCII)
NONE = "Saved sets …"
MOST_VERSIONS = 20
"""Of a set that the list shows, the newest ones."""


def choices() -> list[tuple[str, str]]:
    """Every version of every set, behind none of them: what the list says, and the reference."""
    shown = [(NONE, "")]
    for saved in datasets.all_sets():
        newest_first = saved.versions[: -MOST_VERSIONS - 1 : -1]
        shown += [(title(saved.name, version), reference(saved.name, version)) for version in newest_first]
    return shown


def title(name: str, version: int) -> str:
    """What a person calls a version."""
    return f"{name}, version {version}"


def reference(name: str, version: int) -> str:
    """What a setting calls it."""
    return f"{datasets.PREFIX}{name}@{version}"


def origin(name: str, version: int, items: Sequence[Item]) -> str:
    """What the page remembers of where its cards come from: the version, and what the cards were then."""
    return f"{reference(name, version)} {_key(items)}"


def _key(items: Sequence[Item]) -> str:
    facts = [
        (Path(item["path"]).name, item["caption"], item["repeats"], item["weight"], item["frame"], item["mask"] != "")
        for item in items
    ]
    masks = [Path(item["mask"]).name for item in items]
    return hashlib.sha256(json.dumps([facts, masks]).encode()).hexdigest()[:16]


def of_origin(value: Any) -> tuple[str, int, str] | None:
    """Name, version and key of an origin; None for anything else, since a page may send what it likes."""
    match = _ORIGIN.fullmatch(value) if isinstance(value, str) else None
    return (match["name"], int(match["version"]), match["key"]) if match else None


def state_html(value: Any, items: Sequence[Item]) -> str:
    """Which set the cards are, in words."""
    come = of_origin(value)
    if not items:
        return ""
    if come is None:
        return '<span class="set-state">not saved as a set</span>'
    name, version, key = come
    since = "" if _key(items) == key else ", changed since"
    return f'<span class="set-state">{html.escape(title(name, version))}{since}</span>'


class SetBar:
    """The row of saved sets; made where it is to stand."""

    def __init__(self) -> None:
        with gr.Row(elem_classes=["one-line", "set-bar"], equal_height=True):
            self.chosen = gr.Dropdown(
                choices(), value="", label="Saved set", show_label=False, scale=3, min_width=150,
                filterable=False, elem_id="set-chosen",
            )  # fmt: skip
            self.open = gr.Button("Open", size="sm", scale=0, min_width=56, elem_id="set-open")
            self.name = gr.Textbox(
                label="Name of the set", show_label=False,
                container=False, max_lines=1, placeholder="Set name", scale=2, min_width=110,
                elem_id="set-name",
            )  # fmt: skip
            self.save = gr.Button("Save as", size="sm", scale=0, min_width=66, elem_id="set-save")
            self.rename = gr.Button("Rename", size="sm", scale=0, min_width=66, elem_id="set-rename")
            self.zip = gr.Button("Zip", size="sm", scale=0, min_width=44, elem_id="set-zip")
            self.delete = gr.Button("Delete", size="sm", scale=0, min_width=60, elem_id="set-delete")
        with gr.Row(visible=False, elem_classes=["buttons", "confirm"]) as self.confirm:
            self.question = gr.HTML(apply_default_css=False)
            self.really = gr.Button("Delete for good", size="sm", variant="stop", elem_id="set-delete-really")
            self.keep = gr.Button("Keep it", size="sm", elem_id="set-delete-keep")
        self.state = gr.HTML(elem_id="set-state", apply_default_css=False)
        self.origin = pictures.teller("set-origin")

    @property
    def outputs(self) -> list[Any]:
        """What the handlers may change besides the cards."""
        return [self.chosen, self.name, self.confirm, self.question, self.origin]

    def connect(self, grid: Any, note: Any, tab: TrainTab) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.grid, self.note, self.tab = grid, note, tab
        shared: set[Any] = {self.grid, self.chosen, self.name, self.origin}
        changed = [grid, note, tab.before, tab.undo, *self.outputs]
        self.chosen.focus(lambda: gr.update(choices=choices()), None, self.chosen, **quiet)
        for button, act in (
            (self.open, self.open_it), (self.save, self.save_it), (self.rename, self.rename_it),
            (self.zip, self.pack), (self.delete, self.ask), (self.really, self.delete_it),
        ):  # fmt: skip
            button.click(act, shared, changed, **quiet)
        self.keep.click(lambda: gr.update(visible=False), None, self.confirm, **quiet)

    def restore(self, value: Any) -> dict[Any, Any]:
        """The origin that a page remembers, and its set in the list."""
        come, listed = of_origin(value), choices()
        chosen = reference(*come[:2]) if come else ""
        known = chosen if chosen in [value for _, value in listed] else ""
        return {self.origin: value if come else "", self.chosen: gr.update(choices=listed, value=known)}

    def _meant(self, data: dict[Any, Any]) -> tuple[str, int]:
        """Name and version that the list shows. Raises UserError."""
        if not data[self.chosen]:
            raise UserError("No set is chosen. Choose one in the list, or save the pictures as one.")
        folder = datasets.located(str(data[self.chosen]))
        return folder.parent.name, int(folder.name)

    def _shown(self, name: str, version: int, items: list[Item]) -> dict[Any, Any]:
        listed = gr.update(choices=choices(), value=reference(name, version))
        hidden = {self.confirm: gr.update(visible=False)}
        come = origin(name, version, items)
        return hidden | {self.grid: items, self.origin: come, self.chosen: listed, self.name: name}

    def open_it(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The pictures of a saved set become the cards. Raises UserError."""
        name, version = self._meant(data)
        before, items = pictures.items_of(data[self.grid]), pictures.of_folder(datasets.version_folder(name, version))
        words = f"{title(name, version)}, has replaced {counted(len(before))}."
        offer = self.tab.undoing(words, data) if before else {}
        note = message_html(f"{title(name, version)}: {counted(len(items))}.")
        return self._shown(name, version, items) | {self.note: note} | offer

    def save_it(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The cards become a new set, or the next version of one. Raises UserError."""
        come, items = of_origin(data[self.origin]), pictures.items_of(data[self.grid])
        name = str(data[self.name] or "").strip() or (come[0] if come else "")
        if not name:
            raise UserError("The set has no name yet. Type one beside Save as.")
        if not items:
            raise UserError("There are no pictures to save.")
        if come and come[0] == name and come[2] == _key(items):
            return {self.note: message_html(f"Nothing has changed since {title(*come[:2])}; no version was made.")}
        saved = sets.save(name, pictures.chosen(items))
        version = saved.versions[-1]
        after = pictures.of_folder(saved.folder(version))
        offer = self.tab.undoing(f"The cards are now those of {title(name, version)}.", data)
        note = message_html(f"Saved as {title(name, version)}: {counted(len(after))}.", "good")
        return self._shown(name, version, after) | {self.note: note} | offer

    def rename_it(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The chosen set gets the typed name; the cards stay what they are. Raises UserError."""
        (name, version), new = self._meant(data), str(data[self.name] or "").strip()
        if new in ("", name):
            raise UserError(f"Type the new name of {name} beside Save as first.")
        items, come = pictures.items_of(data[self.grid]), of_origin(data[self.origin])
        sets.check_unused(name, "rename")
        before = datasets.datasets_folder().resolve() / name
        datasets.rename(name, new)
        after = [item | {key: _moved(item[key], before, new) for key in ("path", "mask")} for item in items]
        updates: dict[Any, Any] = {self.grid: pictures.restored(after), self.name: new}
        if come and come[0] == name:
            updates[self.origin] = f"{reference(new, come[1])} {come[2]}"
        note = message_html(f"{name} is now {new}.", "good")
        return updates | {self.chosen: gr.update(choices=choices(), value=reference(new, version)), self.note: note}

    def pack(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """A zip file of the chosen version to download. Raises UserError."""
        name, version = self._meant(data)
        archive = safe.downloads_folder() / "sets" / f"{name}-{version}.zip"
        archive.unlink(missing_ok=True)
        sets.export(name, archive, version)
        size = sets.size_in_words(archive.stat().st_size)
        link = f'<a href="{safe.url(archive)}" download="{html.escape(archive.name)}">{html.escape(archive.name)}</a>'
        return {self.note: f'<div class="message good" role="status">Ready: {link}, {size}.</div>'}

    def ask(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Whether the chosen set is really to go. Raises UserError where it cannot."""
        name = self._deletable(data)
        count = len(datasets.find(name).versions)
        versions = "its only version" if count == 1 else f"all its {count} versions"
        question = f"<span>Delete <b>{html.escape(name)}</b> with {versions}?</span>"
        return {self.confirm: gr.update(visible=True), self.question: question}

    def _deletable(self, data: dict[Any, Any]) -> str:
        name, _ = self._meant(data)
        sets.check_unused(name, "delete")
        folder = datasets.datasets_folder().resolve() / name
        if any(Path(item["path"]).is_relative_to(folder) for item in pictures.items_of(data[self.grid])):
            raise DataError([f"{name}: its pictures are on the cards. Remove them there first, or open another set."])
        return name

    def delete_it(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """It was really meant. Raises UserError."""
        name = self._deletable(data)
        datasets.delete(name)
        hidden = {self.confirm: gr.update(visible=False), self.note: message_html(f"{name} is deleted.")}
        come = of_origin(data[self.origin])
        gone = {self.origin: ""} if come and come[0] == name else {}
        return hidden | gone | {self.chosen: gr.update(choices=choices(), value="")}


def _moved(path: str, before: Path, new: str) -> str:
    """A path inside a set that has another name now."""
    inside = Path(path)
    return str(before.with_name(new) / inside.relative_to(before)) if path and inside.is_relative_to(before) else path
