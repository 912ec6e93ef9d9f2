"""The command generate, and what every command that draws is asked with."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import presets, terminal
from .cli_text import DEVICES, PRECISIONS
from .config import BaseModelConfig, Config, ConfigError, Problem
from .errors import UserError
from .files import MB, Unreadable, lines, read_text
from .image import grid as grids
from .image import items, kept, parameters, samplers, sheet
from .image.adapter_files import SUFFIXES, is_folder
from .image.request import LIMITS, AdapterChoice, DrawRequest, leave_out_quantisation, problems, violation
from .paths import expanded
from .processes import importing_libraries

if TYPE_CHECKING:
    from .image.generate import Studio

LARGEST_PROMPTS = MB


def add_generate(sub: argparse.ArgumentParser) -> None:
    """Options of ``generate``."""
    sub.add_argument("prompt", nargs="?", help="what to draw")
    sub.add_argument("--prompts", type=expanded, metavar="FILE", help="draw every line of a text file")
    add_request(sub)
    sub.add_argument("--compare", action="store_true", help="draw each seed with the base alone as well")
    sub.add_argument("--count", type=int, default=1)


def add_request(sub: argparse.ArgumentParser) -> None:
    """Options of a command that draws."""
    sub.add_argument("--base", help="'embedded', diffusers folder, .safetensors file or hub id (default: the run's)")
    sub.add_argument(
        "--adapter", action="append", default=[], metavar="FILE_OR_RUN[:STEP][@STRENGTH]",
        help="may be repeated; RUN:STEP is that of a checkpoint of the run",
    )  # fmt: skip
    sub.add_argument("--like", type=expanded, metavar="PNG", help="all settings of a drawn picture, ours or A1111's")
    sub.add_argument("--negative", help="what not to show")
    sub.add_argument("--out", type=expanded, default=Path("."), help="folder for the pictures")
    sub.add_argument("--seed", type=int, help="(default: 0)")
    for name, kind in (("steps", int), ("guidance", float)):
        default = getattr(DrawRequest, name)
        sub.add_argument(f"--{name}", type=kind, help=f"(default: that of the run's samples, {default} without a run)")
    sub.add_argument("--width", type=int)
    sub.add_argument("--height", type=int)
    sub.add_argument("--sampler", help=f"{', '.join(samplers.SAMPLERS)} (default: the base's own)")
    sub.add_argument("--start", metavar="PICTURE", help="change this picture instead of drawing from noise")
    sub.add_argument("--change", type=float, help=f"how much of it, above 0 to 1 (default: {DrawRequest.change})")
    sub.add_argument("--mask", metavar="PICTURE", help="of the start's size: only where it is white is changed")
    sub.add_argument("--device", default="auto", choices=DEVICES)
    sub.add_argument("--precision", default="auto", choices=PRECISIONS)


def generate(options: argparse.Namespace) -> int:
    """Draw pictures with a base and adapters (language models answer with `ask`)."""
    requests = requests_of(options)
    leave_out_quantisation()
    with importing_libraries():
        from .image.generate import Studio

    options.out.mkdir(parents=True, exist_ok=True)
    studio, stamp = Studio(), time.strftime("%Y%m%d-%H%M%S")
    for number, request in enumerate(requests):
        stem = f"{stamp}-{number:03d}" if len(requests) > 1 else stamp
        with bar() as progress:
            for picture in studio.draw(request, progress):
                kind = "adapted" if picture.adapted else "base"
                path = options.out / f"{stem}-seed{picture.seed}-{kind}.png"
                parameters.save(picture.image, path, request, picture.seed, picture.adapted, studio.sampler)
                terminal.tqdm.write(str(path), file=sys.stdout)
        if studio.note:
            print(studio.note, file=sys.stderr)
    return terminal.DONE


@contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of denoising steps, if there is a terminal to show it; called with the steps done and their total."""
    with terminal.tqdm(total=1, unit="step", disable=not sys.stderr.isatty()) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress


def unquantised(cfg: Config) -> BaseModelConfig:
    """A run's base for drawing, where its layers have their full precision."""
    return cfg.base.model_copy(update={"quantize": "none"})


def add_grid(sub: argparse.ArgumentParser) -> None:
    """Options of ``grid``."""
    sub.add_argument("prompt", help="what to draw")
    sub.add_argument(
        "--axis", action="append", default=[], metavar="KIND=VALUES",
        help=f"one to three of {', '.join(grids.KINDS)}, with values as in \"0.5, 1\", \"0.2-1 x5\" or '\"a, b\", c'",
    )  # fmt: skip
    add_request(sub)


