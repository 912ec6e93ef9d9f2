"""The Language tab: fine-tune a language model, and talk with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowrank_diffusion.runs import Run

from . import chat_form
from .chat import ChatTab
from .engine import Engine
from .row_panel import RowPanel
from .toolkit import gr
from .train import TrainTab


class LanguageTab:
    """The tab with its two; made inside a ``gr.Blocks``."""

    def __init__(self, engine: Engine, release: Callable[[], None]) -> None:
        with gr.Tabs(selected="tune", elem_id="language-tabs") as self.tabs:
            with gr.Tab("Fine-tune", id="tune"):
                self.tune = TrainTab(RowPanel(engine), release)
            with gr.Tab("Chat", id="chat") as self.chat_tab:
                self.chat = ChatTab(engine)

    @property
    def timer(self) -> gr.Timer:
        """What keeps the shown run up to date."""
        return self.tune.monitor.timer

    def connect(self, demo: gr.Blocks, tab: gr.Tab) -> None:
        """Bind the events; call once, inside the Blocks."""
        self.tune.connect(demo)
        self.chat.connect(demo, [tab, self.chat_tab])

    @property
    def talking(self) -> list[Any]:
        """What :meth:`talk_with` may change."""
        return [self.tabs, self.chat.adapter, *self.chat.filled]

    def talk_with(self, run: Run, message: str) -> dict[Any, Any]:
        """What a handler returns to open the chat with a run's adapter; ``message``: what its field holds."""
        adapter = gr.update(choices=chat_form.adapter_choices(), value=run.name)
        settings = self.chat.choose({self.chat.adapter: run.name, self.chat.message: message})
        return {self.chat.adapter: adapter, self.tabs: gr.Tabs(selected="chat")} | settings
