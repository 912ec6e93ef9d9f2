"""From YAML and ``key=value`` to a :class:`Config`, reporting every problem at once.

A preset holds differences from the defaults only, and one ``about:`` line. Values are YAML: ``train.steps=200``,
``sample.prompts=[a, b]``, ``optimizer.lr=1e-4``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .config import Config, ConfigError, Problem, Section, fields, sections
from .paths import PRESETS


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class Preset:
    """A named set of differences from the defaults."""

    name: str
    about: str
    path: Path
    values: dict[str, Any]


def parse_yaml(text: str, source: str) -> Any:
    """YAML text to values; a syntax error names ``source`` and the line. Raises ConfigError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(source, f"is not valid YAML: {' '.join(str(error).split())}.")]) from None


def read_preset(path: Path) -> Preset:
    """Read one preset file. Raises ConfigError."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error}.")]) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError([Problem(str(path), "must be a mapping of sections.", "See presets/smoke.yaml.")])
    about = str(values.pop("about", ""))
    return Preset(name=path.stem, about=about, path=path, values=values)


def all_presets(folder: Path = PRESETS) -> list[Preset]:
    """Every preset of a folder, by name."""
    return [read_preset(path) for path in sorted(folder.glob("*.yaml"))]


def find_preset(name: str) -> Preset:
    """A preset by file path or by name. Raises ConfigError naming the presets there are."""
    for path in (Path(name), PRESETS / f"{name}.yaml", PRESETS / name):
        if path.is_file():
            return read_preset(path)
    known = ", ".join(path.stem for path in sorted(PRESETS.glob("*.yaml")))
    raise ConfigError([Problem("preset", f"there is no file or preset {name!r}.", f"Presets: {known}.")])


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["adapter.rank=8"]`` to ``{"adapter.rank": 8}``. Raises ConfigError for anything that is not key=value."""
    values, problems = {}, []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            problems.append(Problem(pair, "is not key=value.", "Write for example adapter.rank=8."))
            continue
        try:
            values[key.strip()] = parse_yaml(text, key) if text.strip() else _empty(key.strip())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return values


def _empty(key: str) -> Any:
    """``key=`` means the empty string for texts and None elsewhere."""
    field = fields().get(key)
    return "" if field is not None and field.annotation is str else None


def build(values: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults < nested ``values`` (a preset) < dotted ``overrides`` -> Config.

    Raises:
        ConfigError: with one Problem for every unknown key, bad value and broken rule.
    """
    flat, problems = _flatten(values or {})
    flat.update(overrides or {})
    problems += [_unknown(key) for key in flat if key not in fields()]
    known = {key: value for key, value in flat.items() if key in fields()}
    built: dict[str, Any] = {}
    for name, kind in sections().items():
        inner = {key.partition(".")[2]: value for key, value in known.items() if key.startswith(f"{name}.")}
        section, found = _validate(kind, inner, f"{name}.")
        problems += found
        built[name] = section
    top = {key: value for key, value in known.items() if "." not in key}
    config, found = _validate(Config, top | {k: v for k, v in built.items() if v is not None}, "")
    problems += found
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _flatten(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    flat: dict[str, Any] = {}
    problems = []
    for name, value in values.items():
        if name in sections():
            if isinstance(value, Mapping):
                flat.update({f"{name}.{key}": inner for key, inner in value.items()})
            elif value is not None:
                problems.append(Problem(str(name), f"must be a mapping of settings, got {value!r}."))
        else:
            flat[str(name)] = value
    return flat, problems


def _validate(kind: type[Section], values: dict[str, Any], prefix: str) -> tuple[Any, list[Problem]]:
    try:
        section = kind.model_validate(values)
    except ValidationError as error:
        return None, [_from_pydantic(item, prefix) for item in error.errors()]
    return section, [Problem(prefix + p.key, p.rule, p.hint) for p in section.check()]


def _from_pydantic(item: Any, prefix: str) -> Problem:
    message = item["msg"].replace("Input should", "must").replace("String should", "must")
    key = prefix + ".".join(str(part) for part in item["loc"][:1])
    got = item["input"] if not isinstance(item["input"], BaseModel) else "..."
    return Problem(key, f"{message[0].lower()}{message[1:]}, got {got!r}.")


def _unknown(key: str) -> Problem:
    by_last_name = {dotted.rpartition(".")[2]: dotted for dotted in fields()}
    close = difflib.get_close_matches(key, [*fields(), *sections()], n=1, cutoff=0.7)
    close = close or [by_last_name[n] for n in difflib.get_close_matches(key.rpartition(".")[2], by_last_name, n=1)]
    hint = f"Did you mean {close[0]}?" if close else "The command `settings` lists all of them."
    return Problem(key, "there is no such setting.", hint)


def to_yaml(config: Config) -> str:
    """Every value, defaults too, so that a run means the same after the defaults have moved on."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def from_yaml(text: str, source: str) -> Config:
    """Inverse of :func:`to_yaml`. Raises ConfigError."""
    return build(parse_yaml(text, source) or {})