def grid(options: argparse.Namespace) -> int:
    """Draw the same with things changed along axes, as one labelled picture; started again, it goes on."""
    axes = [(kind.strip(), values) for kind, _, values in (text.partition("=") for text in options.axis)]
    print(draw_grid(grids.make(request_of(options), axes, _file_of), options.out))
    return terminal.DONE


def _file_of(name: str) -> str:
    return adapter_of(name, "")[0].path


def draw_grid(plan: grids.Grid, out: Path, studio: Studio | None = None) -> Path:
    """Draw what is missing of a grid in the folder ``out``; the path of its labelled picture.

    Raises:
        UserError: something cannot be used; KeyboardInterrupt after Ctrl-C. What is done stays, with its picture.
    """
    leave_out_quantisation()
    with importing_libraries():
        from .image.generate import Hooks, Studio

    plan.write(out)
    try:
        with bar() as progress:
            for _, file in items.draw(plan.items, out, studio or Studio(), Hooks(progress)):
                terminal.tqdm.write(str(out / file.name), file=sys.stdout)
    finally:
        sheet.draw(plan, out).save(out / grids.SHEET)
    return out / grids.SHEET


def requests_of(options: argparse.Namespace) -> list[DrawRequest]:
    """What to draw, a request for each prompt. Raises UserError."""
    if (options.prompt is None and options.like is None) + (options.prompts is None) != 1:
        raise UserError("prompt: give one, a file of them with --prompts, or a picture's with --like.")
    if options.prompts is None:
        return [request_of(options)]
    try:
        prompts = [line.strip() for _, line in lines(read_text(options.prompts, LARGEST_PROMPTS))]
    except Unreadable as error:
        raise UserError(f"--prompts: {options.prompts} {error}") from None
    if not prompts:
        raise UserError(f"--prompts: {options.prompts} has no prompts. Write one on each line.")
    first = request_of(options)
    return [replace(first, prompt=prompt) for prompt in prompts]


def request_of(options: argparse.Namespace) -> DrawRequest:
    """One request, with the prompt of the options.

    A run brings its base, and its samples' steps and guidance, where the options name none. Raises UserError.
    """
    if wrong := out_of_bounds({name: getattr(options, name) for name in LIMITS if hasattr(options, name)}):
        raise ConfigError(wrong)
    names = [field.name for field in fields(DrawRequest) if field.name not in ("base", "adapters")]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    adapters, base = options.adapter, options.base
    if options.like:
        like = parameters.read(options.like)
        for note in like.notes:
            print(f"note: {note}", file=sys.stderr)
        adapters = adapters or [f"{choice.path}@{choice.strength}" for choice in like.adapters]
        base = base or like.values.get("base")
        given = {name: value for name, value in like.values.items() if name != "base"} | given
    return request(adapters, base, {"prompt": ""} | given)


def request(adapters: Sequence[str], base: str | None, given: Mapping[str, Any], dashes: str = "--") -> DrawRequest:
    """:func:`request_of`, of plain values; ``given``: fields of a request, of which None means the default.

    Raises:
        UserError: there is no such adapter, or what is given does not go together; options are called by ``dashes``
            and their names.
    """
    chosen = [adapter_of(text, dashes) for text in adapters]
    cfg = next((cfg for _, cfg in chosen if cfg), Config())
    sample = {"steps": cfg.sample.steps, "guidance": cfg.sample.guidance}
    drawn = DrawRequest(
        base=presets.build({}, {"base.path": base}).base if base else unquantised(cfg),
        adapters=tuple(choice for choice, _ in chosen),
        **sample | {name: value for name, value in given.items() if value is not None},
    )
    if wrong := problems(drawn, dashes):
        raise ConfigError(wrong)
    files = {name: str(expanded(path).absolute()) for name in ("start", "mask") if (path := getattr(drawn, name))}
    return replace(drawn, **files)


def out_of_bounds(given: Mapping[str, float | None], dashes: str = "--") -> list[Problem]:
    """The numbers that break a limit, by the options that they were given with."""
    rules = {name: violation(name, value) for name, value in given.items() if value is not None}
    return [Problem(f"{dashes}{name}", rule) for name, rule in rules.items() if rule]


def adapter_of(text: str, dashes: str = "--") -> tuple[AdapterChoice, Config | None]:
    """A file, a folder, or a run (of a step, "icons:200") and its settings, with @strength behind it if it is not 1."""
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
    try:
        run, adapter = kept.chosen(name)
    except UserError as error:
        raise UserError(f"{dashes}adapter {text}: {error}") from None
    return AdapterChoice(str(adapter.loaded), factor), run.config()


def _existing(name: str) -> Path | None:
    """The adapter's file or folder of this name; None where there is none, as for a run's name."""
    try:
        path = expanded(name)
        return path if path.is_file() or is_folder(path) else None
    except (OSError, ValueError):  # longer than a name may be, a zero byte
        return None
