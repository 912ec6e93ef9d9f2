"""``python -m lowrank_diffusion``: everything the app does, on the command line."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence

from . import (
    api,
    cli_datasets,
    cli_draw,
    cli_image,
    cli_runs,
    cli_settings,
    cli_text,
    cli_understand,
    presets,
    run_queue,
    runs,
    supervisor,
    terminal,
)
from .config import ConfigError
from .errors import UserError, of_disk
from .paths import PROJECT, expanded
from .processes import without_hints


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    options = parse(arguments)
    without_hints()
    try:
        return options.command(options)
    except UserError as error:
        print(terminal.plain(str(error)), file=sys.stderr)
        return terminal.FAILED
    except KeyboardInterrupt:
        return terminal.INTERRUPTED
    except BrokenPipeError:  # `list | head` has read enough
        sys.stderr.close()
        return terminal.DONE
    except OSError as error:
        print(of_disk(error), file=sys.stderr)
        return terminal.FAILED


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options; ``key=value`` may stand before or after them (argparse alone wants it before)."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    wrong = [text for text in rest if text.startswith("-") or not hasattr(options, "settings")]
    if wrong:
        top.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        options.settings += rest
    return options


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="lowrank_diffusion", description="Fine-tune picture and language models, headless."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    train = add("train", _train)
    train.add_argument("preset", help="name of a preset, or path of a YAML file")
    train.add_argument("settings", nargs="*", metavar="key=value", help="for example adapter.rank=8")
    train.add_argument("--name", help="name of the run (default: the preset's)")
    train.add_argument("--detach", action="store_true", help="start it and return")
    train.add_argument("--queue", action="store_true", help="put it into the queue and return")
    train.add_argument("--prepare", action="store_true", help="only create it, to be started by a launcher of your own")
    train.add_argument("--machines", type=int, default=1, metavar="N", help="with --prepare: share train.gpus among N")
    train.add_argument("--address", default="", metavar="HOST[:PORT]", help="of the first of these machines")
    resume = add("resume", _resume)
    resume.add_argument("run")
    resume.add_argument("--detach", action="store_true", help="start it and return")
    cli_runs.add(add)
    export = add("export", _export)
    export.add_argument("run")
    export.add_argument("--out", type=expanded, required=True, help="folder for the files")
    export.add_argument("--step", type=cli_text.step, help=cli_text.STEP)
    export.add_argument("--rank", type=int, help="also compress to this rank, as well as any can be")
    export.add_argument("--merged", action="store_true", help="language models: also a whole model with it inside")
    export.add_argument("--precision", default="auto", choices=cli_text.PRECISIONS, help="of --merged")
    cli_draw.add_generate(add("generate", cli_draw.generate))
    cli_draw.add_grid(add("grid", cli_draw.grid))
    cli_text.add_ask(add("ask", cli_text.ask))
    evaluate = add("evaluate", _evaluate)
    cli_text.add_evaluate(evaluate)
    cli_image.add_evaluate(evaluate)
    cli_understand.add_understand(add("understand", cli_understand.understand))
    cli_datasets.add_datasets(add("datasets", cli_datasets.list_sets))
    cli_settings.add(add)
    return top


def _train(options: argparse.Namespace) -> int:
    """Start a run and show its progress."""
    if (options.machines != 1 or options.address) and not options.prepare:
        raise UserError("--machines and --address: belong to --prepare, which prints a command for each machine.")
    run, notes = api.prepare(options.preset, presets.parse_overrides(options.settings), options.name)
    try:
        commands = supervisor.accelerate(run, options.address, options.machines)
    except runs.RunError:
        shutil.rmtree(run.path)  # nothing was asked for that could be started
        raise
    terminal.tell(notes)
    print(f"run {run.path}", flush=True)
    if options.prepare:
        for number, command in enumerate(commands, 1):
            on = f" on machine {number}" if len(commands) > 1 else ""
            print(f"Start it{on}, from {PROJECT}, with: {shlex.join(command)}")
        return terminal.DONE
    if options.queue:
        run_queue.submit(run)
        return terminal.DONE
    return _start(run, options.detach, notes)


def _start(run: runs.Run, detach: bool, known: Sequence[str] = ()) -> int:
    """Start a run and follow it; ``known``: notes that were shown already."""
    supervisor.start(run)
    return terminal.DONE if detach else terminal.follow(run, stop_on_interrupt=True, known=known)


def _resume(options: argparse.Namespace) -> int:
    """Go on with a stopped, failed or interrupted run from its newest checkpoint."""
    return _start(runs.find(options.run), options.detach)


def _export(options: argparse.Namespace) -> int:
    """Copy a run's adapter files, or make smaller ones."""
    run = runs.find(options.run)
    files = run.files(options.step)
    task = run.config().task
    if options.merged and task == "image":
        raise UserError("--merged: is for language models. Diffusers, ComfyUI and others load the adapter's own files.")
    options.out.mkdir(parents=True, exist_ok=True)
    if task == "text" and (options.merged or options.rank is not None):
        for path in cli_text.export(run, options):
            print(path)
        return terminal.DONE
    if options.rank is not None:
        from .image.export import compress_file  # torch

        for path in compress_file(files[0], options.out, options.rank):
            print(path)
        return terminal.DONE
    for path in files:
        target = options.out / path.name
        shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copy2(path, target)
        print(target)
    return terminal.DONE


def _evaluate(options: argparse.Namespace) -> int:
    """Measure base and adapter of a run: pictures against its set and prompts, or answers to held-out rows."""
    run = runs.find(options.run)
    if problems := api.foreign(run, vars(options), "--"):
        raise ConfigError(problems)
    return (cli_image if run.config().task == "image" else cli_text).evaluate(run, options)
