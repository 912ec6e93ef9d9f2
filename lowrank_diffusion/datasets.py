"""Saved data sets by name: ``LOWRANK_HOME/datasets/NAME/0003/`` is the third version of NAME, an ordinary folder.

A setting that names a folder may name a set instead: ``set:NAME`` means its newest version, ``set:NAME@3`` the third. A
version is never changed, so a run that was made with it always finds what it was made with.
"""

from __future__ import annotations

import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError, of_disk
from .paths import datasets_folder

PREFIX = "set:"
_NAME = re.compile(r"(?=.{1,60}$)[A-Za-z0-9_][\w-]*", re.ASCII)
_VERSION = re.compile(r"\d{4,}")
RULE = "must be of letters, digits, '-' and '_', at most 60, and not begin with '-'"


@dataclass(frozen=True)
class SavedSet:
    """A data set with all its versions."""

    name: str
    versions: tuple[int, ...]
    """Oldest first; at least one."""

    def folder(self, version: int | None = None) -> Path:
        """Where a version is, by default the newest. Raises DataError where there is none of that number."""
        number = self.versions[-1] if version is None else version
        if number not in self.versions:
            known = ", ".join(map(str, self.versions[-10:]))
            raise DataError([f"{PREFIX}{self.name}@{number}: there is no such version. There are: {known}."])
        return version_folder(self.name, number)


def version_folder(name: str, version: int) -> Path:
    """Where a version is, whether there is one or not."""
    return datasets_folder() / name / f"{version:04d}"


def check_name(name: str) -> None:
    """Raises DataError for what no set can be called."""
    if not _NAME.fullmatch(name):
        raise DataError([f"name {RULE}, got {name[:80]!r}."])


def all_sets() -> list[SavedSet]:
    """Every saved set, by name."""
    root = datasets_folder()
    names = sorted(path.name for path in root.iterdir() if _NAME.fullmatch(path.name)) if root.is_dir() else []
    return [SavedSet(name, versions) for name in names if (versions := versions_of(name))]


def find(name: str) -> SavedSet:
    """A set by its name. Raises DataError naming those there are."""
    check_name(name)
    versions = versions_of(name)
    if not versions:
        known = ", ".join(saved.name for saved in all_sets()[:20]) or "none yet"
        raise DataError([f"{PREFIX}{name}: there is no such data set. Saved sets: {known}."])
    return SavedSet(name, versions)


def versions_of(name: str) -> tuple[int, ...]:
    """The numbers of a set's versions, oldest first; none where there is no such set."""
    folder = datasets_folder() / name
    inside = folder.iterdir() if folder.is_dir() else ()
    return tuple(sorted(int(path.name) for path in inside if _VERSION.fullmatch(path.name) and path.is_dir()))


def is_reference(text: str) -> bool:
    """Whether a setting names a saved set and not a path."""
    return text.startswith(PREFIX)


def located(reference: str) -> Path:
    """The folder that ``set:NAME`` or ``set:NAME@3`` means. Raises DataError."""
    name, at, version = reference.removeprefix(PREFIX).partition("@")
    if at and not re.fullmatch(r"\d{1,9}", version, re.ASCII):
        raise DataError([f"{reference[:200]}: behind '@' must be the number of a version, got {version[:40]!r}."])
    return find(name).folder(int(version) if at else None)


def reference(folder: Path) -> str:
    """How a setting names a version, ``set:NAME@3``; empty for a folder that is none."""
    saved = folder.parent.parent == datasets_folder() and _VERSION.fullmatch(folder.name)
    return f"{PREFIX}{folder.parent.name}@{int(folder.name)}" if saved else ""


def title(folder: Path) -> str:
    """What a person calls a folder that is learnt from: a set by its name, any other by its last name."""
    return folder.parent.name if reference(folder) else folder.name


def rename(name: str, new: str) -> SavedSet:
    """Give a set another name; runs that were made with it no longer find it. Raises DataError."""
    saved = find(name)
    check_name(new)
    target = datasets_folder() / new
    if target.exists():
        raise DataError([f"{PREFIX}{new}: there is such a data set already. Choose another name, or delete it first."])
    try:
        (datasets_folder() / saved.name).rename(target)
    except OSError as error:
        raise DataError([of_disk(error)]) from None
    return find(new)


def delete(name: str) -> None:
    """Delete a set with all its versions. Raises DataError."""
    folder = datasets_folder() / find(name).name
    gone = folder.with_name(f".{name}.{uuid.uuid4().hex}.deleted")
    try:
        folder.rename(gone)  # at once, so that no half of it is ever read
        shutil.rmtree(gone)
    except OSError as error:
        raise DataError([of_disk(error)]) from None
