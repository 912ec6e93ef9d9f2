"""The front door: train, draw, load, evaluate and understand in code, by the same steps as the command line.

Settings are those that the command ``settings`` lists; ``adapter.rank=8`` is written ``adapter__rank=8`` in Python.
What a person can put right is a :class:`~.errors.UserError`, whose text says what is wrong and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from . import cli_draw, cli_image, cli_text, preflight, presets, runs, supervisor, terminal
from .config import Config, ConfigError, Problem
from .errors import UserError
from .image import families, kept
from .image import grid as grids
from .image.request import LIMITS, DrawRequest, leave_out_quantisation
from .paths import expanded
from .runs import Run, RunError
from .understanding import flatness as flatness
from .understanding import spectra as spectra

if TYPE_CHECKING:
    from PIL import Image

    from .image.generate import Studio
    from .image.metrics import Figures
    from .text.metrics import Measures

Adapter = Run | str | Path
"""A run, its name or folder, or an adapter's file or folder. A text may name a checkpoint, "icons:200", and end in a
strength, "icons@0.8"."""


class DrawOptions(TypedDict, total=False):
    """What :func:`draw` takes beside adapter and prompt; sizes in pixels."""

    base: str
    negative: str
    seed: int
    count: int
    steps: int
    guidance: float
    width: int
    height: int
    sampler: str
    start: str
    change: float
    mask: str
    device: str
    precision: str


class EvaluateOptions(TypedDict, total=False):
    """What :func:`evaluate` takes for any run, then for runs of pictures, then for those of language models."""

    step: int | Literal["best"]
    steps: str
    device: str
    precision: str

    prompt: Sequence[str]
    references: Path
    count: int
    seed: int
    encoder: str
    out: Path

    data: Path
    answers: int
    max_tokens: int


def train(preset: str | Path | Config, *, name: str | None = None, **settings: Any) -> Run:
    """Train a run to its end, in a process of its own, and print its progress.

    Args:
        preset: A preset's name, the path of a YAML file, or settings.
        name: Of the run; default: the preset's.
        settings: In place of the preset's, such as ``train__steps=200``.

    Returns:
        The run; ``run.files()`` are its adapter's files.

    Raises:
        ConfigError: With every problem of the settings and of what is learnt from.
        RunError: The training failed.
        KeyboardInterrupt: After Ctrl-C, when the run is saved and stopped.
    """
    run, notes = prepare(preset, {key.replace("__", "."): value for key, value in settings.items()}, name)
    for note in notes:
        print(terminal.plain(f"note: {note}"), flush=True)
    supervisor.start(run)
    code = terminal.follow(run, stop_on_interrupt=True, known=notes)
    if code == terminal.INTERRUPTED:
        raise KeyboardInterrupt
    if code != terminal.DONE:
        raise RunError(f"{run.name}: {run.status().message}")
    return run


def prepare(preset: str | Path | Config, settings: Mapping[str, Any], name: str | None) -> tuple[Run, list[str]]:
    """Make a run's directory without starting it. Returns the run, and notes on what it will not use as it is.

    ``settings`` have dotted keys. Raises ConfigError, RunError.
    """
    if isinstance(preset, Config):
        title, values = preset.task, preset.model_dump(mode="json")
    else:
        chosen = presets.find_preset(str(preset))
        title, values = chosen.name, chosen.values
    cfg = presets.build(values, settings)
    checked = preflight.look(presets.with_absolute_paths(cfg))
    if checked.problems:
        raise ConfigError(checked.problems)
    return runs.create(cfg, name or title), presets.notes(values, settings) + checked.notes


def draw(
    adapter: Adapter | Sequence[Adapter] | None,
    prompt: str | Sequence[str],
    *,
    studio: Studio | None = None,
    **options: Unpack[DrawOptions],
) -> list[Image.Image]:
    """Draw pictures of a prompt: RGB, one for each seed from ``seed`` on; of several prompts in turn.

    Args:
        adapter: One, several, or None for the base alone. A run brings its base, and its samples' steps and guidance.
        prompt: What to draw; one, or several.
        studio: Keeps the pipeline loaded for the next call (:class:`~.image.generate.Studio`).
        options: See :class:`DrawOptions`.

    Raises:
        UserError: An option is out of bounds, or base, adapter or device cannot be used.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    first = _request(adapter, options)
    if studio is None:
        leave_out_quantisation()
        from .image.generate import Studio  # torch

        studio = Studio()
    return [picture.image for one in prompts for picture in studio.draw(replace(first, prompt=one))]


def grid(
    adapter: Adapter | Sequence[Adapter] | None,
    prompt: str,
    axes: Mapping[str, str | Sequence[object]],
    out: str | Path,
    *,
    studio: Studio | None = None,
    **options: Unpack[DrawOptions],
) -> Path:
    """Draw a prompt with one, two or three things changed, into a folder; what is there already is not drawn again.

    Args:
        adapter, prompt, studio, options: As in :func:`draw`.
        axes: By what changes (:data:`~.image.grid.KINDS`) its values: a list, or a text such as "0.2-1 x5".
        out: Of the pictures, ``grid.json`` and ``grid.png``.

    Returns:
        The path of the labelled picture.

    Raises:
        UserError: With every problem of the axes.
    """
    pairs = [(kind, values if isinstance(values, str) else grids.joined(values)) for kind, values in axes.items()]
    request = replace(_request(adapter, options), prompt=prompt)
    plan = grids.make(request, pairs, lambda name: cli_draw.adapter_of(name, "")[0].path)
    return cli_draw.draw_grid(plan, expanded(str(out)), studio)


