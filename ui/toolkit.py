"""Gradio, imported once and quietly: ``from .toolkit import gr``.

Nothing leaves the machine (no analytics), uploads stay in this project's own cache, and importing takes half the time.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lowrank_diffusion.paths import cache_folder

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_TEMP_DIR"] = str(cache_folder() / "uploads")


@contextmanager
def _no_editor_stubs() -> Iterator[None]:
    """Keep Gradio from writing a .pyi file beside every component while it is imported.

    The stubs serve editors only and are the larger half of the import time (5.6 s with them, 2.7 s without). Gradio
    skips a class whose source file cannot be found, which ``inspect.getfile`` says by OSError: say so to that caller.
    """
    getfile = inspect.getfile

    def hidden(thing: Any) -> str:
        if sys._getframe(1).f_globals.get("__name__") == "gradio.component_meta":
            raise OSError("no stubs")
        return getfile(thing)

    inspect.getfile = hidden
    try:
        yield
    finally:
        inspect.getfile = getfile


with _no_editor_stubs():
    import gradio as gr

STATIC = Path(__file__).parent / "static"


def static_text(name: str) -> str:
    """A file of ``ui/static``."""
    return (STATIC / name).read_text(encoding="utf-8")


def uploads_folder() -> Path:
    """Where Gradio puts what the browser uploads."""
    return Path(os.environ["GRADIO_TEMP_DIR"]).resolve()


__all__ = ["gr", "static_text", "uploads_folder"]
