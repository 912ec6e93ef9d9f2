"""Changes to the captions of all cards at once, by the tools of :mod:`lowrank_diffusion.image.caption_tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import caption_tools
from lowrank_diffusion.image.caption_tools import Change, Changed

from . import pictures
from .form import message_html
from .picture_set import counted
from .pictures import Item
from .toolkit import gr

PUT, FRONT, BEHIND, REPLACE = "Put on all", "Put in front", "Put behind", "Find and replace"
TRIGGER, ONCE, REMOVE = "Put the trigger in", "Drop doubled tags", "Remove tags"
TOOLS = (PUT, FRONT, BEHIND, REPLACE, TRIGGER, ONCE, REMOVE)
HINTS = {
    PUT: "One caption for all pictures", FRONT: "a photo of", BEHIND: ", white background", REPLACE: "What to find",
    TRIGGER: "The word; empty: the one of the settings", ONCE: "Takes no text", REMOVE: "tags, with commas between",
}  # fmt: skip
WORDS, REGEX, CASE = "whole words", "regular expression", "any case"


class CaptionTools:
    """The row of tools; made where it is to stand."""

    def __init__(self) -> None:
        with gr.Row(elem_classes=["one-line"], equal_height=True):
            self.tool = gr.Dropdown(
                list(TOOLS), value=PUT, label="Change captions", show_label=False,
                filterable=False, min_width=150, scale=2,
                elem_id="caption-tool",
            )  # fmt: skip
            self.text = gr.Textbox(
                label="Text of the change",
                show_label=False,
                container=False,
                placeholder=HINTS[PUT],
                scale=4,
                elem_id="caption-all",
                min_width=140,
            )
            self.by = gr.Textbox(
                label="Put in its place", show_label=False,
                container=False, placeholder="What to put in its place", scale=3, visible=False,
                elem_id="caption-by", min_width=140,
            )  # fmt: skip
            self.only_empty = gr.Checkbox(
                False, label="only empty ones", container=False, min_width=146, scale=0, elem_id="only-empty"
            )
            self.apply = gr.Button("Apply", size="sm", scale=0, min_width=80, elem_id="put-on-all")
        self.how = gr.CheckboxGroup(
            [WORDS, REGEX, CASE],
            label="How it is found",
            show_label=False,
            container=False,
            visible=False,
            elem_id="caption-how",
        )

    @property
    def inputs(self) -> set[Any]:
        """What :meth:`changed` looks at."""
        return {self.tool, self.text, self.by, self.only_empty, self.how}

    def connect(self) -> None:
        """Bind what shows the fields of a tool."""
        self.tool.change(
            self._fields, self.tool, [self.text, self.by, self.how, self.only_empty],
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def _fields(self, tool: str) -> list[Any]:
        find = tool == REPLACE
        return [
            gr.update(placeholder=HINTS.get(tool, ""), interactive=tool != ONCE), gr.update(visible=find),
            gr.update(visible=find), gr.update(visible=tool in (PUT, FRONT, BEHIND, TRIGGER)),
        ]  # fmt: skip

    def changed(self, data: Mapping[Any, Any], items: list[Item], trigger: str) -> tuple[list[Item], str]:
        """The items with other captions, and what was done in words. Raises UserError for what cannot be done."""
        tool = data[self.tool]
        result = self._result(data, [item["caption"] for item in items], trigger)
        after = [text[: pictures.LONGEST_CAPTION] for text in result.captions]
        replaced = sum(item["caption"] not in ("", text) for item, text in zip(items, after, strict=True))
        had = f"; {replaced} had another" if replaced and tool == PUT else ""
        words = f"{tool}: {result.changed} of {counted(len(items))} changed{had}."
        return [item | {"caption": text} for item, text in zip(items, after, strict=True)], words

    def _result(self, data: Mapping[Any, Any], captions: list[str], trigger: str) -> Changed:
        tool, text = str(data[self.tool]), str(data[self.text] or "")
        how = data[self.how] if isinstance(data[self.how], list) else []
        flags = {"regex": REGEX in how, "whole_words": WORDS in how, "ignore_case": CASE in how}
        changes: dict[str, Change] = {
            PUT: lambda c: caption_tools.put(c, text),
            FRONT: lambda c: caption_tools.prefix(c, text),
            BEHIND: lambda c: caption_tools.suffix(c, text),
            REPLACE: lambda c: caption_tools.replace(c, text, str(data[self.by] or ""), **flags),
            TRIGGER: lambda c: caption_tools.add_trigger(c, text.strip() or trigger),
            ONCE: caption_tools.unique_tags,
            REMOVE: lambda c: caption_tools.remove_tags(c, caption_tools.tags_of(text)),
        }
        if tool not in changes:
            raise UserError(f"There is no tool {tool[:80]!r}. Choose one of {', '.join(TOOLS)}.")
        if data[self.only_empty] and tool in (PUT, FRONT, BEHIND, TRIGGER):
            return caption_tools.only_empty(captions, changes[tool])
        return changes[tool](captions)


def nothing() -> str:
    """What is said where there are no pictures."""
    return message_html("There are no pictures yet to put a caption on.", "bad")
