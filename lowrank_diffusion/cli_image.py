"""The command that only picture models have: generate."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import runs, terminal
from .cli_text import DEVICES, PRECISIONS
from .config import BaseModelConfig, Config, ConfigError, Problem
from .errors import UserError
from .image.request import LIMITS, AdapterChoice, DrawRequest, broken, leave_out_quantisation


def add_generate(sub: argparse.ArgumentParser) -> None:
    """Options of ``generate``."""
    sub.add_argument("prompt")
    sub.add_argument("--base", help="'embedded', diffusers folder, .safetensors file or hub id (default: the run's)")
    sub.add_argument("--adapter", action="append", default=[], metavar="FILE_OR_RUN[@STRENGTH]", help="may be repeated")
    sub.add_argument("--negative", default="", help="what not to show")
    sub.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures")
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
    _check_drawing(options)
    request = request_of(options)
    leave_out_quantisation()
    from .image.generate import Studio  # torch

    options.out.mkdir(parents=True, exist_ok=True)
    studio, stamp = Studio(), time.strftime("%Y%m%d-%H%M%S")
    with terminal.tqdm(total=1, unit="step", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        for picture in studio.draw(request, progress):
            path = options.out / f"{stamp}-seed{picture.seed}-{'adapted' if picture.adapted else 'base'}.png"
            picture.image.save(path)
            bar.write(str(path), file=sys.stdout)
    if studio.note:
        print(studio.note, file=sys.stderr)
    return terminal.DONE


def request_of(options: argparse.Namespace) -> DrawRequest:
    """What to draw. A run brings its base, and its samples' steps and guidance, where the options name none."""
    adapters = [_adapter(text) for text in options.adapter]
    cfg = next((cfg for _, cfg in adapters if cfg), Config())
    names = ("prompt", "negative", "seed", "count", "width", "height", "compare", "device", "precision")
    return DrawRequest(
        base=BaseModelConfig(path=options.base) if options.base else cfg.base.model_copy(update={"quantize": "none"}),
        adapters=tuple(choice for choice, _ in adapters),
        steps=cfg.sample.steps if options.steps is None else options.steps,
        guidance=cfg.sample.guidance if options.guidance is None else options.guidance,
        **{name: getattr(options, name) for name in names},
    )


def _check_drawing(options: argparse.Namespace) -> None:
    """Raise ConfigError with everything that is out of bounds."""
    given = {name: getattr(options, name) for name in LIMITS}
    rules = {name: broken(name, value) for name, value in given.items() if value is not None}
    found = [Problem(f"--{name}", rule) for name, rule in rules.items() if rule]
    if found:
        raise ConfigError(found)


def _adapter(text: str) -> tuple[AdapterChoice, Config | None]:
    """A file, or a run and its settings, with @strength behind it if it is not 1."""
    if Path(text).is_file():
        return AdapterChoice(text), None
    name, _, strength = text.rpartition("@") if "@" in text else (text, "", "1")
    try:
        factor = float(strength)
    except ValueError:
        raise UserError(f"--adapter {text}: the strength behind '@' must be a number, got {strength!r}.") from None
    if Path(name).is_file():
        return AdapterChoice(name, factor), None
    run = runs.find(name)
    cfg = run.config()
    if cfg.task == "text":
        raise UserError(f"--adapter {text}: {run.name} is a run of a language model. Use the command ask.")
    return AdapterChoice(str(run.files()[0]), factor), cfg
