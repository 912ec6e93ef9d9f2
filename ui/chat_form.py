"""From the Chat tab's fields to a job, naming every problem; which adapters there are; and the conversation's HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowrank_diffusion import presets
from lowrank_diffusion.bases import ModelError
from lowrank_diffusion.config import BaseModelConfig, Config, ConfigError, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.text.request import Settings, violation
from lowrank_diffusion.text.rows import Message
from lowrank_diffusion.text.source import resolve

from . import live, safe, watching
from .draw_form import RequestError
from .form import number
from .language_worker import Chat, Reply, Side

LABELS = {"temperature": "Temperature", "top_p": "Top-p", "max_tokens": "Most tokens", "seed": "Seed"}
LONGEST_MESSAGE = 200_000
"""Characters."""


@dataclass(frozen=True)
class Spoken:
    """One side's answer in a conversation, as far as it has come."""

    adapted: bool
    by: str
    """Who answered: the base's or the adapter's name."""
    text: str = ""
    facts: str = "waiting"
    whole: bool = False


@dataclass(frozen=True)
class Turn:
    """What a person said, and the answers to it."""

    message: str
    answers: tuple[Spoken, ...]


def adapter_choices(limit: int = 100) -> list[tuple[str, str]]:
    """Choices for a selector: none, then runs that have an adapter, newest first."""
    options = [("none", "")]
    for run in watching.runs_of("text")[:limit]:
        if adapter := run.newest_adapter():
            options.append((f"{run.title} · {adapter.standing} · {live.created(run)}", run.name))
    return options


def config_of(name: str) -> Config:
    """The settings of the run an adapter is of. Raises UserError."""
    return safe.run(name).config()


def build_job(answers: dict[str, Any], turns: tuple[Turn, ...]) -> tuple[Chat, tuple[str, ...]]:
    """The job that answers ``message`` after ``turns``, and who answers. Raises RequestError with every problem."""
    settings, problems = _settings(answers)
    message = str(answers["message"] or "").strip()
    if not message:
        problems.append(Problem("Message", "is empty.", "Write something."))
    if len(message) > LONGEST_MESSAGE:
        problems.append(Problem("Message", f"is longer than {LONGEST_MESSAGE:,} characters.", "Shorten it."))
    base = BaseModelConfig()
    try:
        base = presets.build(overrides={"base.path": str(answers["base"] or "").strip() or "embedded"}).base
    except ConfigError as error:
        problems += [Problem("Base model", problem.rule, problem.hint) for problem in error.problems]
    folder = None
    if answers["adapter"]:
        try:
            folder = _adapter(answers["adapter"])
            used = config_of(answers["adapter"]).base
            base = used if used.path == base.path else base  # with its revision and quantisation
        except UserError as error:
            problems.append(Problem("Adapter", str(error)))
    try:
        label = resolve(base).label
    except ModelError as error:
        label, problems = "", problems + [Problem("Base model", item.rule, item.hint) for item in error.problems]
    if problems:
        raise RequestError(problems)
    kinds = ([False] if folder is None or answers["compare"] else []) + ([True] if folder else [])
    sides = tuple(Side(adapted, _conversation(answers["system"], turns, adapted, message)) for adapted in kinds)
    names = tuple(safe.run(answers["adapter"]).title if adapted else label for adapted in kinds)
    return Chat(base, str(answers["template"]), folder, sides, settings), names


def _settings(answers: dict[str, Any]) -> tuple[Settings, list[Problem]]:
    """The numbers, and what is wrong with them."""
    settings, problems = Settings(), []
    for name, label in LABELS.items():
        value = number(answers[name])
        rule = "is empty." if value is None else violation(name, value)
        if rule:
            problems.append(Problem(label, rule))
        else:
            settings = replace(settings, **{name: value})
    return settings, problems


def _adapter(name: str) -> Path:
    """The folder of a run's adapter. Raises UserError."""
    adapter = safe.run(name).newest_adapter()
    if adapter is None:
        raise UserError(f"the run {name} has no adapter yet. Wait for its first checkpoint.")
    return adapter.loaded


def _conversation(system: Any, turns: tuple[Turn, ...], adapted: bool, message: str) -> tuple[Message, ...]:
    """What one side has heard and said itself so far, and the new message."""
    words = str(system or "").strip()
    messages = [Message("system", words)] if words else []
    for turn in turns:
        for answer in turn.answers:
            if answer.adapted == adapted and answer.text.strip():
                messages += [Message("user", turn.message), Message("assistant", answer.text)]
    return (*messages, Message("user", message))


def begun(message: str, job: Chat, names: tuple[str, ...]) -> Turn:
    """The turn before anybody has answered."""
    return Turn(message, tuple(Spoken(side.adapted, by) for side, by in zip(job.sides, names, strict=True)))


def saying(turn: Turn, texts: tuple[str | None, ...]) -> Turn:
    """The turn with what has been said so far."""
    talking = sum(text is not None for text in texts) - 1
    words = [("" if at < talking else "answering") if text is not None else "waiting" for at, text in enumerate(texts)]
    if talking < 0:
        words[0] = "loading the model, which takes longest the first time"
    answers = zip(turn.answers, texts, words, strict=True)
    return Turn(turn.message, tuple(replace(answer, text=text or "", facts=fact) for answer, text, fact in answers))


def stopped(turn: Turn) -> Turn:
    """The turn where it was broken off."""
    return Turn(turn.message, tuple(replace(answer, facts="stopped", whole=True) for answer in turn.answers))


def answered(turn: Turn, replies: tuple[Reply, ...]) -> Turn:
    """The turn at its end."""
    done = []
    for answer, reply in zip(turn.answers, replies, strict=True):
        speed = f" · {reply.tokens / reply.seconds:.1f} tokens/s" if reply.tokens > 1 and reply.seconds else ""
        cut = " · cut: no more tokens allowed" if reply.cut else ""
        facts = f"{reply.tokens} token{'' if reply.tokens == 1 else 's'}{speed}{cut}"
        done.append(replace(answer, text=reply.text, facts=facts, whole=True))
    return Turn(turn.message, tuple(done))


def conversation_html(turns: tuple[Turn, ...]) -> str:
    """The conversation, the answers to each message side by side."""
    if not turns:
        words = "Write a message below. With an adapter chosen, it and its base answer side by side."
        return f'<div class="chat-empty">{words}</div>'
    return f'<div class="chat"><div>{"".join(map(_turn, turns))}</div></div>'


def _turn(turn: Turn) -> str:
    return (
        f'<section class="turn"><p class="said">{html.escape(turn.message)}</p>'
        f'<div class="answers">{"".join(map(_answer, turn.answers))}</div></section>'
    )


def _answer(answer: Spoken) -> str:
    kind = "adapted" if answer.adapted else "base"
    text = html.escape(answer.text)
    if answer.whole and not answer.text:
        text = "<i>(nothing)</i>"
    state = "" if answer.whole else ' aria-busy="true"'
    return (
        f'<figure class="answer {kind}"{state}><figcaption><b>{kind}</b><span>{html.escape(answer.by)}</span>'
        f"<small>{html.escape(answer.facts)}</small></figcaption><p>{text}</p></figure>"
    )
