"""The app put together: all tabs on one page, and the server that gives it out."""

from __future__ import annotations

import atexit
import html
from typing import Any

from lowrank_diffusion.errors import UserError

from . import draw_form, handlers, safe
from .caption_worker import CaptionWorker
from .engine import Engine
from .generate import GenerateTab
from .image_worker import ImageWorker
from .keeper import Keeper
from .language import LanguageTab
from .language_worker import LanguageWorker
from .measure_worker import MeasureWorker
from .measuring import Measuring
from .picture_panel import PicturePanel
from .remote import Remote
from .request_form import as_in
from .runs import RunsTab
from .toolkit import gr
from .train import TrainTab

TITLE = "Lowrank Diffusion"
DAY = 86_400


class Engines:
    """The processes that draw, answer, caption and measure."""

    def __init__(self) -> None:
        self.drawing, self.speaking = Engine(ImageWorker), Engine(LanguageWorker)
        self.captioning, self.measuring = Engine(CaptionWorker), Engine(MeasureWorker)
        for engine in (self.drawing, self.speaking, self.captioning, self.measuring):
            atexit.register(engine.close)

    def release(self) -> None:
        """Give a training the memory that they hold."""
        self.drawing.release()
        self.speaking.release()
        self.captioning.release()
        self.measuring.release()


def build(engines: Engines | None = None) -> gr.Blocks:
    """The page. Nothing heavy is loaded: no torch here, nor on opening it."""
    engines = engines or Engines()
    drawing, speaking, release = engines.drawing, engines.speaking, engines.release
    with gr.Blocks(title=TITLE, delete_cache=(DAY, 30 * DAY), analytics_enabled=False, fill_width=True) as demo:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Fine-tune image and language models with small adapters, on this machine.</p>",
            elem_id="masthead",
            apply_default_css=False,
        )
        keeper = Keeper()
        with gr.Tabs(selected="train", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train") as train_tab:
                train = TrainTab(PicturePanel(engines.captioning), release)
            with gr.Tab("Generate", id="generate") as generate_tab:
                generate = GenerateTab(drawing)
            with gr.Tab("Language", id="language") as language_tab:
                language = LanguageTab(speaking, release)
            with gr.Tab("Runs", id="runs") as runs_tab:
                listing = RunsTab(release, Measuring(engines.measuring))
        parts = {"image": train, "generate": generate, "text": language.tune, "chat": language.chat}
        keeper.connect(parts)
        train.connect(demo)
        generate.connect(demo, generate_tab)
        language.connect(demo, language_tab)
        listing.connect(demo, runs_tab)
        front = {
            train_tab: [train.monitor.timer],
            generate_tab: [generate.timer, train.monitor.timer],
            language_tab: [language.timer],
            runs_tab: [listing.timer],
        }
        _poll_what_is_looked_at(front)
        Remote(generate.jobs).offer()
        _hand_over(listing, generate, language, tabs)
        _once_more(listing, {"image": train, "text": language.tune}, [tabs, language.tabs])
    handlers.guard(demo)
    return demo


def _poll_what_is_looked_at(timers: dict[gr.Tab, list[gr.Timer]]) -> None:
    """Only what the tab in front shows is asked for every second or two; and what is at work, for the page's title."""
    every = list(dict.fromkeys(timer for some in timers.values() for timer in some))
    for tab, own in timers.items():
        states = [timer in own for timer in every]
        tab.select(
            lambda states=states: [gr.Timer(active=state) for state in states],
            None,
            every,
            show_progress="hidden",
            api_visibility="private",
        )


def _hand_over(listing: RunsTab, generate: GenerateTab, language: LanguageTab, tabs: gr.Tabs) -> None:
    """'Try it': open the run's adapter in its tab, with a prompt to begin with if there is none."""
    form = generate.form
    first, *others = form.choices

    def use(name: str | None, prompt: str, base: str, uploads: list[str], message: str) -> dict[Any, Any]:
        try:
            run = safe.run(name)
            config = run.config()
        except UserError as error:
            raise gr.Error(html.escape(str(error))) from None  # it is shown as HTML
        if run.task == "text":
            return language.talk_with(run, message) | {tabs: gr.Tabs(selected="language")}
        options = draw_form.adapter_choices(uploads)
        updates: dict[Any, Any] = {choice: gr.update(choices=options) for choice in others}
        updates[first] = gr.update(choices=options, value=f"run:{run.name}")
        updates[form.prompt] = prompt or next(iter(config.sample.prompts), config.data.prompt)
        updates |= zip(form.suited, as_in(config, base), strict=True)
        return updates | {tabs: gr.Tabs(selected="generate")}

    listing.use.click(
        use,
        [listing.chosen, form.prompt, form.base, form.uploads, language.chat.message],
        [tabs, form.prompt, *form.suited, *form.choices, *language.talking],
        show_progress="hidden",
        api_visibility="private",
    )


def _once_more(listing: RunsTab, forms: dict[str, TrainTab], tabs: list[gr.Tabs]) -> None:
    """'Train again': a run's settings and data into the form of its tab; what was there can be had back."""
    parts = {part for form in forms.values() for part in form.kept.values()}

    def fill(data: dict[Any, Any]) -> dict[Any, Any]:
        run = safe.run(data[listing.chosen])
        outer, inner = tabs
        shown = {
            outer: gr.Tabs(selected="language" if run.task == "text" else "train"),
            inner: gr.Tabs(selected="tune"),
        }
        return forms[run.task].again(run, data) | shown

    outputs = [part for form in forms.values() for part in (*form.outputs, form.before, form.undo)]
    listing.once_more.click(
        fill, {listing.chosen, *parts}, [*dict.fromkeys(outputs), *tabs, listing.note],
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip
