"""The Chat tab: a conversation with a base and with its adapter, side by side."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from lowrank_diffusion.errors import UserError

from . import chat_form, drafts, watching
from .chat_form import Turn
from .draw_form import RequestError
from .engine import CancelledError, Engine
from .form import message_html, problems_html
from .language_worker import Answered, Saying
from .process import Waiting
from .toolkit import gr

BUSY_NOTE = "A training is at work: answers share the machine with it, and both are slower for that time."


class ChatTab:
    """The tab; made inside a ``gr.Blocks``."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.turns = gr.State(())
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320, elem_classes=["sheet"]):
                self._inputs()
            with gr.Column(scale=9, min_width=520, elem_classes=["sheet"]):
                self.view = gr.HTML(chat_form.conversation_html(()), elem_id="chat", apply_default_css=False)
                self.problems = gr.HTML(elem_id="chat-problems", apply_default_css=False)
                self.message = gr.Textbox(
                    show_label=False, container=False, lines=1, max_lines=8, elem_id="chat-message",
                    elem_classes=["one-line"],
                    placeholder="Message (Enter sends it, Shift + Enter makes a new line)",
                )  # fmt: skip
                with gr.Row(elem_classes=["buttons"]):
                    self.send = gr.Button("Send", variant="primary", size="sm", elem_id="chat-send", scale=3)
                    self.stop = gr.Button("Stop", size="sm", elem_id="chat-stop", scale=1, interactive=False)
                    self.new = gr.Button("New conversation", size="sm", elem_id="chat-new", scale=1)

    def _inputs(self) -> None:
        self.adapter = gr.Dropdown(
            [("none", "")], value="", label="Adapter", allow_custom_value=True, elem_id="chat-adapter",
            info="Runs of the Language tab; choosing one takes over its base, template and samples' settings.",
        )  # fmt: skip
        self.compare = gr.Checkbox(
            True, label="Side by side: let the base alone answer as well", elem_id="chat-compare", container=False
        )
        self.base = gr.Textbox(
            "embedded", label="Base model", elem_id="chat-base", max_lines=1,
            info="embedded, a model's folder, a .gguf file, or a hub id (owner/name)",
        )  # fmt: skip
        self.template = gr.Dropdown(
            ["auto", "plain"], value="auto", label="Chat template", elem_id="chat-template", filterable=False,
            info="The model's own, or a plain one for a base that has none.",
        )  # fmt: skip
        self.system = gr.Textbox(label="System prompt", lines=3, max_lines=10, elem_id="chat-system")
        with gr.Row(elem_classes=["numbers"]):
            self.temperature = gr.Number(0, label="Temperature", elem_id="chat-temperature")
            self.top_p = gr.Number(1, label="Top-p", elem_id="chat-top-p")
            self.max_tokens = gr.Number(256, label="Most tokens", elem_id="chat-max-tokens")
        with gr.Row(elem_classes=["seed-row"]):
            self.seed = gr.Number(0, label="Seed", elem_id="chat-seed", scale=2)
            self.random = gr.Button("Random seed", size="sm", scale=1, min_width=110)

    @property
    def filled(self) -> list[Any]:
        """What :meth:`choose` may change."""
        own = [self.base, self.template, self.system, self.temperature, self.max_tokens]
        return [*own, self.message, self.problems]

    @property
    def kept(self) -> dict[str, Any]:
        """The fields that outlive the page, by name."""
        return {name: getattr(self, name) for name in self.names}

    @property
    def changes(self) -> list[Any]:
        """The events after which they are written."""
        return [part.change for part in self.kept.values()]

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        return list(self.kept.values())

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """Show what was kept of an earlier page."""
        updates = drafts.fitting(self.kept, values)
        if self.adapter in updates:
            options = chat_form.adapter_choices()
            known = updates[self.adapter] in [value for _, value in options]
            updates[self.adapter] = gr.update(choices=options, value=updates[self.adapter] if known else "")
        return updates

    def connect(self, demo: gr.Blocks, tabs: list[gr.Tab]) -> None:
        """Bind the events; call once, inside the Blocks."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        opened = [demo.load, *(tab.select for tab in tabs), self.adapter.focus]
        gr.on(opened, lambda: gr.update(choices=chat_form.adapter_choices()), None, self.adapter, **quiet)
        self.adapter.input(self.choose, {self.adapter, self.message}, self.filled, **quiet)
        self.random.click(lambda: secrets.randbelow(2**32), None, self.seed, **quiet)
        fields = {self.turns, *(getattr(self, name) for name in self.names)}
        outputs = [self.turns, self.view, self.problems, self.message, self.send, self.stop, self.new]
        gr.on([self.send.click, self.message.submit], self.run, fields, outputs, **quiet)
        self.stop.click(self.give_up, None, None, **quiet)
        self.new.click(self.forget, None, [self.turns, self.view, self.problems], **quiet)

    names = (
        "adapter", "compare", "base", "template", "system", "temperature", "top_p", "max_tokens", "seed", "message",
    )  # fmt: skip
    """The fields, by the names that :func:`chat_form.build_job` knows them by."""

    def choose(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """An adapter was chosen: it is asked the way it was trained and sampled, if the person does not change that."""
        if not data[self.adapter]:
            return {self.problems: ""}
        try:
            config = chat_form.config_of(data[self.adapter])
        except UserError as error:
            return {self.problems: message_html(str(error), "bad")}
        sample = config.sample
        words = f"As its samples are: temperature {sample.temperature:g}, at most {sample.tokens} tokens. "
        note = message_html(words + "The base may want more tokens: raise them to compare whole answers.")
        return {
            self.base: config.base.path, self.template: config.text.template, self.system: sample.system,
            self.temperature: sample.temperature, self.max_tokens: sample.tokens,
            self.message: data[self.message] or next(iter(sample.prompts), ""), self.problems: note,
        }  # fmt: skip

    def run(self, data: dict[Any, Any], page: gr.Request) -> Iterator[dict[Any, Any]]:
        """Send was pressed. Closing the page cancels."""
        idle = {part: gr.update(interactive=True) for part in (self.send, self.new)}
        idle |= {self.stop: gr.update(interactive=False)}
        before: tuple[Turn, ...] = data[self.turns] or ()
        try:
            job, names = chat_form.build_job({name: data[getattr(self, name)] for name in self.names}, before)
        except RequestError as error:
            yield idle | {self.problems: problems_html(error.problems)}
            return
        turn = chat_form.begun(job.sides[0].messages[-1].content, job, names)
        busy = {part: gr.update(interactive=False) for part in (self.send, self.new)}
        note = message_html(BUSY_NOTE) if watching.active() else ""
        yield (
            busy
            | {self.stop: gr.update(interactive=True), self.message: "", self.problems: note}
            | self._view(before, turn)
        )
        try:
            for update in self.engine.run(page.session_hash or "", job):
                match update:
                    case Waiting():
                        yield {self.problems: message_html("Another page's answer is given first.")}
                    case Saying(texts=texts):
                        turn = chat_form.saying(turn, texts)
                        yield self._view(before, turn) | {self.problems: note}
                    case Answered(replies=replies):
                        turn = chat_form.answered(turn, replies)
                        yield idle | self._kept(before, turn)
        except CancelledError:
            yield idle | self._kept(before, chat_form.stopped(turn))
        except UserError as error:
            words = {self.problems: message_html(str(error), "bad"), self.message: turn.message}
            yield idle | words | {self.view: chat_form.conversation_html(before)}

    def _view(self, before: tuple[Turn, ...], turn: Turn) -> dict[Any, Any]:
        return {self.view: chat_form.conversation_html((*before, turn))}

    def _kept(self, before: tuple[Turn, ...], turn: Turn) -> dict[Any, Any]:
        return {self.turns: (*before, turn)} | self._view(before, turn)

    def give_up(self, page: gr.Request) -> None:
        """Stop was pressed."""
        self.engine.cancel(page.session_hash or "")

    def forget(self) -> dict[Any, Any]:
        """A new conversation."""
        return {self.turns: (), self.view: chat_form.conversation_html(()), self.problems: ""}
