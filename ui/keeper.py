"""Keeps what is typed: a page writes its :mod:`draft <.drafts>` after a change; it is shown when it is opened again."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from lowrank_diffusion.errors import UserError

from . import drafts
from .form import message_html
from .toolkit import gr, static_text

PAUSE = 0.4
"""Seconds until a page writes again: typing is many changes."""
KEPT = "Your settings were kept."
STARTED_FROM_LAST = "This page starts with the settings of the last one; from here on each keeps its own."


class Keeping(Protocol):
    """A part of the page whose fields are kept."""

    @property
    def kept(self) -> dict[str, Any]:
        """The components by name."""
        ...

    @property
    def changes(self) -> list[Any]:
        """The events after which they are written."""
        ...

    @property
    def outputs(self) -> list[Any]:
        """Everything that :meth:`restore` may change."""
        ...

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """What a handler returns to show these values again, whatever they are."""
        ...


class Keeper:
    """Made inside a ``gr.Blocks``; the browser keeps the draft's key and nothing else."""

    def __init__(self) -> None:
        self.key = gr.HTML(
            "", html_template="<div></div>", js_on_load=static_text("draft.js"), elem_id="draft",
            apply_default_css=False,
        )  # fmt: skip
        self.note = gr.HTML(elem_id="draft-note", apply_default_css=False)

    def connect(self, groups: dict[str, Keeping]) -> Any:
        """Bind the events; call once, inside the Blocks. Returns the event of a page that was opened."""
        self.groups = groups
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = dict.fromkeys(part for group in groups.values() for part in group.outputs)
        opened = self.key.opened(self.open, None, [self.key, self.note, *outputs], **quiet)
        for name, group in groups.items():
            gr.on(
                group.changes, self._writer(name), {self.key, *group.kept.values()}, self.note,
                trigger_mode="always_last", **quiet,
            )  # fmt: skip
        return opened

    def open(self, event: gr.EventData) -> dict[Any, Any]:
        """A page was opened: with its own draft after a reload, else with a copy of the last page's."""
        own, last, fresh = (getattr(event, name, "") for name in ("own", "last", "fresh"))
        draft = drafts.read(own)
        key = own if drafts.is_key(own) else fresh
        note = KEPT if draft else ""
        if not draft and (draft := drafts.read(last)):
            note = KEPT if key == own else STARTED_FROM_LAST
        updates: dict[Any, Any] = {}
        try:
            drafts.write(key, draft)
            for name, group in self.groups.items():
                updates |= group.restore(draft.get(name, {}))
            note = message_html(note)
        except UserError as error:
            note = message_html(str(error), "bad")
        return updates | {self.key: key if drafts.is_key(key) else "", self.note: note}

    def _writer(self, name: str) -> Any:
        parts = self.groups[name].kept

        async def write(data: dict[Any, Any]) -> dict[Any, Any]:
            values = {field: data[part] for field, part in parts.items()}
            try:
                await asyncio.to_thread(drafts.write, data[self.key], {name: values})
            except UserError as error:
                return {self.note: message_html(str(error), "bad")}
            await asyncio.sleep(PAUSE)
            return {self.note: gr.skip()}

        return write
