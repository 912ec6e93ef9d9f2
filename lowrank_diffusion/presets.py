"""From YAML and ``key=value`` to a :class:`Config`, reporting every problem at once.

A preset holds differences from the defaults only, and one ``about:`` line. Values are YAML: ``train.steps=200``,
``sample.prompts=[a, b]``, ``optimizer.lr=1e-4``; after ``key=``, texts are taken as they stand.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from . import blanks, datasets, plain_yaml
from .adapters.kinds import KINDS, foreign
from .config import EMBEDDED, PATHS, Config, ConfigError, Problem, Section, fields, sections
from .declare import shortened, shown
from .errors import SHOWN, DataError
from .paths import PRESETS, PROJECT, expanded, own_presets_folder, too_long
from .purposes import PURPOSES

RENAMED = {"train.step": "train.execution"}
"""Settings by the names that they had; these are still read."""
MOST_TEXT = plain_yaml.LARGEST // 10
"""Characters of all settings together: one can take ten in YAML."""


@dataclass(frozen=True)
class Preset:
    """A named set of differences from the defaults."""

    name: str
    about: str
    path: Path
    values: dict[str, Any]
    purposes: tuple[str, ...] = ()
    """What it is made for (:data:`.purposes.PURPOSES`); its own words are for the first."""

    @property
    def task(self) -> str:
        """What it trains: "image" or "text"."""
        return str(self.values.get("task", "image"))


def read_preset(path: Path) -> Preset:
    """Read one preset file. Raises ConfigError."""
    values = _mapping(plain_yaml.read(path), str(path))
    about = values.pop("about", None) or ""
    if not isinstance(about, str):
        raise ConfigError([Problem(f"{path}: about", f"must be a text, got {shown(about)}.")])
    purposes = values.pop("purposes", None) or []
    if not isinstance(purposes, list) or not all(item in PURPOSES for item in map(str, purposes)):
        rule = f"must be a list of {', '.join(PURPOSES)}, got {shown(purposes)}."
        raise ConfigError([Problem(f"{path}: purposes", rule)])
    return Preset(path.stem, " ".join(about.split()), path, values, tuple(purposes))


def _mapping(values: Any, source: str) -> dict[str, Any]:
    """What a whole file must hold; an empty one holds nothing. Raises ConfigError."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([Problem(source, "must be a mapping of sections.", "See presets/smoke.yaml.")])
    return values


def all_presets(folder: Path = PRESETS) -> list[Preset]:
    """Every preset of a folder, by name."""
    return [read_preset(path) for path in sorted(folder.glob("*.yaml"))]


def own_presets() -> list[Preset]:
    """Those that a person keeps and that can be read, by name."""
    own = []
    for path in sorted(own_presets_folder().glob("*.yaml")):
        with suppress(ConfigError):
            own.append(read_preset(path))
    return own


def named(name: Any) -> Preset | None:
    """The preset of this name, the project's or a person's own; None where there is none that can be read."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,100}", name, re.ASCII):
        return None
    for path in (PRESETS / f"{name}.yaml", own_presets_folder() / f"{name}.yaml"):
        if path.is_file():
            with suppress(ConfigError):
                return read_preset(path)
    return None


def find_preset(name: str) -> Preset:
    """A preset by file path or by name. Raises ConfigError naming the presets there are."""
    own = own_presets_folder()
    places = (expanded(name), PRESETS / f"{name}.yaml", PRESETS / name, own / f"{name}.yaml")
    for path in () if too_long(name) else places:
        if path.is_file():
            return read_preset(path)
    known = ", ".join(path.stem for path in [*sorted(PRESETS.glob("*.yaml")), *sorted(own.glob("*.yaml"))])
    raise ConfigError([Problem("preset", f"there is no file or preset {shown(name)}.", f"Presets: {known}.")])


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["adapter.rank=8"]`` to ``{"adapter.rank": 8}``. Raises ConfigError for anything that is not key=value."""
    values, problems = {}, []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            problems.append(Problem(shortened(pair), "is not key=value.", "Write for example adapter.rank=8."))
            continue
        try:
            values[key.strip()] = _value(key.strip(), text.strip())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return values


