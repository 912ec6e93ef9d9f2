"""The commands of picture models: generate, and their part of evaluate."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import presets, runs, terminal
from .cli_text import DEVICES, PRECISIONS
from .config import EMBEDDED, BaseModelConfig, Config, ConfigError, Problem
from .errors import UserError
from .image.adapter_files import SUFFIXES, is_folder
from .image.data import open_picture, scan
from .image.request import LIMITS, AdapterChoice, DrawRequest, leave_out_quantisation, violation
from .paths import expanded

if TYPE_CHECKING:
    from PIL import Image

    from .image.generate import Drawn
    from .image.metrics import Figures


def add_generate(sub: argparse.ArgumentParser) -> None:
    """Options of ``generate``."""
    sub.add_argument("prompt")
    sub.add_argument("--base", help="'embedded', diffusers folder, .safetensors file or hub id (default: the run's)")
    sub.add_argument("--adapter", action="append", default=[], metavar="FILE_OR_RUN[@STRENGTH]", help="may be repeated")
    sub.add_argument("--negative", default="", help="what not to show")
    sub.add_argument("--out", type=expanded, default=Path("."), help="folder for the pictures")
    sub.add_argument("--compare", action="store_true", help="draw each seed with the base alone as well")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--count", type=int, default=1)
    for name, kind in (("steps", int), ("guidance", float)):
        default = getattr(DrawRequest, name)
        sub.add_argument(f"--{name}", type=kind, help=f"(default: that of the run's samples, {default} without a run)")
    sub.add_argument("--width", type=int)
    sub.add_argument("--height", type=int)
    sub.add_argument("--device", default="auto", choices=DEVICES)
    sub.add_argument("--precision", default="auto", choices=PRECISIONS)


def generate(options: argparse.Namespace) -> int:
    """Draw pictures with a base and adapters (language models answer with `ask`)."""
    if problems := out_of_bounds({name: getattr(options, name) for name in LIMITS}):
        raise ConfigError(problems)
    request = request_of(options)
    leave_out_quantisation()
    from .image.generate import Studio  # torch

    options.out.mkdir(parents=True, exist_ok=True)
    studio, stamp = Studio(), time.strftime("%Y%m%d-%H%M%S")
    with _bar() as progress:
        for picture in studio.draw(request, progress):
            path = options.out / f"{stamp}-seed{picture.seed}-{'adapted' if picture.adapted else 'base'}.png"
            picture.image.save(path)
            terminal.tqdm.write(str(path), file=sys.stdout)
    if studio.note:
        print(studio.note, file=sys.stderr)
    return terminal.DONE


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Options of ``evaluate`` for runs of pictures."""
    of = sub.add_argument_group("pictures")
    of.add_argument("--prompt", action="append", help="what to draw; may be repeated (default: the run's own)")
    of.add_argument(
        "--references", type=expanded, metavar="FOLDER", help="pictures to be like (default: the run's own)"
    )
    of.add_argument("--count", type=int, help=f"pictures of each prompt, base and adapted (default: {PICTURES})")
    of.add_argument("--seed", type=int, help="of the first of them (default: 0)")
    of.add_argument("--encoder", help="'embedded', or folder or hub id of a CLIP, SigLIP or DINO (default: embedded)")
    of.add_argument("--out", type=expanded, metavar="FOLDER", help="keep the pictures there")


EVALUATE_OPTIONS = ("prompt", "references", "count", "seed", "encoder", "out")
PICTURES = 4


@dataclass(frozen=True)
class Evaluation:
    """What is drawn of a run, and what the pictures are compared with."""

    requests: list[DrawRequest]
    references: list[Image.Image]
    encoder: str
    out: Path | None

    def measure(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Figures]:
        """Base and adapted, prompt by prompt and over all prompts; the pictures are kept in ``out``."""
        leave_out_quantisation()
        from .image import encoder, metrics  # torch

        resolved = encoder.find(self.encoder)
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
        return metrics.measure(self.requests, self.references, resolved, self._keep, progress)

    def _keep(self, prompt: str, drawn: Drawn) -> None:
        if self.out:
            number = [request.prompt for request in self.requests].index(prompt)
            words = "-".join(re.findall(r"\w+", prompt))[:60]
            kind = "adapted" if drawn.adapted else "base"
            drawn.image.save(self.out / f"{number}-{words}-seed{drawn.seed}-{kind}.png")


def evaluation(run: runs.Run, given: Mapping[str, Any], dashes: str = "--") -> Evaluation:
    """What ``evaluate`` measures.

    ``given``: its options by name; ``dashes``: what an error writes before such a name. Raises UserError.
    """
    cfg = run.config()
    requests = _evaluated(run, cfg, given, dashes)
    folder = given["references"] or Path(cfg.data.instance)
    paths = [picture.path for picture in scan(folder, "reference" if given["references"] else cfg.data.prompt)]
    references = [open_picture(path, cfg.data.background) for path in paths]
    return Evaluation(requests, references, given["encoder"] or EMBEDDED, given["out"])


