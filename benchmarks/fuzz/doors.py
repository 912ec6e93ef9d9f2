"""How files of each kind come in: the same calls that the page and the command line make."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lowrank_diffusion import datasets, paths, preflight, presets
from lowrank_diffusion.config import BaseModelConfig, Config
from lowrank_diffusion.errors import UserError

from .cases import Case


def write(case: Case, folder: Path) -> None:
    """The case's files, under their names less the mark of those that stay as they are."""
    for name, content in case.files.items():
        path = folder / name.replace("_a.png", "a.png").replace("_b.png", "b.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def steps(kind: str, folder: Path) -> Iterator[Callable[[], object]]:
    """What is done with a case's files, one call after another; each may raise UserError and nothing else."""
    return DOORS[kind](folder)


def run(kind: str, folder: Path) -> None:
    """All of it. Raises what is no UserError."""
    for step in steps(kind, folder):
        with contextlib.suppress(UserError), contextlib.redirect_stdout(io.StringIO()):
            step()


def _yaml(folder: Path) -> Iterator[Callable[[], object]]:
    path = folder / "a.yaml"

    def whole() -> None:
        config = presets.build(presets.find_preset(str(path)).values)
        config = presets.with_absolute_paths(config)
        assert presets.from_yaml(presets.to_yaml(config), "x") == config, "what was written is not what is read"

    def override() -> None:
        lines = path.read_bytes()[:100_000].decode("utf-8", "replace").splitlines()[:40]
        pairs = [line.replace("\0", " ").replace(":", "=", 1) for line in lines]
        presets.build({}, presets.parse_overrides(pairs))

    yield whole
    yield override


def _rows(folder: Path) -> Iterator[Callable[[], object]]:
    from lowrank_diffusion.image.data import survey as pictures
    from lowrank_diffusion.text.rows import survey

    for path in sorted(folder.glob("a.*")):
        if path.suffix != ".png":
            yield lambda path=path: survey(path).notes()
    yield lambda: pictures(folder)
    yield lambda: pictures(folder, "x").notes


def _pictures(folder: Path) -> Iterator[Callable[[], object]]:
    from lowrank_diffusion.image import data

    (path,) = folder.iterdir()
    yield lambda: data.check_picture(path)
    yield lambda: data.open_picture(path)
    yield lambda: data.thumbnail(path, 160)
    yield lambda: data.survey(folder, "x")


def _sets(folder: Path) -> Iterator[Callable[[], object]]:
    from lowrank_diffusion.image import flags, sets

    def save() -> None:
        with sets.gathered([*folder.glob("*.zip")] or [folder]) as taken:
            sets.save("x", taken.pictures)

    yield save
    yield lambda: flags.flags(sets.read("x"), [(64, 64)] * len(sets.read("x")))
    yield lambda: [sets.facts(saved) for saved in datasets.all_sets()]


@functools.cache
def _models() -> dict[str, Any]:
    import torch

    from lowrank_diffusion.image.load import load_part
    from lowrank_diffusion.image.source import resolve

    source = resolve(BaseModelConfig())
    return {name: load_part(source, name, torch.float32) for name in ("unet", "text_encoder", "text_encoder_2")}


def _safetensors(folder: Path) -> Iterator[Callable[[], object]]:
    import torch

    from lowrank_diffusion.image import adapter_files, foreign, load, memory
    from lowrank_diffusion.image.source import resolve

    for path in folder.glob("adapter*.safetensors"):
        yield lambda path=path: adapter_files.check(path).line()
        yield lambda path=path: foreign.read(path, _models())
    base = folder / "base.safetensors"
    if base.exists():
        cfg = BaseModelConfig(path=str(base))
        yield lambda: memory.estimate(Config(base=cfg))
        for part in ("scheduler", "text_encoder", "vae"):
            yield lambda part=part: load.load_part(resolve(cfg), part, torch.float32)


def _gguf(folder: Path) -> Iterator[Callable[[], object]]:
    import torch

    from lowrank_diffusion.text.model import Base

    cfg = BaseModelConfig(path=str(folder / "a.gguf"))
    yield lambda: Base.of(cfg, torch.device("cpu"), torch.float32).tokenizer("plain")
    yield lambda: Base.of(cfg, torch.device("cpu"), torch.float32).tokenizer()
    yield lambda: Base.of(cfg, torch.device("cpu"), torch.float32).model()


def _language(folder: Path) -> Iterator[Callable[[], object]]:
    import torch

    from lowrank_diffusion.text import encode
    from lowrank_diffusion.text.model import Base
    from lowrank_diffusion.text.rows import Message, Row

    cfg, row = BaseModelConfig(path=str(folder)), Row(1, (Message("user", "a"), Message("assistant", "b")))

    def seen() -> None:
        tokenizer = Base.of(cfg, torch.device("cpu"), torch.float32).tokenizer()
        encode.encode(row, tokenizer, "assistant", 100)

    yield seen
    yield lambda: Base.of(cfg, torch.device("cpu"), torch.float32).tokenizer("plain")
    yield lambda: Base.of(cfg, torch.device("cpu"), torch.float32).model()


def _runs(folder: Path) -> Iterator[Callable[[], object]]:
    from lowrank_diffusion import cli, run_queue, runs
    from ui import curve, live, queue_bar, run_folder, run_table, watching

    target = paths.runs_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, target)
    yield lambda: cli.main(["list"])
    yield run_queue.entries
    yield lambda: run_table.html_of(None)
    for run in runs.all_runs():
        yield run.config
        yield lambda run=run: live.status_html(run, watching.status(run))
        yield lambda run=run: live.samples_html(run, watching.status(run))
        yield lambda run=run: curve.of_run(run.title, watching.status(run))
        yield lambda run=run: (run_folder.files_of(run), run_folder.log_tail(run), run.adapters(), run.about)
    yield lambda: (live.choices("image"), live.choices("text"), queue_bar.html_of())


def _folders(folder: Path) -> Iterator[Callable[[], object]]:
    import torch

    from lowrank_diffusion.image import load, memory
    from lowrank_diffusion.image.source import fingerprint, resolve

    for path in paths.EMBEDDED_BASE.rglob("*.safetensors"):
        with contextlib.suppress(FileExistsError):
            (folder / path.relative_to(paths.EMBEDDED_BASE)).symlink_to(path)
    cfg = BaseModelConfig(path=str(folder))
    whole = presets.build(presets.find_preset("smoke").values, {"base.path": str(folder)})
    yield lambda: preflight.look(presets.with_absolute_paths(whole))
    yield lambda: memory.estimate(Config(base=cfg))
    yield lambda: fingerprint(resolve(cfg))
    for part in ("scheduler", "tokenizer", "text_encoder", "vae", "unet"):
        yield lambda part=part: load.load_part(resolve(cfg), part, torch.float32)


DOORS: dict[str, Callable[[Path], Iterator[Callable[[], object]]]] = {
    "safetensors": _safetensors, "gguf": _gguf, "pictures": _pictures, "yaml": _yaml, "rows": _rows, "runs": _runs,
    "folders": _folders,
    "language": _language, "sets": _sets,
}  # fmt: skip
