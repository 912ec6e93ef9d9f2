"""How a parameter is declared and what is said of a wrong one; the parameters themselves are in :mod:`.config`."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
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


def option(default: Any, help: str, *, unit: str = "", **bounds: Any) -> Any:
    """Declare a parameter; ``bounds`` are pydantic's (``ge``, ``le``, ``multiple_of``...)."""
    return Field(default, description=help, json_schema_extra={"unit": unit}, **bounds)


class Section(BaseModel):
    """A frozen group of parameters that refuses unknown names."""

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

    def check(self) -> Iterator[Problem]:
        """Rules between the fields of one section; keys are relative to it."""
        yield from ()
