"""The commands of language models: ask, their part of evaluate, and exporting a merged model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import devices, evaluations, presets, runs, terminal
from .config import BaseModelConfig, Config, ConfigError, Problem, choices
from .errors import UserError
from .evaluations import Checkpoint, TextRow, Texts, figure
from .paths import expanded
from .processes import importing_libraries
from .text.request import LIMITS, Settings, violation
from .text.rows import Message, read

if TYPE_CHECKING:
    from .text.dataset import Dataset
    from .text.generate import TextGenerator
    from .text.metrics import Measures

PRECISIONS, DEVICES = choices("train.precision"), choices("train.device")
STEP = "after so many steps, or 'best': of the lowest validation loss (default: the newest)"


def step(text: str) -> int | Literal["best"]:
    """The value of ``--step``. Raises ValueError."""
    return "best" if text == "best" else int(text)


def add_ask(sub: argparse.ArgumentParser) -> None:
    """Options of ``ask``."""
    sub.add_argument("prompt")
    sub.add_argument("--adapter", metavar="RUN_OR_FOLDER", help="a run, or a PEFT folder")
    sub.add_argument("--base", help="'embedded', a model's folder, a .gguf file or a hub id (default: the run's)")
    sub.add_argument("--compare", action="store_true", help="let the base alone answer as well")
    sub.add_argument("--system", default="", help="system prompt")
    sub.add_argument("--template", choices=["auto", "plain"], help="chat template (default: the run's, else auto)")
    for name, kind in (("temperature", float), ("top_p", float), ("max_tokens", int), ("seed", int)):
        low, high = LIMITS[name]
        option, default = f"--{name.replace('_', '-')}", getattr(Settings(), name)
        sub.add_argument(option, type=kind, default=default, help=f"{low} to {high} (default: {default})")
    _add_where(sub)


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Options of ``evaluate`` for any run, and for those of language models."""
    sub.add_argument("run")
    sub.add_argument("--step", type=step, help=STEP)
    sub.add_argument(
        "--steps", metavar="all|50,100,best",
        help="measure these kept adapters, the base once, and keep the figures in the run's folder for the page",
    )  # fmt: skip
    _add_where(sub)
    of = sub.add_argument_group("language models")
    of.add_argument("--data", type=expanded, help="rows to look at (default: those the run held out)")
    of.add_argument("--answers", type=int, metavar="ROWS", help="answer at most so many rows (default: all)")
    of.add_argument("--max-tokens", type=int, help="longest answer (default: the run's sample.tokens)")


EVALUATE_OPTIONS = ("data", "answers", "max_tokens")


