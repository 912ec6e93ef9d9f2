"""Config fields as widgets, bound by their dotted key; and the way back, with every problem named.

A new field in ``config.py`` gets its widget here without a change: its type decides the kind, its help, unit and
bounds are shown. :data:`LABELS` and :data:`MAIN` only decide wording and what stands in front.
"""

from __future__ import annotations

import html
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from lowrank_diffusion import plain_yaml
from lowrank_diffusion.adapters.kinds import KINDS, foreign
from lowrank_diffusion.config import Config, Problem, fields, sections

from .toolkit import gr

MAIN = {
    "image": (
        "data.subject", "data.word", "data.trigger", "base.path",
        "adapter.kind", "adapter.rank", "adapter.k", "adapter.factor", "flat.sigma",
        "train.steps", "optimizer.lr", "train.batch",
        "data.prompt", "sample.prompts",
    ),
    "text": (
        "base.path", "text.loss_on", "text.length",
        "adapter.kind", "adapter.rank", "adapter.k", "adapter.factor", "flat.sigma",
        "train.steps", "optimizer.lr", "train.batch", "train.accumulate",
        "sample.prompts",
    ),
}  # fmt: skip
"""The settings of a task that matter most; all others are folded away."""

LABELS = {
    "base.path": "Base model",
    "base.vae": "Other VAE",
    "data.instance": "Folder or file instead of what is above",
    "data.subject": "It is a",
    "data.word": "Its word",
    "data.prompt": "Caption of pictures without one",
    "data.trigger": "Trigger word",
    "prior.weight": "Weight of class pictures",
    "prior.prompt": "Class prompt",
    "prior.pictures": "Folder of class pictures",
    "prior.count": "Number of class pictures",
    "adapter.kind": "Adapter",
    "adapter.k": "Blocks (k)",
    "adapter.factor": "Small side (factor)",
    "adapter.hybrid_rank": "Extra plain rank",
    "adapter.targets": "Adapted layers",
    "adapter.text_encoders": "Text encoders",
    "flat.sigma": "Flat-LoRA",
    "optimizer.name": "Optimiser",
    "optimizer.lr": "Learning rate",
    "optimizer.text_encoder_lr": "Learning rate of text encoders",
    "loss.min_snr": "Min-SNR gamma",
    "train.steps": "Steps",
    "train.batch": "Batch",
    "train.accumulate": "Batches per step",
    "train.clip": "Gradient clipping",
    "train.ema": "Weight averaging (EMA)",
    "sample.prompts": "Sample prompts, one per line",
    "sample.every": "Samples every",
    "save.every": "Checkpoints every",
    "validation.every": "Validate every",
    "validation.holdout": "Held out",
    "text.loss_on": "Learn from",
    "text.length": "Tokens per sequence",
    "text.overlong": "Rows that are too long",
    "text.held_out": "File of held-out rows",
    "text.scored": "Held-out rows scored",
    "text.answers": "Held-out rows answered",
    "text.template": "Chat template",
}

KIND = "adapter.kind"
PLACEHOLDERS = {"data.subject": "robot", "data.word": "sks"}
"""What stands in an empty text field."""


def label(key: str) -> str:
    """What a person calls the setting."""
    words = key.rpartition(".")[2].replace("_", " ")
    return LABELS.get(key, words[0].upper() + words[1:])


def css_class(key: str) -> str:
    """The class of every widget of this setting."""
    return "key-" + key.replace(".", "-").replace("_", "-")


def prefix(task: str) -> str:
    """What the ids in a tab of this task begin with."""
    return "" if task == "image" else f"{task}-"


def element_id(key: str, task: str = "image") -> str:
    """The id of the widget on the page."""
    return prefix(task) + "field-" + key.replace(".", "-").replace("_", "-")


def _inner(field: FieldInfo) -> tuple[Any, bool]:
    """The type without None, and whether None is allowed."""
    kind = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return (parts[0] if len(parts) == 1 else str | tuple), type(None) in get_args(kind)
    return kind, False


def _bounds(field: FieldInfo) -> str:
    """The field's limits in words."""
    limit: dict[str, Any] = {}
    for rule in field.metadata:
        limit |= {name: getattr(rule, name) for name in ("ge", "gt", "le", "lt", "multiple_of") if hasattr(rule, name)}
    low = f"{limit['ge']}" if "ge" in limit else f"above {limit['gt']}" if "gt" in limit else ""
    high = f"{limit['le']}" if "le" in limit else f"below {limit['lt']}" if "lt" in limit else ""
    text = f"{low} to {high}" if low and high else low if "gt" in limit else f"from {low}" if low else high
    return text + (f", multiples of {limit['multiple_of']}" if "multiple_of" in limit else "")


