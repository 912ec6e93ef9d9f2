"""From the Generate tab's fields to a request, naming every problem; and which adapters there are to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrank_diffusion import presets
from lowrank_diffusion.config import BaseModelConfig, Config, ConfigError, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import adapter_files, kept
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest, violation
from lowrank_diffusion.image.source import ModelError, resolve

from . import live, safe, watching
from .form import number

LABELS = {"count": "Pictures", "steps": "Steps", "seed": "Seed", "width": "Width", "height": "Height"}


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
        for place, adapter in enumerate(kept.adapters(run)):
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


def _numbers(answers: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The number fields that are filled in, and what is wrong with them."""
    numbers, problems = {}, []
    for name, label in (LABELS | {"guidance": "Guidance"}).items():
        value = number(answers[name])
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
    if problems:
        raise RequestError(problems)
    return DrawRequest(
        prompt=str(answers["prompt"] or "").strip(),
        negative=str(answers["negative"] or "").strip(),
        base=base,
        adapters=tuple(adapters),
        compare=bool(answers["compare"]) and bool(adapters),
        **numbers,
    )
