"""The part of YAML that settings need, and no more: plain values in lists and mappings, of bounded size.

A file of settings may come from anybody. Aliases, which make gigabytes of a few lines, and tags, which name types of
their own, have no use in it and are refused; so is what is larger, deeper or longer than any settings are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from .declare import ConfigError, Problem
from .files import Unreadable, read_text

LARGEST = 1_000_000
"""Bytes of a file and characters of a text; all settings there are take about three thousand."""
MOST_VALUES = 10_000
DEEPEST = 10
"""Lists and mappings inside of each other; settings take three."""
LONGEST_NUMBER = 40
"""Digits."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the plain values of YAML 1.2, which refuses a key given twice.

    In PyYAML's YAML 1.1 ``1e-4`` is a text, ``no`` is False, ``010`` is 8 and ``1:30`` is 90.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, text: str):
        super().__init__(text)
        self.values, self.depth = 0, 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next value, once it is one that settings may have."""
        event: Any = self.peek_event()
        self.values, self.depth = self.values + 1, self.depth + 1
        rule = ""
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            rule = "anchors and aliases (& and *) are not read; write the value out, or put a text in quotes"
        elif event.tag is not None:
            rule = "tags (!) are not read; leave them out, or put a text in quotes"
        elif self.values > MOST_VALUES:
            rule = f"there are more than {MOST_VALUES:,} values"
        elif self.depth > DEEPEST:
            rule = f"there are more than {DEEPEST} lists and mappings inside of each other"
        if rule:
            raise yaml.constructor.ConstructorError(None, None, rule, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping whose keys are texts, each once."""
        mapping = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error(node, "a key must be a word, not a list or a mapping", key_node)
            if key_node.value in mapping:
                raise _error(node, f"key {key_node.value[:80]!r} stands twice", key_node)
            mapping[key_node.value] = self.construct_object(value, deep=deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A number; Python refuses those of thousands of digits, and takes its time for those of hundreds."""
        if len(node.value) > LONGEST_NUMBER:
            raise _error(node, f"a number of {len(node.value):,} digits is longer than any setting", node)
        return int(node.value)


def _error(around: yaml.Node, rule: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    where = "while reading a mapping" if isinstance(around, yaml.MappingNode) else "while reading a value"
    return yaml.constructor.ConstructorError(where, around.start_mark, rule, node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes a text which YAML 1.1 or 1.2 would read as anything else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always: none are read."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text; PyYAML's other styles lose Unicode's own line breaks, and some spaces beside any."""
        style = '"' if re.search("[\x85\u2028\u2029]|[ \t]\n|\n[ \t]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
_PLAIN_VALUES = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _name, (_pattern, _first) in _PLAIN_VALUES.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str, source: str) -> Any:
    """YAML text to values; an error names ``source`` and the line. Raises ConfigError."""
    if len(text) > LARGEST:
        rule = f"is {len(text):,} characters of YAML; at most {LARGEST:,} are read."
        raise ConfigError([Problem(source, rule, "Is it the right file?")])
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise ConfigError([Problem(source, f"is not valid YAML: {words[:600]}.")]) from None


def read(path: Path) -> Any:
    """What a YAML file holds. Raises ConfigError."""
    try:
        return parse(read_text(path, LARGEST), str(path))
    except Unreadable as error:
        raise ConfigError([Problem(str(path), str(error))]) from None


def write(values: Any) -> str:
    """Values as YAML, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def one_line(values: list[Any]) -> str:
    """A list as it is written on one line: ``[a, b]``."""
    return yaml.dump(values, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=10**6).strip()
