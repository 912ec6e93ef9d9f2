"""What the folders of drawn pictures say: which jobs there are, what each was asked for, which pictures it has."""

from __future__ import annotations

import itertools
import json
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lowrank_diffusion.errors import UserError, of_disk
from lowrank_diffusion.files import Unreadable, read_object
from lowrank_diffusion.image.grid import SHEET, Axis, Cell, Grid, asdict_of
from lowrank_diffusion.image.items import File, Item
from lowrank_diffusion.image.request import from_facts
from lowrank_diffusion.paths import write_text

from . import safe

FILE = "job.json"
LARGEST = 8_000_000
"""Bytes; 400 requests have some 600,000."""
STATES = ("waiting", "done", "cancelled", "failed")


@dataclass(frozen=True)
class Record:
    """One job: what it was asked for, and what became of it."""

    name: str
    made: float
    """Seconds since 1970."""
    state: str
    """Of ``STATES``; "waiting" also while it is drawn."""
    items: tuple[Item, ...]
    axes: tuple[Axis, ...] = ()
    """Of a grid, whose cells the items are, the last axis changing fastest."""
    message: str = ""
    note: str = ""
    seconds: float = 0.0

    def but(self, **changes: Any) -> Record:
        """The same with other values."""
        return replace(self, **changes)

    @property
    def folder(self) -> Path:
        """Where its pictures are."""
        return safe.pictures_folder() / self.name

    @property
    def grid(self) -> Grid | None:
        """The grid that it draws; None if it does not."""
        if not self.axes:
            return None
        places = itertools.product(*(range(len(axis.values)) for axis in self.axes))
        return Grid(self.axes, tuple(Cell(place, item) for place, item in zip(places, self.items, strict=True)))

    @property
    def pictures(self) -> list[tuple[Item, File]]:
        """What is there of it, in order."""
        there = {path.name for path in self.folder.glob("*.png")}
        return [(item, file) for item in self.items for file in item.files if file.name in there]


def names() -> list[str]:
    """The jobs on the disk, newest first."""
    folders = safe.pictures_folder().glob("*/")
    return sorted((path.name for path in folders if not path.name.startswith(".")), reverse=True)


def folder_of(name: str) -> Path:
    """The folder of a job; a path is not a name. Raises UserError where there is none."""
    folder = safe.pictures_folder() / Path(str(name)).name
    if not name or str(name).startswith(".") or Path(name).name != name or not folder.is_dir():
        raise UserError(f"There are no pictures {str(name)[:80]!r} any more.")
    return safe.inside(folder, safe.pictures_folder())


def picture_of(name: str, file: str) -> Path:
    """A picture of a job. Raises UserError."""
    folder = folder_of(name)
    return safe.inside(folder / Path(str(file)).name, folder)


def read(name: str) -> Record | None:
    """A job's record; None for a folder without one that can be read, such as one of an earlier version."""
    try:
        stored = read_object(folder_of(name) / FILE, LARGEST)
        items = tuple(Item(str(item["stem"]), from_facts(item["request"])) for item in stored["items"])
        axes = tuple(Axis(str(axis["kind"]), tuple(map(str, axis["values"]))) for axis in stored["axes"])
        record = Record(
            name, float(stored["made"]), str(stored["state"]), items, axes, str(stored["message"]), str(stored["note"]),
            float(stored["seconds"]),
        )  # fmt: skip
        return record if record.grid is None or record.grid.cells else None
    except (UserError, Unreadable, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def loose(name: str) -> list[str]:
    """The pictures of a folder without a record, by name. Raises UserError."""
    return sorted(path.name for path in folder_of(name).glob("*.png") if path.name != SHEET)


def write(record: Record) -> None:
    """Keep a job's record. Raises OSError."""
    items = [{"stem": item.stem, "request": asdict_of(item.request)} for item in record.items]
    values = {
        "version": 1, "made": record.made, "state": record.state, "message": record.message, "note": record.note,
        "seconds": record.seconds, "axes": [asdict(axis) for axis in record.axes], "items": items,
    }  # fmt: skip
    record.folder.mkdir(parents=True, exist_ok=True)
    write_text(record.folder / FILE, json.dumps(values, ensure_ascii=False))


def zipped(name: str) -> Path:
    """All pictures of a job in one zip. Raises UserError."""
    folder = folder_of(name)
    target = safe.downloads_folder() / name / f"{name}.zip"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for path in sorted([*folder.glob("*.png"), *folder.glob("*.json")]):
                packed.write(path, f"{name}/{path.name}")
    except OSError as error:
        raise UserError(f"{target}: cannot be written. {of_disk(error)}") from None
    return target
