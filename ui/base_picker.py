"""Base models that are on this machine, to be taken over into the field of one's name by a click."""

from __future__ import annotations

import html
import json
from typing import Any

from lowrank_diffusion import files, model_library
from lowrank_diffusion.model_library import Model

from .toolkit import gr, static_text


class BasePicker:
    """Made below the field of the base model; filled when it is opened, since looking at every file takes a moment."""

    def __init__(self, task: str, ids: str) -> None:
        self.task = task
        with gr.Accordion("Base models on this machine", open=False, elem_id=f"{ids}bases") as self.accordion:
            self.list = gr.HTML(js_on_load=static_text("pick.js"), elem_id=f"{ids}base-list", apply_default_css=False)

    def connect(self, field: Any) -> None:
        """Bind the events; ``field`` holds ``base.path``."""
        quiet: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private"}
        self.accordion.expand(lambda: html_of(model_library.models(self.task)), None, self.list, **quiet)
        self.list.picked(self.take, None, field, **quiet)

    def take(self, event: gr.EventData) -> str:
        """A model was picked; its path is checked like any that is typed."""
        return str(getattr(event, "value", ""))[:4096]


def html_of(models: list[Model]) -> str:
    """A list of buttons; what cannot be used says why."""
    places = " and ".join(f"<code>{html.escape(str(path))}</code>" for path, _ in model_library.folders())
    lines = "".join(f"<li>{_line(model)}</li>" for model in models)
    note = f"Looked through: {places}, and the hub's cache. {model_library.MODELS} names other folders."
    return f'<ul class="bases" tabindex="0" aria-label="Base models">{lines}</ul><p class="count">{note}</p>'


def _line(model: Model) -> str:
    size = f" · {files.megabytes(model.size)}" if model.size else ""
    words = f"<b>{html.escape(model.title)}</b> <small>{html.escape(model.place)}{size}</small>"
    if model.obstacle:
        return f'<span class="unfit">{words}<br>{html.escape(model.obstacle[:300])}</span>'
    value = html.escape(json.dumps({"value": model.path}))
    return f'<button type="button" data-pick="{value}">{words}</button>'