def _value(key: str, text: str) -> Any:
    """A text as it stands, quotes around the whole taken off (``#`` and ``:`` mean nothing in it); else YAML.

    ``key=`` means the empty text, the empty list, or None.
    """
    key = RENAMED.get(key, key)
    kind = fields()[key].annotation if key in fields() else None
    if not text:
        return {str: "", tuple[str, ...]: ()}.get(kind)  # type: ignore[arg-type, call-overload]
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text if kind in (str, str | None) and not quoted else plain_yaml.parse(text, shortened(key))


def build(values: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults < nested ``values`` (a preset) < dotted ``overrides`` -> Config.

    Raises:
        ConfigError: with one Problem for every unknown key, bad value and broken rule.
    """
    flat, problems = _flatten(values or {})
    flat, twice = _renamed(flat)
    given, twice_given = _renamed(overrides or {})
    problems += twice + twice_given
    flat = blanks.merged(flat, given)
    declared = fields()
    unknown = [key for key in flat if key not in declared]
    problems += [_unknown(key) for key in unknown[:SHOWN]]
    problems += [Problem(shortened(key), "there is no such setting.") for key in unknown[SHOWN:]]
    known = {key: value for key, value in flat.items() if key in declared}
    built: dict[str, Any] = {}
    for name, kind in sections().items():
        inner = {key.partition(".")[2]: value for key, value in known.items() if key.startswith(f"{name}.")}
        section, broken = _validate(kind, inner, f"{name}.")
        problems += broken
        built[name] = section
    top = {key: value for key, value in known.items() if "." not in key}
    config, broken = _validate(Config, top | {k: v for k, v in built.items() if v is not None}, "")
    problems += broken or _unfit(config)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _unfit(config: Config) -> list[Problem]:
    """Texts that could not be written to config.yaml and read back, or be encoded for a model."""
    texts = {key: value if isinstance(value, list) else [value] for key, value in config.dotted().items()}
    broken = [key for key, items in texts.items() if key not in PATHS and not all(map(_is_unicode, items))]
    problems = [Problem(key, "holds half of a character.", "Write the whole character.") for key in broken]
    count = sum(map(len, texts.values()))
    size = sum(len(item) for items in texts.values() for item in items if isinstance(item, str))
    if size > MOST_TEXT or count > plain_yaml.MOST_VALUES // 2:
        most = f"at most {MOST_TEXT:,} in {plain_yaml.MOST_VALUES // 2:,} can be kept."
        rule = f"have {size:,} characters in {count:,} values; {most}"
        problems.append(Problem("all settings", rule, "Shorten the prompts."))
    return problems


def _is_unicode(value: Any) -> bool:
    return not isinstance(value, str) or value.isascii() or not re.search("[\ud800-\udfff]", value)


def _flatten(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    flat: dict[str, Any] = {}
    problems = []
    for name, value in values.items():
        if name in sections() and isinstance(value, Mapping):
            inside = {f"{name}.{key}": inner for key, inner in value.items()}
        elif name in sections():
            inside = {}
            if value is not None:
                problems.append(Problem(str(name), f"must be a mapping of settings, got {shown(value)}."))
        else:
            inside = {str(name): value}
        problems += [Problem(shortened(key), "is given twice.", "Keep one of them.") for key in inside if key in flat]
        flat.update(inside)
    return flat, problems


def _renamed(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Dotted settings by the names that they have now, and those that one file or command gives by both names."""
    both = [old for old, new in RENAMED.items() if old in values and new in values]
    problems = [Problem(old, f"is now called {RENAMED[old]}, which is given too.", "Keep that one.") for old in both]
    return {RENAMED.get(key, key): value for key, value in values.items() if key not in both}, problems


def notes(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """What a person should know of settings as :func:`build` takes them: which of them have other names now."""
    given = {*_flatten(values)[0], *overrides}
    return [f"{old} is now called {new}." for old, new in RENAMED.items() if old in given]


def _validate(kind: type[Section], values: dict[str, Any], prefix: str) -> tuple[Any, list[Problem]]:
    try:
        section = kind.model_validate(values)
    except ValidationError as error:
        deepest: dict[str, Any] = {}  # of a list's wrong items and a union's alternatives one is enough
        for item in error.errors():
            if len(item["loc"]) > len(deepest.get(str(item["loc"][0]), {"loc": ()})["loc"]):
                deepest[str(item["loc"][0])] = item
        return None, [_from_pydantic(item, prefix + key) for key, item in deepest.items()]
    return section, [Problem(prefix + p.key, p.rule, p.hint) for p in section.check()]


def _from_pydantic(item: Any, key: str) -> Problem:
    message = item["msg"].replace("Input should", "must").replace("String should", "must")
    message = message.replace("a valid string", "a text").replace("a valid tuple", "a list such as [a, b]")
    got = item["input"] if not isinstance(item["input"], BaseModel) else "..."
    hint = "Put it in quotes." if item["type"] == "string_type" and isinstance(got, int | float) else ""
    return Problem(key, f"{message[0].lower()}{message[1:]}, got {shown(got)}.", hint)


def _unknown(key: str) -> Problem:
    if key in sections():
        names = ", ".join(f"{key}.{name}" for name in sections()[key].model_fields)
        return Problem(key, "is a group of settings.", f"Set one of them: {names}.")
    last = key.rpartition(".")[2][:80]
    by_last_name: dict[str, list[str]] = {}
    for dotted in fields():
        by_last_name.setdefault(dotted.rpartition(".")[2], []).append(dotted)
    same = by_last_name.get(last, [])
    close = (
        difflib.get_close_matches(key[:80], same or [*fields(), *sections()], n=1, cutoff=0.8 if same else 0.7) or same
    )
    if not close:
        close = [dotted for name in difflib.get_close_matches(last, by_last_name, n=1) for dotted in by_last_name[name]]
    hint = f"Did you mean {' or '.join(close)}?" if close else "The command `settings` lists all of them."
    return Problem(shortened(key), "there is no such setting.", hint)


def to_yaml(config: Config) -> str:
    """Every value, defaults too, so that a run means the same after the defaults have moved on."""
    return plain_yaml.write(config.model_dump(mode="json"))


def from_yaml(text: str, source: str) -> Config:
    """Inverse of :func:`to_yaml`, also of what earlier releases wrote. Raises ConfigError.

    They kept settings of adapter kinds that were not chosen, which had no effect: those are left out.
    """
    values = _mapping(plain_yaml.parse(text, source), source)
    adapter = values.get("adapter")
    if isinstance(adapter, dict) and str(adapter.get("kind")) in KINDS:
        outside = foreign(str(adapter["kind"]))
        values = values | {"adapter": {name: value for name, value in adapter.items() if name not in outside}}
    return build(values)


def located(path: str | None) -> str | None:
    """A file, folder or saved set by absolute path: relative ones are looked for from here, then in the project."""
    if not path or too_long(path) or "\0" in path:  # asking for such a file is an error, not a no
        return path
    if datasets.is_reference(path):
        with suppress(DataError):  # whoever reads from it says what is wrong
            return str(datasets.located(path))
        return path
    path = str(expanded(path))
    candidates = [place / path for place in (Path.cwd(), PROJECT) if (place / path).exists()]
    return str(candidates[0].resolve()) if candidates else path


def with_absolute_paths(config: Config) -> Config:
    """Every :func:`located`, since a run's process is started elsewhere; presets name the project's own examples."""
    return with_paths(config, lambda path: located(path) or "")


def with_paths(config: Config, change: Callable[[str], str]) -> Config:
    """Each path or hub id that is given in the settings, changed; the word "embedded" for a base is none."""
    for key in PATHS:
        name, _, field = key.partition(".")
        section = getattr(config, name)
        value = getattr(section, field)
        if value and (key, value) != ("base.path", EMBEDDED):
            config = config.model_copy(update={name: section.model_copy(update={field: change(value)})})
    return config