def _information(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
    facts = ", ".join(part for part in (unit, _bounds(field)) if part)
    help_text = field.description or ""
    return f"{help_text} ({facts})" if facts else help_text


def to_widget(key: str, value: Any) -> Any:
    """A config value as its widget shows it."""
    kind, _ = _inner(fields()[key])
    if get_origin(kind) is tuple:
        return "\n".join(value)
    if isinstance(value, list | tuple):
        return plain_yaml.one_line(list(value))
    if fields()[key].annotation is not kind or kind is str:
        return "" if value is None else str(value)  # what may be empty is a text: an empty number field shows 0
    return value


def from_widget(key: str, raw: Any) -> Any:
    """What a widget holds as a config value; what does not fit is passed on for the config to name."""
    kind, optional = _inner(fields()[key])
    if get_origin(kind) is tuple:
        return tuple(line.strip() for line in str(raw or "").splitlines() if line.strip())
    if kind in (int, float):
        return number(raw)
    if kind is bool or get_origin(kind) is Literal:
        return raw
    text = str(raw or "").strip()
    if kind is not str and text.startswith("[") and text.endswith("]"):
        return tuple(plain_yaml.parse(text, key))  # the list spelling of YAML and the command line
    return None if optional and not text else text


def widget(key: str, value: Any, task: str = "image") -> gr.components.Component:
    """The widget of one setting in the tab of ``task``, showing ``value``."""
    field = fields()[key]
    kind, optional = _inner(field)
    common: dict[str, Any] = {
        "value": to_widget(key, value),
        "label": label(key),
        "info": _information(field),
        "elem_id": element_id(key, task),
        "elem_classes": ["field", css_class(key)],
    }
    if get_origin(kind) is Literal:
        return gr.Dropdown(choices=list(get_args(kind)), filterable=False, **common)
    if kind is bool:
        return gr.Checkbox(**common)
    if kind in (int, float) and not optional:
        return gr.Number(**common)
    many = get_origin(kind) is tuple
    common["placeholder"] = PLACEHOLDERS.get(key)
    return gr.Textbox(lines=3 if many else 1, max_lines=8 if many else 1, **common)


def number(raw: Any) -> Any:
    """A number field's content as a number, None if it is empty; what is no number is passed on as it is."""
    if isinstance(raw, str):
        try:
            raw = float(raw) if raw.strip() else None
        except ValueError:
            return raw
    return int(raw) if isinstance(raw, float) and raw.is_integer() else raw


def key_styles() -> str:
    """CSS that shows every widget's dotted key, small, behind its label."""
    rules = (
        f'.{css_class(key)} [data-testid="block-info"]::after, .{css_class(key)}.checkbox-key::after{{content:"{key}"}}'
        for key in fields()
    )
    return "\n".join(rules)


class Form:
    """The widgets of all settings that the config's task has, placed where its methods are called.

    The task itself has none: it is that of the tab.
    """

    def __init__(self, config: Config) -> None:
        self.task = config.task
        self._values = config.dotted()
        self.widgets: dict[str, gr.components.Component] = {}

    def place(self, *keys: str) -> None:
        """Render the widgets of some settings here."""
        for key in keys:
            self.widgets[key] = widget(key, self._values[key], self.task)

    def place_rest(self) -> None:
        """Render every setting not placed yet, grouped by section."""
        left = [key for key in fields(self.task) if key not in self.widgets and key != "task"]
        for name, kind in {"": Config, **sections()}.items():
            keys = [key for key in left if key.rpartition(".")[0] == name]
            if not keys:
                continue
            title = name.capitalize() or "Run"
            about = (kind.__doc__ or "").strip().splitlines()[0] if name else "Of the run as a whole."
            gr.HTML(f'<h4 class="section">{title}<small>{html.escape(about)}</small></h4>', apply_default_css=False)
            with gr.Row(elem_classes=["fields"]):
                self.place(*keys)

    def values(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """Dotted values out of what a handler was given. Raises ConfigError.

        Settings of adapter kinds that are not chosen stay in their fields and are left out: see :meth:`left_out`.
        """
        foreign = self._foreign(data)
        parts = {key: part for key, part in self.widgets.items() if key not in foreign}
        return {"task": self.task} | {key: from_widget(key, data[part]) for key, part in parts.items()}

    def left_out(self, data: Mapping[Any, Any]) -> list[str]:
        """A note on every setting that was given and that only another adapter kind than the chosen one has."""
        defaults = Config().dotted()
        changed = [key for key in self._foreign(data) if self.value(key, data) != defaults[key]]
        chosen = data[self.widgets[KIND]]
        return [f"{label(key)} ({key}) is left out: adapter.kind={chosen} has no such setting." for key in changed]

    def _foreign(self, data: Mapping[Any, Any]) -> list[str]:
        kind = data[self.widgets[KIND]]
        return [f"adapter.{name}" for name in foreign(kind)] if kind in KINDS else []

    def value(self, key: str, data: Mapping[Any, Any]) -> Any:
        """One of them. Raises ConfigError."""
        return from_widget(key, data[self.widgets[key]])

    def fill(self, config: Config) -> dict[Any, Any]:
        """What a handler returns to show ``config``."""
        shown = config.dotted()
        return {part: to_widget(key, shown[key]) for key, part in self.widgets.items()}


def problems_html(problems: Iterable[Problem], task: str = "image") -> str:
    """All problems in one place, each naming its widget in the tab of ``task``; and those widgets outlined."""
    problems = list(problems)
    if not problems:
        return ""
    rows, marks = [], []
    for problem in problems:
        text = html.escape(problem.rule + (f" {problem.hint}" if problem.hint else ""))
        if problem.key in fields():
            marks.append(f"#{element_id(problem.key, task)}")
            name = html.escape(label(problem.key))
            where = f'<a href="#{element_id(problem.key, task)}">{name}</a> <code>{problem.key}</code>'
        else:
            where = f"<b>{html.escape(problem.key)}</b>"
        rows.append(f"<li>{where} {text}</li>")
    style = (
        f"<style>{','.join(marks)}{{outline:2px solid var(--bad);outline-offset:4px;border-radius:3px}}</style>"
        if marks
        else ""
    )
    count = "One thing has" if len(rows) == 1 else f"{len(rows)} things have"
    return (
        f'{style}<div class="problems" role="alert"><strong>{count} to be put right first.</strong>'
        f"<ul>{''.join(rows)}</ul></div>"
    )


def message_html(text: str, kind: str = "info") -> str:
    """A message for a person, line breaks kept; ``kind`` is info, good or bad."""
    if not text:
        return ""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="message {kind}" role="{role}">{html.escape(text).replace(chr(10), "<br>")}</div>'
