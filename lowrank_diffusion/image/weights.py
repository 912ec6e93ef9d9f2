"""How many numbers the parts of a base have, from the headers of its files. No torch."""

from __future__ import annotations

import math
from pathlib import Path

from ..bases import MODEL_KEY
from ..loading import explained
from . import folders, headers
from .families import Family
from .source import Source


def of_part(source: Source, part: str) -> int:
    """How many numbers a part has, from the headers of its files; its family's where they are not here."""
    file: Path | None = None
    prefix: str | tuple[str, ...] = ""
    if source.kind == "file":
        file, prefix = Path(source.path), source.family.file_prefix(part)
    elif source.kind == "folder":
        file = source.config(part) / folders.weight_names(source.family.parts[part].stem, source.variant)[0]
    return _counted(file, prefix, source.label, MODEL_KEY) or source.family.weights[part]


def of_vae(vae: Source, family: Family) -> int:
    """The same of ``base.vae``, a file or folder of its own."""
    name, _ = folders.weight_names(family.parts["vae"].stem, None)
    file = {"hub": None, "folder": Path(vae.path) / name, "file": Path(vae.path)}[vae.kind]
    return _counted(file, "", vae.label, folders.VAE_KEY) or family.weights["vae"]


def _counted(file: Path | None, prefix: str | tuple[str, ...], label: str, key: str) -> int:
    """The numbers in a file's tensors that begin with ``prefix``; 0 without a file."""
    if file is None or not file.is_file():
        return 0
    with explained(label, key, "Download or copy it again."):
        shapes = headers.read(file).shapes
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
