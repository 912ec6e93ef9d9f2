"""All that can be told of a run before it starts, without torch: what is wrong, and what will not be used as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from . import blanks, devices
from . import plan as plans
from .bases import ModelError
from .config import Config, ConfigError, Problem
from .errors import DataError
from .image import adapted, buckets, crops
from .image import notes as image_notes
from .image.data import Survey, of_run
from .image.source import Source, native_side, pixels_of_latent
from .image.source import resolve as resolve_image
from .text import rows
from .text.source import resolve as resolve_text


@dataclass
class Preflight:
    """What was found."""

    problems: list[Problem] = field(default_factory=list)
    """Why the run cannot start."""
    notes: list[str] = field(default_factory=list)
    """What it cuts, leaves out or replaces."""


def look(cfg: Config, pictures: Survey | None = None) -> Preflight:
    """Read everything that a run is given. ``cfg`` has absolute paths (:func:`.presets.with_absolute_paths`).

    ``pictures``: what is learnt from in place of ``data.instance``, where it is not in a folder yet.
    """
    result = Preflight(devices.problems(cfg) + blanks.problems(cfg))
    source, problems = base(cfg)
    result.problems += problems
    if not cfg.data.instance and pictures is None:
        what = "the folder with your pictures" if cfg.task == "image" else "the file with your rows"
        result.problems.append(Problem("data.instance", "is empty.", f"Give {what}."))
        return result
    if cfg.task == "text":
        _look_at_rows(cfg, result)
    else:
        _look_at_pictures(cfg, source, result, pictures)
    return result


def notes(cfg: Config, pictures: Survey | None = None) -> list[str]:
    """What a run cuts, leaves out or replaces; nothing is said of one that cannot start."""
    result = look(cfg, pictures)
    return [] if result.problems else result.notes


def base(cfg: Config) -> tuple[object, list[Problem]]:
    """The base, and what can be said without loading it against it, or against the adapter's settings for its layers.

    None for a base that cannot be used. The layers of language models, and of hub ids, are not known yet.
    """
    try:
        if cfg.task == "text":
            return resolve_text(cfg.base), []
        source = resolve_image(cfg.base)
        return source, adapted.problems(cfg, source)
    except ModelError as error:
        return None, error.problems


def plan(cfg: Config) -> plans.Plan:
    """How steps will run, as far as that can be told without torch: by settings and machine, and of pictures layers.

    Raises:
        ModelError: the base cannot be used.
    """
    machine = plans.here(cfg)
    if cfg.task == "text":
        return plans.of(cfg, machine)
    source = resolve_image(cfg.base)
    return plans.of(cfg, machine, adapted.layers(cfg, source, adapted.architecture(source)))


def class_pictures(cfg: Config) -> tuple[Survey | None, list[Problem]]:
    """Those that a person gives for prior preservation, and what is wrong with them."""
    try:
        return image_notes.given_classes(cfg), []
    except DataError as error:
        return None, [Problem("prior.pictures", problem) for problem in error.problems]


def _look_at_rows(cfg: Config, result: Preflight) -> None:
    for key, path in (("data.instance", cfg.data.instance), ("text.held_out", cfg.text.held_out)):
        if not path:
            continue
        try:
            file = rows.survey(Path(path))
        except DataError as error:
            result.problems += [Problem(key, problem) for problem in error.problems]
            continue
        own = key == "data.instance"
        result.notes += file.notes() if own else [f"Held out: {note}" for note in file.notes()]
        result.problems += _held_out(cfg, len(file.rows), "rows") if own else []


def _look_at_pictures(cfg: Config, source: object, result: Preflight, pictures: Survey | None) -> None:
    try:
        pictures = pictures or of_run(cfg.data)
    except DataError as error:
        result.problems += [Problem("data.instance", problem) for problem in error.problems]
    classes, problems = class_pictures(cfg)
    result.problems += problems
    if pictures:
        result.problems += _held_out(cfg, len(pictures.pictures), "pictures")
    if pictures and isinstance(source, Source):
        try:
            result.problems += _masks(cfg, pictures, source)
            result.notes += image_notes.notes(cfg, pictures, classes, source)
        except (ModelError, ConfigError) as error:
            result.problems += error.problems


def _masks(cfg: Config, pictures: Survey, source: Source) -> list[Problem]:
    """Pictures that nothing can be learnt of. Raises ModelError, ConfigError."""
    sizes = buckets.sizes([picture.seen for picture in pictures.pictures], cfg.data, native_side(source))
    if cfg.loss.mask_outside:
        return []
    empty = crops.mask_problems(pictures.pictures, sizes, cfg.data, pixels_of_latent(source))
    return [Problem("data.instance", problem) for problem in empty]


def _held_out(cfg: Config, count: int, what: str) -> list[Problem]:
    obstacle = cfg.validation.obstacle(count, what)
    return [Problem("validation.holdout", obstacle, "Hold out fewer, or give more.")] if obstacle else []
