"""What stands beside Start: what will be learnt, what it will take, how steps run, and the same as text to copy."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lowrank_diffusion import forecast, own_presets, preflight, presets
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.forecast import Forecast
from lowrank_diffusion.plan import Plan
from lowrank_diffusion.presets import Preset
from lowrank_diffusion.runs import all_runs

from . import watching
from .form import message_html

if TYPE_CHECKING:
    from .train import TrainTab


def of_form(tab: TrainTab, data: dict[Any, Any]) -> str:
    """All of it for what a tab's fields hold now; nothing while they make no run, which is said at the start."""
    try:
        config = presets.with_absolute_paths(presets.build(overrides=tab.form.values(data)))
    except UserError:
        return ""
    source, problems = preflight.base(config)
    if source is None:  # a wrong path is best seen where it is typed
        return message_html(str(problems[0]), "bad")
    try:
        chosen = tab.panel.chosen(data)
        line, notes = chosen.summary(config)
        plan = preflight.plan(config)
        coming = forecast.of(config, chosen.count(config), all_runs(), watching.status)
    except UserError:
        return ""
    preset, name = tab.memory.preset_of(data[tab.preset]), str(data[tab.name] or "")
    return html_of(line, coming, tab.form.left_out(data) + notes, plan) + copies(config, preset, name)


def html_of(line: str, coming: Forecast, notes: Sequence[str], plan: Plan) -> str:
    """What will be learnt, and what of it not as it is; what it takes; and how steps will run."""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    count = "one note" if len(notes) == 1 else f"{len(notes)} notes"
    more = f"<details open><summary>{count}</summary><ul>{items}</ul></details>" if notes else ""
    how = plan.refused or f"S{str(plan)[1:]}."
    first = f"<span>{html.escape(line)}</span>" if line else ""
    takes = f'<p class="forecast">{html.escape(coming.words())}</p>'
    return f'<div class="told" role="status">{first}{takes}{more}<p>{html.escape(how)}</p></div>'


def copies(config: Config, preset: Preset | None, name: str) -> str:
    """The command line and the YAML that do the same."""
    place = config.data.instance or ("PICTURES" if config.task == "image" else "ROWS")
    own = config.model_copy(update={"data": config.data.model_copy(update={"instance": place})})
    parts = (("Command line", own_presets.command(own, preset, name)), ("YAML", own_presets.to_yaml(config)))
    return '<div class="copies">' + "".join(_copy(*part) for part in parts) + "</div>"


def _copy(title: str, text: str) -> str:
    """A text that is folded away, with a button that copies it (`static/page.js`)."""
    button = f'<button type="button" data-copy aria-label="Copy: {title}">Copy</button>'
    return f"<details><summary>{title}</summary>{button}<pre tabindex=0>{html.escape(text)}</pre></details>"
