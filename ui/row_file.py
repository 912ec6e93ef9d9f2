"""The file of rows that was put into the Language tab."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank_diffusion import preflight, presets
from lowrank_diffusion.config import Config, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import Run
from lowrank_diffusion.text import rows


@dataclass(frozen=True)
class RowFile:
    """The file in the panel, if there is one."""

    path: Path | None

    def problems(self, values: dict[str, Any]) -> list[Problem]:
        """What keeps a run with these settings from learning from it."""
        held_out = str(values.get("text.held_out") or "")
        return self._problems(values) + (_file_problems("text.held_out", Path(held_out)) if held_out else [])

    def _problems(self, values: dict[str, Any]) -> list[Problem]:
        named = str(values.get("data.instance") or "")
        if named and self.path:
            return [Problem("data.instance", "names a file, and there is one above.", "Use one or the other.")]
        if named or self.path:
            return _file_problems("data.instance" if named else "Rows", Path(named) if named else self.path)
        return [Problem("Rows", "there are none.", "Drop a file into the field above, or load the example.")]

    def summary(self, config: Config) -> tuple[str, list[str]]:
        """What is learnt is said above the rows; notes on what is not learnt as it is."""
        if self.path:
            data = config.data.model_copy(update={"instance": str(self.path)})
            config = config.model_copy(update={"data": data})
        return "", preflight.notes(config) if config.data.instance else []

    def count(self, config: Config) -> int:
        """Rows are packed: how many sequences they make is known when they are tokens."""
        return 0

    def write(self, run: Run) -> dict[str, Any]:
        """Copy it into the run."""
        if self.path is None:
            return {}
        target = run.path / "data" / f"rows{self.path.suffix.lower()}"
        target.parent.mkdir()
        shutil.copyfile(self.path, target)
        return {"data.instance": str(target)}


def _file_problems(key: str, path: Path | None) -> list[Problem]:
    try:
        rows.read(Path(presets.located(str(path)) or ""))
    except UserError as error:
        return [Problem(key, str(error))]
    return []


def example_files() -> list[Path]:
    """The files of rows that ship with the project, to learn from."""
    return sorted(EXAMPLES.glob("*/train.jsonl"))


def is_example(path: Any) -> bool:
    """Whether a path is one of the files that ship with the project."""
    return bool(path) and Path(presets.located(str(path)) or "").is_relative_to(EXAMPLES)


def name_of(path: Path) -> str:
    """The file's name; an example's folder."""
    return f"Example {path.parent.name}" if is_example(path) else path.name
