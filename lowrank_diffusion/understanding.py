"""How flat a run's minimum is, and what its update is made of: what is asked for, checked before torch is loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import devices, evaluations, presets
from .config import BaseModelConfig, Config, ConfigError, Problem
from .errors import UserError
from .evaluations import Curve, Flatness, LayerSpectrum, Spectra, figure
from .image import kept
from .paths import expanded
from .processes import importing_libraries
from .run_files import Adapter
from .runs import Run

SIGMAS = "0,0.02,0.05,0.1,0.2"
LIMITS = {"draws": (1, 100), "examples": (1, 10_000)}
DRAWS, EXAMPLES = 3, 16
MOST_SIGMAS, LARGEST_SIGMA = 50, 10.0
MOST_RUNS = 8
Progress = Callable[[int, int], None]
"""Given what is done and to do; may raise to give up."""


@dataclass(frozen=True)
class FlatnessPlan:
    """What is measured under weight noise."""

    chosen: list[tuple[Run, Adapter]]
    """The first says what is measured on what."""
    sigmas: tuple[float, ...]
    draws: int
    examples: int
    device: str
    precision: str
    command: str

    def measure(self, progress: Progress = lambda done, total: None) -> Flatness:
        """The loss of the base and of each adapter, at the same draws. Raises UserError."""
        progress(0, 0)
        _import_libraries(self.chosen[0][0].task)
        from . import weight_noise

        cfg, kinds = self.chosen[0][0].config(), {run.config().adapter.text_encoders for run, _ in self.chosen}
        if trained := sorted(kinds - {"none"}):  # captions then go through the text encoders for all of them
            cfg = cfg.model_copy(update={"adapter": cfg.adapter.model_copy(update={"text_encoders": trained[0]})})
        measured = self._loaded(cfg, progress)
        pairs = {str(number): measured.pairs(adapter.loaded) for number, (_, adapter) in enumerate(self.chosen)}
        layers = measured.layers([path for own in pairs.values() for path in own])
        noise = weight_noise.Noise(self.sigmas, self.draws, cfg.seed)
        losses = weight_noise.losses(layers, {"": {}, **pairs}, measured.loss, noise, progress)
        whose = [("", "base"), *((run.name, _title(run, adapter)) for run, adapter in self.chosen)]
        curves = [
            Curve(run=name, title=title, losses=tuple(tuple(map(figure, row)) for row in rows))
            for (name, title), rows in zip(whose, losses.values(), strict=True)
        ]
        return Flatness(
            command=self.command, made=time.time(), sigmas=self.sigmas, draws=self.draws,
            examples=len(measured.examples), held_out=measured.held_out, layers=len(layers), curves=tuple(curves),
        )  # fmt: skip

    def _loaded(self, cfg: Config, progress: Progress) -> Any:
        device = devices.pick(self.device)
        how = (cfg, device, devices.dtype(self.precision, device), self.examples, lambda *_: progress(0, 0))
        if cfg.task == "text":
            from .text.measured import Measured

            return Measured(*how)
        from .image import validation

        return validation.Measured(*how)


def _import_libraries(task: str) -> None:
    with importing_libraries():
        if task == "text":
            from .text import measured  # noqa: F401
        else:
            from .image import validation  # noqa: F401


def _title(run: Run, adapter: Adapter) -> str:
    return run.title if adapter.step is None else f"{run.title}, step {adapter.step}"


def flatness_plan(names: Sequence[str], given: Mapping[str, Any], dashes: str = "--") -> FlatnessPlan:
    """What ``understand --flatness`` measures.

    ``given``: its options by name; ``dashes``: what an error writes before such a name. Raises UserError.
    """
    numbers = {"draws": DRAWS, "examples": EXAMPLES}
    numbers = {name: usual if given.get(name) is None else given[name] for name, usual in numbers.items()}
    wrong = [
        Problem(f"{dashes}{name}", f"must be a whole number from {low} to {high}, got {numbers[name]}.")
        for name, (low, high) in LIMITS.items()
        if not low <= numbers[name] <= high
    ]
    sigmas = _sigmas(given.get("sigmas") or SIGMAS)
    if not sigmas:
        rule = f"must be 1 to {MOST_SIGMAS} numbers from 0 to {LARGEST_SIGMA:g} with commas between them"
        wrong.append(Problem(f"{dashes}sigmas", f"{rule}, got {str(given.get('sigmas'))[:80]!r}."))
    if not names or len(set(names)) != len(names) or len(names) > MOST_RUNS:
        wrong.append(Problem("runs", f"give each once, at least one and at most {MOST_RUNS} of them."))
    if wrong:
        raise ConfigError(wrong)
    named = [kept.named(name) for name in names]
    chosen = [(run, run.adapter(step)) for run, step in named]
    if problems := _mixed([run for run, _ in chosen]):
        raise ConfigError(problems)
    words = {name: given.get(name) for name in ("sigmas", "draws", "examples", "device", "precision")}
    words = {"flatness": True, **words}
    return FlatnessPlan(
        chosen, sigmas, numbers["draws"], numbers["examples"], given.get("device", "auto"),
        given.get("precision", "auto"), evaluations.command("understand", names, words),
    )  # fmt: skip


def _sigmas(text: str) -> tuple[float, ...]:
    """Each once, rising; none where the text is not a list of them."""
    try:
        values = {float(word) for word in text.split(",")}
    except ValueError:
        return ()
    sound = len(values) <= MOST_SIGMAS and all(0 <= value <= LARGEST_SIGMA for value in values)
    return tuple(sorted(values)) if sound else ()


def _mixed(chosen: Sequence[Run]) -> list[Problem]:
    """What keeps runs from being measured together."""
    first = chosen[0]
    base = first.config().base
    other = [run.name for run in chosen if run.task != first.task or run.config().base.path != base.path]
    rule = f"{', '.join(other)} and {first.name} have not been trained on the same base."
    return [Problem("runs", rule, "Measure them one by one.")] if other else []


@dataclass(frozen=True)
class SpectraPlan:
    """Whose update is taken apart."""

    path: Path
    run: Run | None
    step: int | None
    base: BaseModelConfig | None
    """What it changes; None: not at hand."""
    text: bool
    command: str

    def measure(self, progress: Progress = lambda done, total: None) -> Spectra:
        """The update of every layer. Raises UserError."""
        progress(0, 0)
        layers = tuple(self._layers(progress))
        return Spectra(command=self.command, made=time.time(), step=self.step, layers=layers)

    def _layers(self, progress: Progress) -> list[LayerSpectrum]:
        _import_libraries("text" if self.text else "image")
        import torch

        cpu = torch.device("cpu")
        if self.text:
            from .text.measured import updates
            from .text.model import Base as TextBase

            assert self.base is not None
            return updates(TextBase.of(self.base, cpu, devices.dtype("auto", cpu)).model(), self.path, progress)
        from .image import updates as of_pictures

        if self.base is None:
            return of_pictures.alone(self.path, progress)
        from .image.model import Base

        # Only the norms of the base's weights are looked at: half precision tells them to a thousandth.
        return of_pictures.of_base(self.path, Base.of(self.base, cpu, torch.bfloat16), progress)


def spectra_plan(name: str, given: Mapping[str, Any], dashes: str = "--") -> SpectraPlan:
    """What ``understand --spectra`` looks at: a run (its newest adapter, or RUN:STEP), or a file. Raises UserError."""
    base = presets.build({}, {"base.path": given["base"]}).base if given.get("base") else None
    command = evaluations.command("understand", [name], {"spectra": True, "base": given.get("base")})
    path = expanded(name)
    is_run = (path / "config.yaml").is_file()
    if path.exists() and not is_run:
        owner = kept.owner(path)
        if owner and (base is None or owner.task == "text"):
            base = owner.config().base.model_copy(update={"quantize": "none"})
        return SpectraPlan(path, None, None, base, owner is not None and owner.task == "text", command)
    if name.lower().endswith((".safetensors", ".pt", ".ckpt")):
        raise UserError(f"{name}: there is no such file. Check the spelling.")
    run, step = kept.named(name)
    if base is not None:
        raise ConfigError([Problem(f"{dashes}base", f"is for a file; {run.name} has its own.", "Leave it out.")])
    adapter, cfg = run.adapter(step), run.config()
    own = cfg.base.model_copy(update={"quantize": "none"})
    return SpectraPlan(adapter.loaded, run, adapter.step, own, cfg.task == "text", command)


def flatness(
    *of: Run | str | Path, sigmas: Sequence[float] | None = None, draws: int = DRAWS, examples: int = EXAMPLES,
    device: str = "auto", precision: str = "auto",
) -> Flatness:  # fmt: skip
    """The loss under Gaussian weight noise of a base and of runs of it, at the same draws.

    Args:
        of: Runs, by themselves, their names or folders; "RUN:STEP" is that of a checkpoint. The first says on what.
        sigmas: Strengths, relative to each row's norm.
        draws: Of the noise at each strength.
        examples: At most so many held-out ones, or of training where nothing is held out.
        device, precision: As the settings ``train.device`` and ``train.precision``.

    Raises:
        UserError: An option is out of bounds, or the runs cannot be measured together.
    """
    words = None if sigmas is None else ",".join(map(str, sigmas))
    given = {"sigmas": words, "draws": draws, "examples": examples, "device": device, "precision": precision}
    return flatness_plan([_called(one) for one in of], given, "").measure()


def spectra(adapter: Run | str | Path, base: str | None = None) -> Spectra:
    """The singular values, ranks and sizes of an adapter's update, layer by layer.

    ``adapter``: a run, its name, "RUN:STEP", or the file or folder of any program's adapter, with its ``base`` where
    relative sizes are wanted. Raises UserError.
    """
    return spectra_plan(_called(adapter), {"base": base}, "").measure()


def _called(one: Run | str | Path) -> str:
    return str(one.path if isinstance(one, Run) else one)


def mean_and_spread(row: Sequence[float | None]) -> tuple[float, float]:
    """The mean and the standard deviation over draws; not a number where one of them is none."""
    values = [math.nan if value is None else value for value in row]
    mean = math.fsum(values) / len(values)
    between = max(1, len(values) - 1)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / between)
