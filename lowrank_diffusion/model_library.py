"""Base models that are on this machine: the embedded one, those of our own folder, of the hub's cache, of a person's.

Only names, sizes and headers are read; each is checked as it will be before a run. No torch here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import bases
from .config import EMBEDDED, BaseModelConfig
from .image.source import resolve as resolve_image
from .paths import expanded, home
from .text.source import resolve as resolve_text

MOST = 200
"""Models of one folder that are looked at."""
MODELS = "LOWRANK_MODELS"
"""Environment variable: folders of models, separated as PATH is; those of other programs, for instance."""


@dataclass(frozen=True)
class Model:
    """A base that can be chosen."""

    path: str
    """What ``base.path`` is set to."""
    title: str
    place: str
    """Where it is, for a person."""
    size: int
    """Bytes; 0: not counted."""
    obstacle: str
    """Why it cannot be used; empty if it can."""


def folders() -> list[tuple[Path, str]]:
    """The folders that are looked through, each with what a person calls it."""
    given = [expanded(name) for name in os.environ.get(MODELS, "").split(os.pathsep) if name]
    return [(home() / "models", "models"), *((path, path.name) for path in given)]


def models(task: str) -> list[Model]:
    """Every base of a task on this machine; those that cannot be used say why."""
    there = [_checked(task, EMBEDDED, "embedded", "ships with the project", 0)]
    for folder, name in folders():
        there += [_checked(task, str(path), path.name, name, _size(path)) for path in _candidates(folder, task)]
    return there + [_checked(task, hub, hub, "hub cache", size) for hub, size in _cached(task)]


def _candidates(folder: Path, task: str) -> Iterator[Path]:
    """Files and folders that look like a model of the task, and so are worth a check."""
    suffix = ".safetensors" if task == "image" else ".gguf"
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))[:MOST]
    except OSError:
        return
    marker = "model_index.json" if task == "image" else "config.json"
    yield from (path for path in inside if path.suffix.lower() == suffix or (path / marker).is_file())


def _size(path: Path) -> int:
    try:
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _cached(task: str) -> Iterator[tuple[str, int]]:
    """Hub ids of whole models in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return
    marker = "model_index.json" if task == "image" else "config.json"
    for repository in sorted(repositories, key=lambda item: item.repo_id):
        names = {file.file_name for revision in repository.revisions for file in revision.files}
        whole = marker in names and any(name.endswith(".safetensors") for name in names)
        pipeline = "model_index.json" in names
        if repository.repo_type == "model" and whole and pipeline == (task == "image"):
            yield repository.repo_id, repository.size_on_disk


def _checked(task: str, path: str, title: str, place: str, size: int) -> Model:
    resolve: Any = resolve_image if task == "image" else resolve_text
    try:
        resolve(BaseModelConfig(path=path))
        obstacle = ""
    except bases.ModelError as error:
        obstacle = " ".join(str(error).split())
    return Model(path, title, place, size, obstacle)
