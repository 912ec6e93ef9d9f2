"""Presets that a person keeps, and settings as something to copy: a command line, or YAML."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from . import plain_yaml, presets
from .blanks import ANSWERS
from .config import Config, ConfigError, Problem, fields
from .paths import PRESETS, own_presets_folder, write_text
from .presets import Preset

_OF_ONE_RUN = ("adapter.start", "train.regroup")
"""Settings that a preset does not keep, beside the data that was learnt from."""
LONGEST_NAME = 60


def differences(config: Config, preset: Preset | None = None) -> dict[str, Any]:
    """The dotted settings of ``config`` that a preset, or without one the defaults, do not have already."""
    before = presets.build(preset.values if preset else {}, {"task": config.task}).dotted()
    own = {key: value for key, value in config.dotted().items() if key in fields(config.task)}
    # What a preset answers is true of its own example: with other data it has to be said again.
    again = ANSWERS.values() if own.get("data.instance") != before["data.instance"] else ()
    return {key: value for key, value in own.items() if value != before[key] or (value and key in again)}


def command(config: Config, preset: Preset | None = None, name: str = "") -> str:
    """The command line that trains with these settings, as a shell of Unix takes it."""
    words = ["python", "-m", "lowrank_diffusion", "train", preset.name if preset else config_word(config.task)]
    words += [f"{key}={_text(key, value)}" for key, value in differences(config, preset).items() if key != "task"]
    words += ["--name", name] if name else []
    return shlex.join(words)


def config_word(task: str) -> str:
    """The preset that stands for no preset: the shortest of the task."""
    return "smoke" if task == "image" else "llm-smoke"


def _text(key: str, value: Any) -> str:
    """A value as :func:`.presets.parse_overrides` reads it back."""
    if value is None or value == "" or (isinstance(value, list | tuple) and not value):
        return ""
    if isinstance(value, str):
        plain = value == value.strip() and "\n" not in value and value[0] not in "\"'"
        return (
            value if plain and fields()[key].annotation in (str, str | None) else json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value, ensure_ascii=False)


def to_yaml(config: Config, about: str = "") -> str:
    """A preset's YAML: what is different from the defaults, and ``about``."""
    nested: dict[str, Any] = {"about": about} if about else {}
    for key, value in differences(config).items():
        section, _, field = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[field] = value
    if config.task != "image":
        nested = {"task": config.task, **nested}
    return plain_yaml.write(nested)


def save(name: str, config: Config, about: str = "") -> Path:
    """Keep settings as a preset of this name; the data that was learnt from is not part of it.

    Raises:
        ConfigError: the name is not one, or one of the presets that ship with the project; or it cannot be written.
    """
    rule = name_problem(name)
    if rule:
        raise ConfigError([Problem("Preset name", rule, "Take letters, digits, '-' and '_'.")])
    values = config.dotted() | dict.fromkeys(_OF_ONE_RUN) | {"data.instance": ""}
    kept = presets.build(overrides={key: value for key, value in values.items() if value is not None})
    path = own_presets_folder() / f"{name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_yaml(presets.with_absolute_paths(kept), about or f"Kept on this machine as {name}."))
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be written: {error.strerror}.", "Free some space.")]) from None
    return path


def name_problem(name: str) -> str:
    """Why a preset of one's own cannot have this name; empty if it can."""
    if not re.fullmatch(r"[\w-]+", name, re.ASCII) or len(name) > LONGEST_NAME:
        return f"must have 1 to {LONGEST_NAME} letters, digits, '-' or '_', got {name[:80]!r}."
    if (PRESETS / f"{name}.yaml").exists():
        return f"{name} is one of the project's own presets."
    return ""


def delete(name: str) -> None:
    """Delete a preset of one's own. Raises ConfigError if there is none."""
    path = own_presets_folder() / f"{name}.yaml"
    if name_problem(name) or not path.is_file():
        raise ConfigError([Problem("preset", f"{name[:80]!r} is not one of your own.", "Those are never deleted.")])
    path.unlink()
