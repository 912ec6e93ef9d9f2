"""Keeping the settings of a form as a preset of one's own, and letting go of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank_diffusion import own_presets, presets
from lowrank_diffusion.config import ConfigError

from .form import message_html, problems_html
from .toolkit import gr

if TYPE_CHECKING:
    from .train import TrainTab


class OwnPreset:
    """Made inside a tab's settings."""

    def __init__(self, ids: str) -> None:
        with gr.Accordion("Keep these settings as a preset", open=False, elem_id=f"{ids}own-preset"):
            with gr.Row(elem_classes=["one-line"]):
                self.name = gr.Textbox(
                    show_label=False, container=False, placeholder="Name of the preset: my-portraits", max_lines=1,
                    elem_id=f"{ids}own-preset-name", scale=2,
                )  # fmt: skip
                self.about = gr.Textbox(
                    show_label=False, container=False, placeholder="What it is for", max_lines=1,
                    elem_id=f"{ids}own-preset-about", scale=3,
                )  # fmt: skip
                self.keep = gr.Button("Keep", size="sm", min_width=80, elem_id=f"{ids}own-preset-keep", scale=1)
                self.drop = gr.Button("Delete the chosen one", size="sm", elem_id=f"{ids}own-preset-delete", scale=1)
            self.note = gr.HTML(elem_id=f"{ids}own-preset-note", apply_default_css=False)

    def connect(self, tab: TrainTab, everything: set[Any]) -> None:
        """Bind the events."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.tab = tab
        outputs = [self.note, tab.preset, tab.about, tab.filled, tab.changes_shown]
        self.keep.click(self.save, everything | {self.name, self.about}, outputs, **quiet)
        self.drop.click(self.delete, {tab.preset}, outputs, **quiet)

    def save(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Keep was pressed: the form then shows the new preset, with nothing changed."""
        tab, name, about = self.tab, str(data[self.name] or "").strip(), " ".join(str(data[self.about] or "").split())
        try:
            config = presets.build(overrides=tab.form.values(data))
            own_presets.save(name, config, about[:300])
            note = tab.memory.note(name, tab.panel.own(tab.memory.values(name), data))
        except ConfigError as error:
            return {self.note: problems_html(error.problems, tab.task)}
        words = f"Kept as {name}. On the command line: train {name}"
        shown = {tab.preset: gr.update(choices=tab.names(), value=name), tab.filled: note, tab.changes_shown: ""}
        return shown | {self.note: message_html(words), tab.about: message_html(tab.memory.about(name))}

    def delete(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """Delete was pressed: the preset goes, the settings stay."""
        tab, name = self.tab, str(data[self.tab.preset] or "")
        try:
            own_presets.delete(name)
        except ConfigError as error:
            return {self.note: problems_html(error.problems, tab.task)}
        words = message_html(f"{name} is deleted; the settings stay as they are.")
        return {self.note: words, tab.preset: gr.update(choices=tab.names(), value=tab.first or None)}
