"""Where things live: what ships with the project, and the folder that runs and caches are written to."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PRESETS = PROJECT / "presets"
ASSETS = PROJECT / "assets"
EMBEDDED_BASE = ASSETS / "base"
EMBEDDED_ENCODER = ASSETS / "base-encoder"
SDXL_CONFIG = ASSETS / "sdxl"
EXAMPLES = ASSETS / "examples"


def home() -> Path:
    """The writable folder: ``LOWRANK_HOME`` if set, else the project's own."""
    # A unit file or a container's settings may hold a "~" that no shell has seen.
    return Path(os.environ.get("LOWRANK_HOME") or PROJECT).expanduser().resolve()


def runs_folder() -> Path:
    """Where run directories are."""
    return home() / "runs"


def cache_folder() -> Path:
    """Where latents, embeddings and class pictures are kept between runs; safe to delete."""
    return home() / "cache"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def too_long(path: str | None) -> bool:
    """Whether no file system has such a name; asking for it would be an error rather than a no."""
    names = [name.encode(errors="replace") for name in (path or "").split("/")]
    return max(map(len, names)) > 255 or len(b"/".join(names)) > 4095
