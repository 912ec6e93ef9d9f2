"""From the Generate tab's fields to a request, naming every problem; and which adapters there are to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrank_diffusion import presets
from lowrank_diffusion.config import BaseModelConfig, Config, ConfigError, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import adapter_files, kept, request, samplers
from lowrank_diffusion.image.grid import MOST_CELLS
from lowrank_diffusion.image.request import LIMITS, AdapterChoice, DrawRequest, violation
from lowrank_diffusion.image.source import ModelError, native_side, resolve
from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import FORMS, Run

from . import live, safe, watching
from .form import number
from .toolkit import uploads_folder

LABELS = {
    "count": "Pictures", "steps": "Steps", "seed": "Seed", "width": "Width", "height": "Height",
    "guidance": "Guidance", "change": "Change", "sampler": "Sampler", "mask": "Mask",
}  # fmt: skip
"""What the fields of a request are called on the page."""
OWN_SAMPLER = "the base's own"


class RequestError(UserError):
    """The fields do not make a request (``problems``)."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def adapter_choices(uploads: list[str], limit: int = 100) -> list[tuple[str, str]]:
    """Choices for a selector: none, uploaded files, then runs that have an adapter, newest first."""
    options = [("none", "")]
    options += [(Path(path).name, f"file:{path}") for path in uploads]
    for run in watching.runs_of("image")[:limit]:
        for place, adapter in enumerate(run.adapters()):
            label, value = f"{run.title} · {adapter.standing}", f"run:{run.name}"
            options.append((label, f"{value}@{adapter.step}") if place else (f"{label} · {live.created(run)}", value))
    return options


def run_of(choice: str) -> tuple[str, int | None]:
    """The run's name and the checkpoint's step of a choice "run:NAME" or "run:NAME@STEP"."""
    name, _, step = choice.removeprefix("run:").partition("@")  # no run's name holds one
    return name, int(step) if step.isascii() and step.isdecimal() and len(step) < 10 else None


def still_there(choices: list[str]) -> list[str]:
    """The uploaded files among choices that a page remembers."""
    files = []
    for choice in choices:
        kind, _, name = choice.partition(":")
        try:
            files += [str(safe.uploaded(name))] if kind == "file" else []
        except UserError:
            continue
    return list(dict.fromkeys(files))


def run_settings(choice: str) -> Config | None:
    """The settings of a chosen run; None without one, and for a run that cannot be read (drawing will say why)."""
    try:
        return safe.run(run_of(choice)[0]).config() if choice.startswith("run:") else None
    except UserError:
        return None


def describe_adapter(path: Path) -> str:
    """One line about an uploaded adapter. Raises AdapterError for a file that is not one, naming what it is."""
    return adapter_files.check(path).line()


def _adapter(choice: str, strength: float) -> AdapterChoice:
    """One chosen row. Raises UserError."""
    kind, _, name = choice.partition(":")
    if kind == "file":
        path = safe.uploaded(name)
        describe_adapter(path)
        return AdapterChoice(str(path), strength)
    if kind != "run":
        raise UserError(f"there is no adapter {choice!r}. Choose one of the list, or add a file.")
    name, step = run_of(choice)
    run = safe.run(name)
    if step is None and run.newest_adapter() is None:
        raise UserError(f"the run {name} has no adapter file yet. Wait for its first checkpoint.")
    return AdapterChoice(str(run.adapter(step).loaded), strength)


def native(base: str) -> str:
    """The side of a base's pictures in pixels, for an empty field; "native" where that is not known yet."""
    try:
        return str(native_side(resolve(BaseModelConfig(path=base.strip() or "embedded"))))
    except (UserError, ValueError, OSError):
        return "native"


