"""The commands of picture models: generate, and evaluate as they mean it."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import presets, runs, terminal
from .cli_text import DEVICES, PRECISIONS
from .config import EMBEDDED, BaseModelConfig, Config, ConfigError, Problem
from .errors import UserError
from .image.adapter_files import SUFFIXES, is_folder
from .image.data import open_picture, scan
from .image.request import LIMITS, AdapterChoice, DrawRequest, broken, leave_out_quantisation
from .paths import expanded


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
    if problems := _out_of_bounds({name: getattr(options, name) for name in LIMITS}):
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


def evaluate(run: runs.Run, options: argparse.Namespace) -> int:
    """Draw the run's prompts with base and adapter: how like are they to its pictures, and to what the prompts say?"""
    cfg = run.config()
    requests = _evaluated(run, cfg, options)
    folder = options.references or Path(cfg.data.instance)
    paths = [picture.path for picture in scan(folder, "reference" if options.references else cfg.data.prompt)]
    references = [open_picture(path, cfg.data.background) for path in paths]
    leave_out_quantisation()
    from .image import encoder, metrics  # torch

    where = options.encoder or EMBEDDED
    found = encoder.find(where)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)

    prompts = [request.prompt for request in requests]

    def keep(prompt: str, drawn: metrics.Drawn) -> None:
        if options.out:
            words = "-".join(re.findall(r"\w+", prompt))[:60]
            name = f"{prompts.index(prompt)}-{words}-seed{drawn.seed}-{'adapted' if drawn.adapted else 'base'}.png"
            drawn.image.save(options.out / name)

    with _bar() as bar:
        rows = metrics.measure(requests, references, found, keep, bar)
    print(f"{run.name}: pictures of each prompt {requests[0].count}, references {len(references)}, encoder {where}")
    for row in rows:
        if not row.adapted:
            print(row.prompt or "all prompts")
        words = "" if row.words is None else f"  to the prompt {row.words:.3f}"
        print(f"  {'adapted' if row.adapted else 'base':8} to the references {row.references:.3f}{words}")
    return terminal.DONE


def _evaluated(run: runs.Run, cfg: Config, options: argparse.Namespace) -> list[DrawRequest]:
    """A request for each prompt. Raises ConfigError for what is out of bounds or missing."""
    count = PICTURES if options.count is None else options.count
    seed = options.seed or 0
    problems = _out_of_bounds({"count": count, "seed": seed})
    prompts = list(dict.fromkeys(options.prompt or cfg.sample.prompts))
    if not prompts:
        problems.append(Problem("--prompt", f"is needed: {run.name} has no sample prompts."))
    if problems:
        raise ConfigError(problems)
    adapter, sample = AdapterChoice(str(run.files(options.step)[0])), cfg.sample
    return [
        DrawRequest(
            prompt, base=_unquantised(cfg), adapters=(adapter,), negative=sample.negative, seed=seed, count=count,
            steps=sample.steps, guidance=sample.guidance, device=options.device, precision=options.precision,
        )
        for prompt in prompts
    ]  # fmt: skip


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of denoising steps, where there is a terminal to show it; takes how many are done, and of how many."""
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
    adapters = [_adapter(text) for text in options.adapter]
    cfg = next((cfg for _, cfg in adapters if cfg), Config())
    names = ("prompt", "negative", "seed", "count", "width", "height", "compare", "device", "precision")
    return DrawRequest(
        base=presets.build({}, {"base.path": options.base}).base if options.base else _unquantised(cfg),
        adapters=tuple(choice for choice, _ in adapters),
        steps=cfg.sample.steps if options.steps is None else options.steps,
        guidance=cfg.sample.guidance if options.guidance is None else options.guidance,
        **{name: getattr(options, name) for name in names},
    )


def _out_of_bounds(given: dict[str, float | None]) -> list[Problem]:
    """The numbers that break a limit, by the options that they were given with."""
    rules = {name: broken(name, value) for name, value in given.items() if value is not None}
    return [Problem(f"--{name}", rule) for name, rule in rules.items() if rule]


def _adapter(text: str) -> tuple[AdapterChoice, Config | None]:
    """A file, a folder, or a run and its settings, with @strength behind it if it is not 1."""
    if path := _existing(text):
        return AdapterChoice(str(path)), None
    name, _, strength = text.rpartition("@") if "@" in text else (text, "", "1")
    try:
        factor = float(strength)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise UserError(f"--adapter {text}: the strength behind '@' must be a number, got {strength!r}.")
    if path := _existing(name):
        return AdapterChoice(str(path), factor), None
    if name.lower().endswith(SUFFIXES) and not (expanded(name) / "config.yaml").is_file():
        raise UserError(f"--adapter {text}: there is no file {name}. Check the spelling.")
    run = runs.find(name)
    cfg = run.config()
    if cfg.task == "text":
        raise UserError(f"--adapter {text}: {run.name} is a run of a language model. Use the command ask.")
    return AdapterChoice(str(run.files()[0]), factor), cfg


def _existing(name: str) -> Path | None:
    """The adapter's file or folder of this name; None where there is none, as for a run's name."""
    try:
        path = expanded(name)
        return path if path.is_file() or is_folder(path) else None
    except (OSError, ValueError):  # longer than a name may be, a zero byte
        return None