def _request(adapter: Adapter | Sequence[Adapter] | None, options: Mapping[str, Any]) -> DrawRequest:
    """A request without its prompt. Raises UserError."""
    if problems := _unknown(options, DrawOptions) or cli_draw.out_of_bounds(_numbers(options), ""):
        raise ConfigError(problems)
    adapters = [] if adapter is None else [adapter] if isinstance(adapter, Adapter) else list(adapter)
    given: dict[str, Any] = {key: value for key, value in options.items() if key != "base"} | {"prompt": ""}
    given |= {key: str(given[key]) for key in ("start", "mask") if key in given}
    return cli_draw.request([_text(one) for one in adapters], options.get("base"), given, "")


def load(adapter: Adapter, model: Any = None) -> Any:
    """Put an adapter into a model, the whole of it or nothing.

    Args:
        adapter: Of pictures: any file or folder that :func:`draw` takes. Of a language model: a run or PEFT's folder.
        model: A diffusers pipeline, or a causal language model of transformers. None: the base of the run that
            ``adapter`` is, loaded in float32 on the CPU.

    Returns:
        The same pipeline, in which earlier adapters now rest; of a language model PEFT's model around it.

    Raises:
        UserError: The adapter is broken, for another base, or needs a ``model``.
    """
    model = _base_of(adapter) if model is None else model
    if not families.knows(model):
        from . import adapters  # torch

        return adapters.load(model, _peft_folder(adapter))
    from .image.apply import load_adapter, select  # torch

    choice, _ = cli_draw.adapter_of(_text(adapter), "")
    taken = {name for names in model.get_list_adapters().values() for name in names}
    name = next(name for number in range(len(taken) + 1) if (name := f"adapter_{number}") not in taken)
    load_adapter(model, expanded(choice.path), name)
    select(model, {name: choice.strength})
    return model


def evaluate(run: Run | str | Path, **options: Unpack[EvaluateOptions]) -> list[Figures] | dict[str, Measures]:
    """Measure the base of a run without its adapter and with it.

    Returns:
        Of pictures: for each prompt, and for all of them (prompt ""), base and adapted, the mean cosines to the
        references and to the prompt. Of a language model: "base" and "adapted", each with its perplexity. With
        ``steps="all"`` or "50,best" there is a row of every such adapter, "step 50" of a language model.

    Raises:
        UserError: An option is out of bounds or belongs to the other task, or there is nothing to measure with.
    """
    run = run if isinstance(run, Run) else runs.find(str(run))
    given: dict[str, Any] = dict.fromkeys(EvaluateOptions.__annotations__) | {"device": "auto", "precision": "auto"}
    given |= options
    given |= {key: expanded(str(given[key])) for key in ("references", "out", "data") if given[key] is not None}
    if problems := _unknown(options, EvaluateOptions) or foreign(run, given):
        raise ConfigError(problems)
    if run.config().task == "image":
        return cli_image.evaluation(run, given, "").measure()
    return dict(cli_text.evaluation(run, given, "").measure())


def foreign(run: Run, given: Mapping[str, Any], dashes: str = "") -> list[Problem]:
    """The options of ``evaluate`` that are given and belong to the other task."""
    pictures = run.config().task == "image"
    names = (cli_text if pictures else cli_image).EVALUATE_OPTIONS
    rule = f"is for {'language' if pictures else 'picture'} models; {run.name} is not one."
    wrong = (name for name in names if given[name] is not None)
    return [Problem(f"{dashes}{name.replace('_', '-') if dashes else name}", rule) for name in wrong]


def _unknown(options: Mapping[str, Any], declared: type) -> list[Problem]:
    known = declared.__annotations__
    return [Problem(key, "there is no such option.", f"Options: {', '.join(known)}.") for key in options.keys() - known]


def _numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in LIMITS}


def _text(adapter: Adapter) -> str:
    return str(adapter.path if isinstance(adapter, Run) else adapter)


def _base_of(adapter: Adapter) -> Any:
    """The model that a run was trained on. Raises UserError for what is not a run."""
    name = _text(adapter)
    try:
        run, _ = kept.named(name.rpartition("@")[0] or name)
    except RunError as error:
        raise UserError(f"{name}: give load() the model too, unless this is meant to be a run. {error}") from None
    import torch

    from .image.model import Base as ImageBase
    from .text.model import Base as TextBase

    cfg, cpu = run.config(), torch.device("cpu")
    base = cfg.base.model_copy(update={"quantize": "none"})
    if cfg.task == "text":
        return TextBase.of(base, cpu, torch.float32).model()
    return ImageBase.of(base, cpu, torch.float32).pipeline()


def _peft_folder(adapter: Adapter) -> Path:
    folder = expanded(_text(adapter))
    return folder if (folder / "adapter_config.json").is_file() else cli_text.text_run(_text(adapter))[0].files()[0]
