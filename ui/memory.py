"""What a form was filled with, so that what a person changed can be told from what a preset says."""

from __future__ import annotations

import json
from typing import Any

from lowrank_diffusion import presets
from lowrank_diffusion.config import Config, ConfigError, fields
from lowrank_diffusion.presets import Preset

LONGEST = 20_000
"""Characters of a note; a page may send what it likes."""


class Memory:
    """Presets of a task, and notes of which one a form shows with which own values: texts that a page holds."""

    def __init__(self, task: str, first: str) -> None:
        self.task, self.first = task, first

    def preset_of(self, name: Any) -> Preset | None:
        """The preset of this name, if it is one of the task."""
        preset = presets.named(name)
        return preset if preset and preset.task == self.task else None

    def values(self, name: str) -> dict[str, Any]:
        """A preset's differences from the defaults; none without a preset."""
        preset = self.preset_of(name)
        return preset.values if preset else {}

    def about(self, name: str) -> str:
        """The preset in a sentence."""
        preset = self.preset_of(name)
        return preset.about if preset else ""

    def build(self, name: str, own: dict[str, Any]) -> Config:
        """The preset with own values over it. Raises ConfigError."""
        return presets.build(self.values(name), {"task": self.task} | own)

    def note(self, name: str, own: dict[str, Any]) -> str:
        """To be held by the page."""
        return json.dumps({"preset": name, "own": own})

    def _read(self, note: Any) -> tuple[str, dict[str, Any]]:
        try:
            content = json.loads(note) if isinstance(note, str) and len(note) <= LONGEST else None
        except (ValueError, RecursionError):
            content = None
        content = content if isinstance(content, dict) else {}
        name, own = content.get("preset"), content.get("own")
        known = self.preset_of(name) is not None
        own = own if isinstance(own, dict) else {}
        return str(name) if known else self.first, {key: value for key, value in own.items() if key in fields()}

    def preset(self, note: Any) -> str:
        """The preset of a note; the first one if it says none."""
        return self._read(note)[0]

    def own(self, note: Any) -> dict[str, Any]:
        """The own values of a note."""
        return self._read(note)[1]

    def base(self, note: Any) -> Config:
        """The settings that a note is about; the preset's own where it does not make sense. Raises ConfigError."""
        name, own = self._read(note)
        try:
            return self.build(name, own)
        except ConfigError:
            return self.build(name, {})
