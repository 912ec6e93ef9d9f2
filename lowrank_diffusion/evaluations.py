"""What was measured of a run's adapters, kept as JSON in the run's folder, and which of its adapters were meant.

The folder is ``evaluations/``. A file is written whole or not at all; what cannot be read, whoever wrote it, counts as
not measured.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from .config import ConfigError, Problem
from .errors import UserError, of_disk
from .files import MB, Unreadable, read_object
from .paths import write_text
from .runs import Adapter as Kept
from .runs import Run, RunError

FOLDER = "evaluations"
LARGEST = 32 * MB
"""Bytes; the spectra of a thousand layers of rank 128 take two million."""
Figure = FiniteFloat | None
"""A number; None where there is none, or where it is not finite."""


class Evaluation(BaseModel):
    """Base of what is kept; one of each kind in a run, the newest."""

    model_config = ConfigDict(frozen=True)

    file: ClassVar[str]
    command: str
    """Repeats it."""
    made: FiniteFloat
    """Seconds since 1970."""


class PictureRow(BaseModel):
    """Cosines, as means over the pictures of one prompt, or of all of them (``prompt`` empty)."""

    model_config = ConfigDict(frozen=True)

    step: int | None
    """The adapter's; None: the base alone."""
    best: bool
    """Whether its validation loss is the run's lowest."""
    prompt: str
    references: Figure
    """CLIP-I or DINO."""
    words: Figure
    """CLIP-T; None from an encoder that does not read."""


class Pictures(Evaluation):
    """Of the adapters of a run of pictures."""

    file = "pictures.json"
    encoder: str
    count: int
    """Pictures of each prompt."""
    references: int
    rows: tuple[PictureRow, ...]


class TextRow(BaseModel):
    """What held-out rows say of one adapter."""

    model_config = ConfigDict(frozen=True)

    step: int | None
    best: bool
    perplexity: Figure
    exact_match: Figure
    """From 0 to 1; None where no row has an answer."""
    answered: int


class Texts(Evaluation):
    """Of the adapters of a language model's run."""

    file = "texts.json"
    examples: int
    rows: tuple[TextRow, ...]


class Curve(BaseModel):
    """The loss of one model at every strength of weight noise."""

    model_config = ConfigDict(frozen=True)

    run: str
    """Name of the run; empty: the base alone."""
    title: str
    losses: tuple[tuple[Figure, ...], ...]
    """By strength, then by draw; without noise all draws are one."""


class Flatness(Evaluation):
    """The loss under Gaussian weight noise, at the same draws for every model."""

    file = "flatness.json"
    sigmas: tuple[FiniteFloat, ...]
    draws: int
    examples: int
    held_out: bool
    """Whether these are held out; otherwise they were trained on."""
    layers: int
    """That carry noise: all that one of the adapters changes."""
    curves: tuple[Curve, ...]


class LayerSpectrum(BaseModel):
    """The update of one layer."""

    model_config = ConfigDict(frozen=True)

    path: str
    block: str
    kind: str
    rank: int
    """Of the plain pair."""
    values: tuple[FiniteFloat, ...]
    """Singular values of B A, falling."""
    effective: Figure
    """exp(entropy) of the values; None of an update that is zero."""
    stable: Figure
    """|dW|^2 / s_1^2."""
    norm: FiniteFloat
    """|dW|, Frobenius."""
    base: Figure
    """|W| of the base's weight; None where the base is not at hand."""


class Spectra(Evaluation):
    """The updates of an adapter, layer by layer, in the order of the model."""

    file = "spectra.json"
    step: int | None
    """None: of a file, or of a run that has ended."""
    layers: tuple[LayerSpectrum, ...]


Kind = TypeVar("Kind", bound=Evaluation)


def figure(value: float | None) -> float | None:
    """The value as JSON can hold it: None for what is not finite."""
    return value if value is not None and math.isfinite(value) else None


def command(verb: str, names: Sequence[str], given: Mapping[str, Any]) -> str:
    """The command that measures the same: ``given`` are its options by name, of which None and "auto" are left out."""
    words = ["python", "-m", "lowrank_diffusion", verb, *names]
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value not in (None, False, "auto"):
            words += [
                word for one in (value if isinstance(value, list | tuple) else [value]) for word in (option, str(one))
            ]
    return shlex.join(words)


def write(run: Run, evaluation: Evaluation) -> None:
    """Keep it, in place of the last of its kind. Raises UserError for a full disk."""
    path = run.path / FOLDER / evaluation.file
    try:
        path.parent.mkdir(exist_ok=True)
        write_text(path, evaluation.model_dump_json())
    except OSError as error:
        raise UserError(f"{path}: cannot be written. {of_disk(error)}") from None


def read(run: Run, kind: type[Kind]) -> Kind | None:
    """The newest of a kind; None where there is none that can be read."""
    try:
        return kind.model_validate(read_object(run.path / FOLDER / kind.file, LARGEST))
    except (Unreadable, ValidationError, RecursionError):
        return None


@dataclass(frozen=True)
class Checkpoint:
    """A kept adapter by the step that it is of."""

    step: int
    adapter: Kept

    @property
    def best(self) -> bool:
        """Whether its validation loss is the run's lowest."""
        return self.adapter.best


def chosen(run: Run, steps: str, key: str = "--steps") -> list[Checkpoint]:
    """The adapters that "all" or a list such as "50,100,best" means, by step; each once. Raises UserError.

    The finished adapter is that of the run's last step.
    """
    last = run.status().step
    if steps.strip() == "all":
        adapters = run.adapters()
        if not adapters:
            raise RunError(f"{run.name} has no adapter files yet. Wait for its first checkpoint.")
    else:
        adapters = [run.adapter(step) for step in _steps(steps, last, run, key)]
    by_step: dict[int, Kept] = {}
    for adapter in adapters:
        step = last if adapter.step is None else adapter.step
        if step not in by_step or adapter.best:  # the same weights; only one of the two knows that it is the best
            by_step[step] = adapter
    return [Checkpoint(step, by_step[step]) for step in sorted(by_step)]


def _steps(text: str, last: int, run: Run, key: str) -> list[int | Literal["best"] | None]:
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if word != "best" and not (word.isascii() and word.isdecimal() and len(word) < 10)]
    if wrong:
        rule = f"must be 'all', or numbers of steps and 'best' with commas between them, got {text[:80]!r}."
        raise ConfigError([Problem(key, rule)])
    there = {adapter.step for adapter in run.adapters()}
    numbers: list[int | Literal["best"]] = ["best" if word == "best" else int(word) for word in words]
    return [None if number == last and number not in there else number for number in numbers]
