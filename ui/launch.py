"""From a tab's settings and data to a run that is started, or to every reason why it cannot be."""

from __future__ import annotations

import shutil
from typing import Any, Protocol

from lowrank_diffusion import blanks, devices, preflight, presets, run_queue, runs
from lowrank_diffusion.config import Config, ConfigError, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.paths import runs_folder
from lowrank_diffusion.runs import Run

from . import watching


class InputsError(UserError):
    """Everything a person must put right before the run can start (``problems``)."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class Data(Protocol):
    """What was put into a tab to learn from."""

    def problems(self, values: dict[str, Any]) -> list[Problem]:
        """What keeps a run with these settings from learning from it."""
        ...

    def summary(self, config: Config) -> tuple[str, list[str]]:
        """What is learnt, in a line, and notes on what is not learnt as it is. Raises UserError where it cannot be."""
        ...

    def count(self, config: Config) -> int:
        """How many examples an epoch has; 0 where that is not known."""
        ...

    def write(self, run: Run) -> dict[str, Any]:
        """Copy it into the run; the settings that say where it is, none where there is nothing to copy."""
        ...


def launch_run(name: str, values: dict[str, Any], data: Data) -> Run:
    """Check everything, make the run directory with its own copy of the data, and start it.

    Raises:
        InputsError: with every problem of settings, data, base and device.
        UserError: where the run directory cannot be made or the process cannot be started; nothing stays behind.
    """
    config, problems = _checked(values, data)
    if not name.strip():
        problems.append(Problem("Run name", "is empty.", "Give the run a name."))
    if problems or config is None:
        raise InputsError(problems)
    try:
        return _started(runs.create(config, name), config, data)
    except OSError as error:
        hint = "Free some space, or set LOWRANK_HOME to another disk."
        raise UserError(f"{runs_folder()}: the run cannot be written: {error.strerror}. {hint}") from None


def _started(run: Run, config: Config, data: Data) -> Run:
    try:
        if written := data.write(run):
            run.write_config(presets.build(overrides=config.dotted() | written))
        run_queue.submit(run)
        watching.forget(run)
    except (OSError, UserError):
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def _checked(values: dict[str, Any], data: Data) -> tuple[Config | None, list[Problem]]:
    """The config if the values make one, and every problem that can be found without starting."""
    problems = data.problems(values)
    try:
        config = presets.build(overrides=values)
    except ConfigError as error:
        return None, error.problems + problems
    problems += devices.problems(config) + blanks.problems(config)
    problems += preflight.base(config)[1]
    if config.task == "image":
        problems += preflight.class_pictures(presets.with_absolute_paths(config))[1]
    return config, problems