def _add_where(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", default="auto", choices=DEVICES)
    sub.add_argument("--precision", default="auto", choices=PRECISIONS)


def ask(options: argparse.Namespace) -> int:
    """Let a language model answer, with an adapter or without."""
    given = {name: getattr(options, name) for name in LIMITS}
    wrong = [
        Problem(f"--{name.replace('_', '-')}", rule)
        for name, value in given.items()
        if (rule := violation(name, value))
    ]
    if wrong:
        raise ConfigError(wrong)
    chosen = _chosen(options)
    generator = _generator(chosen.base, chosen.template, options.device, options.precision)
    generator.load(chosen.folder)
    system = [Message("system", options.system)] if options.system else []
    messages, settings = [*system, Message("user", options.prompt)], Settings(**given)
    variants = [False] * (options.compare or chosen.folder is None) + [True] * (chosen.folder is not None)
    for adapted in variants:
        if len(variants) > 1:
            print("adapted:" if adapted else "base:")
        for piece in generator.stream(messages, settings, adapted):
            print(piece, end="", flush=True)
        print()
    return terminal.DONE


@dataclass(frozen=True)
class _Chosen:
    """A base and the adapter that may be on it."""

    base: BaseModelConfig
    template: str
    folder: Path | None


def _chosen(options: argparse.Namespace) -> _Chosen:
    """What --adapter and --base mean: a run brings its base and template, a folder does not."""
    base = presets.build({}, {"base.path": options.base}).base if options.base else None
    template = options.template
    if not options.adapter:
        return _Chosen(base or BaseModelConfig(), template or "auto", None)
    folder = expanded(options.adapter)
    if (folder / "adapter_config.json").is_file():
        if base is None:
            raise ConfigError([Problem("--base", "is needed with a folder.", "Give the base the adapter is for.")])
        return _Chosen(base, template or "auto", folder)
    run, cfg = text_run(options.adapter)
    return _Chosen(base or cfg.base, template or cfg.text.template, run.files()[0])


def text_run(name: str) -> tuple[runs.Run, Config]:
    """A run of a language model and its settings. Raises UserError for a run of pictures."""
    run = runs.find(name)
    cfg = run.config()
    if cfg.task != "text":
        raise UserError(f"{run.name} is a run of a picture model, not of a language model.")
    return run, cfg


def _generator(base: BaseModelConfig, template: str, device_name: str, precision: str) -> TextGenerator:
    with importing_libraries():
        from .text.generate import TextGenerator
        from .text.model import Base

    device = devices.pick(device_name)
    return TextGenerator(Base.of(base, device, devices.dtype(precision, device)), template)


@dataclass(frozen=True)
class Evaluation:
    """Held-out rows, and the base and adapters that are to answer them."""

    cfg: Config
    folders: dict[str, Path | None]
    """Of "base", which has none, and of each adapter by what it is called."""
    generator: TextGenerator
    data: Dataset
    answers: int | None
    max_tokens: int
    checkpoints: dict[str, Checkpoint]
    """By the same names, where several are measured."""
    command: str

    def measure(self) -> Iterator[tuple[str, Measures]]:
        """("base" or "adapted" or "step 50", its figures), one after the other."""
        for name, place in self.folders.items():
            self.generator.load(place)
            yield name, self.generator.measure(self.data, self.cfg, self.answers, self.max_tokens)

    def record(self, measured: Mapping[str, Measures]) -> Texts:
        """What is kept of it."""
        table = []
        for name, of in measured.items():
            one = self.checkpoints.get(name)
            row = TextRow(
                step=one and one.step, best=bool(one and one.best), perplexity=figure(of.perplexity),
                exact_match=figure(of.exact_match), answered=of.answered,
            )  # fmt: skip
            table.append(row)
        return Texts(
            command=self.command, made=time.time(), examples=len(self.data.held_out), rows=tuple(table)
        )  # fmt: skip


def evaluation(run: runs.Run, given: Mapping[str, Any], dashes: str = "--") -> Evaluation:
    """What ``evaluate`` measures.

    ``given``: its options by name; ``dashes``: what an error writes before such a name. Raises UserError.
    """
    cfg, steps = run.config(), given["steps"]
    if steps is not None and given["step"] is not None:
        rule = f"cannot be given beside {dashes}steps."
        raise ConfigError([Problem(f"{dashes}step", rule, "Add it to the list of steps.")])
    chosen = [] if steps is None else evaluations.chosen(run, steps, f"{dashes}steps")
    several = {f"step {one.step}": one for one in chosen}
    adapted = {name: one.adapter.loaded for name, one in several.items()} or {"adapted": run.files(given["step"])[0]}
    if given["data"]:
        read(given["data"])  # what is wrong with it comes before seconds of loading
        text = cfg.text.model_copy(update={"held_out": str(given["data"].resolve())})
        cfg = cfg.model_copy(update={"text": text, "validation": cfg.validation.model_copy(update={"holdout": 0})})
    if not cfg.text.held_out and not cfg.validation.holdout:
        raise UserError(f"{run.name} has held out no rows. Give some with {dashes}data FILE.")
    generator = _generator(cfg.base, cfg.text.template, given["device"], given["precision"])
    from .text.dataset import dataset  # torch

    longest = given["max_tokens"] or cfg.sample.tokens
    names = ("steps", "step", *EVALUATE_OPTIONS, "device", "precision")
    command = evaluations.command("evaluate", [run.name], {name: given[name] for name in names})
    data, folders = dataset(cfg, generator.tokenizer), {"base": None, **adapted}
    return Evaluation(cfg, folders, generator, data, given["answers"], longest, several, command)


def evaluate(run: runs.Run, options: argparse.Namespace) -> int:
    """Perplexity, exact answers and speed on held-out rows, of a run's base and with its adapter."""
    evaluated = evaluation(run, vars(options))
    print(f"{run.name}: {len(evaluated.data.held_out)} held-out examples")
    measured = {}
    for name, figures in evaluated.measure():
        measured[name] = figures
        said = "  ".join(f"{label} {value}" for label, value in figures.words().items())
        mark = "  lowest validation loss" if name in evaluated.checkpoints and evaluated.checkpoints[name].best else ""
        print(f"{name:8} {said}{mark}", flush=True)
    if evaluated.checkpoints:
        evaluations.write(run, evaluated.record(measured))
    return terminal.DONE


def export(run: runs.Run, options: argparse.Namespace) -> list[Path]:
    """What ``export`` writes of a language model's run: ``--merged`` and ``--rank`` are more than a copy."""
    from .text import export as files  # torch

    plain, written = run.files(options.step)[1], []
    if options.rank is not None:
        written.append(files.compress_folder(plain, options.out, options.rank))
    if options.merged:
        written.append(_merged(run, plain, options))
    return written


def _merged(run: runs.Run, plain: Path, options: argparse.Namespace) -> Path:
    """The merged model in the precision of training, or in --precision."""
    import torch

    from .text import export as files
    from .text.model import Base

    cfg, cpu = run.config(), torch.device("cpu")
    trained = {"bfloat16": "bf16", "float16": "fp16"}.get(run.status().precision, "fp32")
    precision = trained if options.precision == "auto" else options.precision
    base = Base.of(cfg.base.model_copy(update={"quantize": "none"}), cpu, devices.dtype(precision, cpu))
    print(f"merging in {precision}", file=sys.stderr)
    return files.merge(base.model(), base.tokenizer(cfg.text.template), plain, options.out / f"{run.title}-merged")