def _numbers(answers: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The number fields that are filled in, and what is wrong with them."""
    numbers, problems = {}, []
    for name in (name for name in LABELS if name in LIMITS):
        label, value = LABELS[name], number(answers[name])
        rule = violation(name, value) if value is not None else ""
        if value is None and name not in ("width", "height"):
            rule = "is empty."
        if rule:
            problems.append(Problem(label, rule))
        elif value is not None:
            numbers[name] = value
    return numbers, problems


def build_request(answers: dict[str, Any]) -> DrawRequest:
    """A request out of the tab's fields. Raises RequestError with every problem."""
    numbers, problems = _numbers(answers)
    adapters = []
    for index, (choice, strength) in enumerate(answers["adapters"], 1):
        try:
            adapters += [_adapter(choice, float(strength))] if choice else []
        except UserError as error:
            problems.append(Problem(f"Adapter {index}", str(error)))
    base = BaseModelConfig()
    try:
        base = presets.build(overrides={"base.path": str(answers["base"] or "").strip() or "embedded"}).base
        resolve(base)
    except (ConfigError, ModelError) as error:
        problems += [Problem("Base model", problem.rule, problem.hint) for problem in error.problems]
    files = {}
    for name, label in (("start", "Start picture"), ("mask", "Mask")):
        try:
            files[name] = str(picture(answers[name])) if answers[name] else None
        except UserError as error:
            problems.append(Problem(label, str(error)))
    if problems:
        raise RequestError(problems)
    chosen = str(answers["sampler"] or "")
    drawn = DrawRequest(
        prompt=str(answers["prompt"] or "").strip(),
        negative=str(answers["negative"] or "").strip(),
        base=base,
        adapters=tuple(adapters),
        sampler=samplers.OWN if chosen == OWN_SAMPLER else chosen,
        compare=bool(answers["compare"]) and bool(adapters),
        **numbers,
        **files,
    )
    if wrong := request.problems(drawn):
        raise RequestError([Problem(LABELS.get(item.key, item.key), item.rule, item.hint) for item in wrong])
    return drawn


def picture(path: str) -> Path:
    """A picture to start from: an upload, or one that was drawn here. Raises RefusedError."""
    return safe.inside(path, uploads_folder(), EXAMPLES, safe.pictures_folder())


def prompts(text: str, one_a_line: bool) -> list[str]:
    """What to draw in turn: the whole text, or each line of it that is not empty. Raises RequestError for too many."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] if one_a_line else []
    if len(lines) > MOST_CELLS:
        rule = f"has {len(lines):,} lines; at most {MOST_CELLS} are drawn in turn."
        raise RequestError([Problem("Prompt", rule, "The command generate takes any number, with --prompts.")])
    return lines or [text.strip()]


def choice_of(adapter: AdapterChoice, uploads: list[str]) -> str:
    """The choice of the selector for an adapter that a picture names, by file or by name; empty if it is not here.

    A run's adapter is known by its folder; a name also by that of the run, as A1111 has it from the run's files.
    """
    path = Path(adapter.path)
    run = kept.owner(path) if path.is_absolute() else None
    if run and run.path.parent == safe.runs_root() and path.exists():
        newest = run.newest_adapter()
        return f"run:{run.name}" if newest and path == newest.loaded else f"run:{run.name}@{kept.step_in(path)}"
    for upload in uploads:
        if upload == adapter.path or Path(upload).stem == adapter.path:
            return f"file:{upload}"
    names: dict[str, Run] = {}
    for one in reversed(watching.runs_of("image")):  # of several with one title the newest
        names |= {f"{one.title}{end.removesuffix('.safetensors')}": one for end in ("", *FORMS["image"])}
        names[one.name] = one
    named = names.get(adapter.path)
    return f"run:{named.name}" if named and named.newest_adapter() else ""


def file_of(name: str, uploads: list[str]) -> str:
    """The file of an adapter that an axis names, by its label in the selectors or by its run. Raises UserError."""
    offered = adapter_choices(uploads)
    value = next((value for label, value in offered if name in (label, value)), "")
    title, _, step = name.rpartition(":")
    value = value or choice_of(AdapterChoice(title if step.isdecimal() and title else name), uploads)
    if not value:
        raise UserError(f"there is no adapter {name[:80]!r}. Name a run (RUN, or RUN:STEP), or an added file.")
    if step.isdecimal() and title and value.startswith("run:") and "@" not in value:
        value = f"{value}@{step}"
    return _adapter(value, 1.0).path
