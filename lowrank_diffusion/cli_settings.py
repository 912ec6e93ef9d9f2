"""The commands about settings: presets, what a run will take, which base models are here."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from . import config, devices, files, forecast, model_library, own_presets, plan, presets, runs, terminal
from .errors import UserError
from .files import read_text
from .image import data, memory
from .plain_yaml import LARGEST

Add = Callable[[str, Callable[[argparse.Namespace], int]], argparse.ArgumentParser]


def add(add: Add) -> None:
    """All of them."""
    show = add("presets", _presets)
    show.add_argument("preset", nargs="?", help="show this one")
    show.add_argument("--delete", action="store_true", help="delete this one, which is your own")
    keep = add("keep", _keep)
    keep.add_argument("name", help="of the preset of your own")
    keep.add_argument("preset", help="name of a preset, path of a YAML file, or a run")
    keep.add_argument("settings", nargs="*", metavar="key=value", help="in place of its own")
    keep.add_argument("--about", default="", help="what it is for, in a sentence")
    add("settings", _settings)
    for name, command in (("memory", _memory), ("forecast", _forecast)):
        sub = add(name, command)
        sub.add_argument("preset", help="name of a preset, or path of a YAML file")
        sub.add_argument("settings", nargs="*", metavar="key=value", help="for example train.batch=4")
    add("models", _models).add_argument("task", nargs="?", default="image", choices=config.choices("task"))


def _keep(options: argparse.Namespace) -> int:
    """Keep settings as a preset of your own, of a preset or of a run."""
    changes = presets.parse_overrides(options.settings)
    try:
        before = presets.find_preset(options.preset)
    except config.ConfigError as error:
        try:
            run = runs.find(options.preset)
        except runs.RunError:
            raise error from None
        cfg = presets.build(overrides=run.config().dotted() | changes)
    else:
        cfg = presets.build(before.values, changes)
    print(own_presets.save(options.name, cfg, options.about))
    return terminal.DONE


def _asked(options: argparse.Namespace) -> config.Config:
    """The settings of a command that takes a preset and changes, with absolute paths; tells what is read otherwise."""
    preset = presets.find_preset(options.preset)
    settings = presets.parse_overrides(options.settings)
    terminal.tell(presets.notes(preset.values, settings))
    return presets.with_absolute_paths(presets.build(preset.values, settings))


def _forecast(options: argparse.Namespace) -> int:
    """Tell what a run will take: passes over the data, GPU memory, and time as in earlier runs like it."""
    cfg = _asked(options)
    pictures = data.of_run(cfg.data).pictures if cfg.task == "image" and cfg.data.instance else []
    examples = max(0, sum(picture.repeats for picture in pictures) - cfg.validation.holdout)
    print(forecast.of(cfg, examples, runs.all_runs()).words())
    return terminal.DONE


def _models(options: argparse.Namespace) -> int:
    """List the base models that are on this machine."""
    for model in model_library.models(options.task):
        size = files.megabytes(model.size) if model.size else ""
        print(terminal.plain(f"{model.path:50} {model.place:22} {size:10} {model.obstacle}".rstrip()))
    return terminal.DONE


def _memory(options: argparse.Namespace) -> int:
    """Estimate how much GPU memory a run takes, without starting it."""
    cfg = _asked(options)
    if cfg.task != "image":
        raise UserError(
            f"{options.preset}: memory is estimated for pictures only, and this preset has task={cfg.task}."
        )
    elsewhere = cfg.train.device in ("auto", "cuda") and not devices.gpu_driver()
    need = memory.estimate(cfg, machine=plan.any_gpu(cfg) if elsewhere else plan.here(cfg))
    print(f"{need.plan} (on a GPU with Triton and a C compiler; this machine has no GPU)" if elsewhere else need.plan)
    print("\n".join(need.lines()))
    return terminal.DONE


def _presets(options: argparse.Namespace) -> int:
    """List the presets, your own last, or show one."""
    if options.delete:
        own_presets.delete(options.preset or "")
        return terminal.DONE
    if options.preset:
        print(read_text(presets.find_preset(options.preset).path, LARGEST), end="")
        return terminal.DONE
    for preset in [*presets.all_presets(), *presets.own_presets()]:
        print(f"{preset.name:28} {preset.about}")
    return terminal.DONE


def _settings(_options: argparse.Namespace) -> int:
    """List every setting with its default and meaning."""
    defaults = config.Config().dotted()
    for key, field in config.fields().items():
        extra = field.json_schema_extra
        unit = f" [{extra['unit']}]" if isinstance(extra, dict) and extra.get("unit") else ""
        print(f"{key:26} {defaults[key]!s:12} {field.description}{unit}")
    return terminal.DONE
