"""How a parameter is declared and what is said of a wrong one; the parameters themselves are in :mod:`.config`."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from .errors import UserError, listed


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a setting: where, what the rule is, and what to do."""

    key: str
    rule: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.rule}" + (f" {self.hint}" if self.hint else "")


class ConfigError(UserError):
    """All problems of a configuration at once (``problems``); a person is shown the first of many."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__(listed(problems))


def shortened(text: str, most: int = 80) -> str:
    """A text that a person gave, as far as an error repeats it."""
    start = text[:most].encode("utf-8", "backslashreplace").decode()  # half a character cannot be printed
    return start if len(text) <= most else f"{start}… ({len(text):,} characters)"


def shown(value: Any) -> str:
    """A value that a person gave, as an error repeats it, without writing out what is long first."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else f"{value[:80]!r}… ({len(value):,} characters)"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 70 digits"
    return shortened(_BRIEF.repr(value))


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 8


def option(
    default: Any, help: str, *, unit: str = "", only: str | None = None, pixels: bool = False, tokens: bool = False,
    **bounds: Any,
) -> Any:  # fmt: skip
    """Declare a parameter.

    Args:
        default: Its value where nobody gives one.
        help: What it means, in a sentence.
        unit: Of a number.
        only: The task that has it, "" for both; None: as its section says.
        pixels: Pictures made with another value are other pictures, cached under another key.
        tokens: A language model reads the same rows as other tokens.
        bounds: pydantic's (``ge``, ``le``, ``multiple_of``...).
    """
    facts = {"unit": unit, "only": only, "pixels": pixels, "tokens": tokens}
    return Field(default, description=help, json_schema_extra=facts, **bounds)


def fact(field: FieldInfo, name: str) -> Any:
    """What :func:`option` was told of a parameter: "unit", "only", "pixels" or "tokens"."""
    extra = field.json_schema_extra
    return extra[name] if isinstance(extra, dict) else None


class Section(BaseModel):
    """A frozen group of parameters that refuses unknown names."""

    only: ClassVar[str] = ""
    """The task that has these parameters; empty: both."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_and_no_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts True as 1; a person who writes ``train.steps: true`` did not mean one step."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("bool_type", "must not be true or false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_zero_byte(cls, value: Any) -> Any:
        """No file name, prompt or word holds one, and most of what reads them stumbles over it."""
        if any(
            isinstance(text, str) and "\0" in text for text in (value if isinstance(value, list | tuple) else [value])
        ):
            raise PydanticCustomError("zero_byte", "must not hold a zero byte")
        return value

    @classmethod
    def of_task(cls, task: str | None, prefix: str) -> dict[str, FieldInfo]:
        """The parameters that ``task`` has, by ``prefix`` and name; None: all of them."""
        declared = cls.model_fields.items()
        owns = {name: cls.only if (own := fact(field, "only")) is None else own for name, field in declared}
        return {f"{prefix}{name}": field for name, field in declared if task is None or owns[name] in ("", task)}

    def of_pixels(self) -> list[Any]:
        """The values that a cached picture depends on, in the order of their declaration."""
        return [getattr(self, name) for name, field in type(self).model_fields.items() if fact(field, "pixels")]

    def check(self) -> Iterator[Problem]:
        """Rules between the fields of one section; keys are relative to it."""
        yield from ()