def evaluate(run: runs.Run, options: argparse.Namespace) -> int:
    """Draw the run's prompts with base and adapter: how like are they to its pictures, and to what the prompts say?"""
    evaluated = evaluation(run, vars(options))
    with _bar() as bar:
        rows = evaluated.measure(bar)
    facts = f"{evaluated.requests[0].count}, references {len(evaluated.references)}, encoder {evaluated.encoder}"
    print(f"{run.name}: pictures of each prompt {facts}")
    for row in rows:
        if not row.adapted:
            print(row.prompt or "all prompts")
        words = "" if row.words is None else f"  to the prompt {row.words:.3f}"
        print(f"  {'adapted' if row.adapted else 'base':8} to the references {row.references:.3f}{words}")
    return terminal.DONE


def _evaluated(run: runs.Run, cfg: Config, given: Mapping[str, Any], dashes: str) -> list[DrawRequest]:
    """A request for each prompt. Raises ConfigError for what is out of bounds or missing."""
    count = PICTURES if given["count"] is None else given["count"]
    seed = given["seed"] or 0
    problems = out_of_bounds({"count": count, "seed": seed}, dashes)
    prompts = list(dict.fromkeys(given["prompt"] or cfg.sample.prompts))
    if not prompts:
        problems.append(Problem(f"{dashes}prompt", f"is needed: {run.name} has no sample prompts."))
    if problems:
        raise ConfigError(problems)
    adapter, sample = AdapterChoice(str(run.files(given["step"])[0])), cfg.sample
    return [
        DrawRequest(
            prompt, base=_unquantised(cfg), adapters=(adapter,), negative=sample.negative, seed=seed, count=count,
            steps=sample.steps, guidance=sample.guidance, device=given["device"], precision=given["precision"],
        )
        for prompt in prompts
    ]  # fmt: skip


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of denoising steps, if there is a terminal to show it; called with the steps done and their total."""
    with terminal.tqdm(total=1, unit="step", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _unquantised(cfg: Config) -> BaseModelConfig:
    """A run's base for drawing, where its layers have their full precision."""
    return cfg.base.model_copy(update={"quantize": "none"})


def request_of(options: argparse.Namespace) -> DrawRequest:
    """What to draw. A run brings its base, and its samples' steps and guidance, where the options name none."""
    names = ("prompt", "negative", "seed", "count", "width", "height", "compare", "device", "precision")
    given = {name: getattr(options, name) for name in (*names, "steps", "guidance")}
    return request(options.adapter, options.base, given)


def request(adapters: Sequence[str], base: str | None, given: Mapping[str, Any], dashes: str = "--") -> DrawRequest:
    """:func:`request_of`, of plain values; ``given``: fields of a request, of which None means the default.

    Raises:
        UserError: there is no such adapter; it is called by ``dashes`` and "adapter".
    """
    chosen = [adapter_of(text, dashes) for text in adapters]
    cfg = next((cfg for _, cfg in chosen if cfg), Config())
    sample = {"steps": cfg.sample.steps, "guidance": cfg.sample.guidance}
    return DrawRequest(
        base=presets.build({}, {"base.path": base}).base if base else _unquantised(cfg),
        adapters=tuple(choice for choice, _ in chosen),
        **sample | {name: value for name, value in given.items() if value is not None},
    )


def out_of_bounds(given: Mapping[str, float | None], dashes: str = "--") -> list[Problem]:
    """The numbers that break a limit, by the options that they were given with."""
    rules = {name: violation(name, value) for name, value in given.items() if value is not None}
    return [Problem(f"{dashes}{name}", rule) for name, rule in rules.items() if rule]


def adapter_of(text: str, dashes: str = "--") -> tuple[AdapterChoice, Config | None]:
    """A file, a folder, or a run and its settings, with @strength behind it if it is not 1."""
    if path := _existing(text):
        return AdapterChoice(str(path)), None
    name, _, strength = text.rpartition("@") if "@" in text else (text, "", "1")
    try:
        factor = float(strength)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise UserError(f"{dashes}adapter {text}: the strength behind '@' must be a number, got {strength!r}.")
    if path := _existing(name):
        return AdapterChoice(str(path), factor), None
    if name.lower().endswith(SUFFIXES) and not (expanded(name) / "config.yaml").is_file():
        raise UserError(f"{dashes}adapter {text}: there is no file {name}. Check the spelling.")
    run = runs.find(name)
    cfg = run.config()
    if cfg.task == "text":
        raise UserError(f"{dashes}adapter {text}: {run.name} is a run of a language model. Use the command ask.")
    return AdapterChoice(str(run.files()[0]), factor), cfg


def _existing(name: str) -> Path | None:
    """The adapter's file or folder of this name; None where there is none, as for a run's name."""
    try:
        path = expanded(name)
        return path if path.is_file() or is_folder(path) else None
    except (OSError, ValueError):  # longer than a name may be, a zero byte
        return None
