"""What saved data sets hold: reading, saving a version, and taking in folders, zip files and pictures."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import datasets, runs
from ..datasets import SavedSet
from ..errors import DataError, UserError
from ..files import Unreadable, lines, read_text
from . import archives, captions
from .columns import MOST_REPEATS
from .data import Picture, Survey, uncaptioned
from .pictures import content_key
from .writing import TABLE, write_table


@dataclass(frozen=True)
class Facts:
    """What is shown of a version without reading its pictures."""

    saved: SavedSet
    version: int
    pictures: int
    size: int
    """Bytes of all its files; those that versions share are counted in each."""
    made: float
    """Seconds since 1970."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.saved.folder(self.version)


def facts(saved: SavedSet, version: int | None = None) -> Facts:
    """Of a version, by default the newest. Raises DataError."""
    folder = saved.folder(version)
    try:
        table = read_text(folder / TABLE, captions.LARGEST_TABLE)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        made = folder.stat().st_mtime
    except (Unreadable, OSError) as error:
        raise DataError([f"{folder}: is damaged ({error}). Delete the set and save it again."]) from None
    return Facts(saved, int(folder.name), sum(1 for _ in lines(table)), size, made)


def read(name: str, version: int | None = None) -> list[Picture]:
    """The pictures of a version, by default the newest; their captions may be empty. Raises DataError."""
    return uncaptioned(datasets.find(name).folder(version)).pictures


def save(name: str, pictures: Sequence[Picture]) -> SavedSet:
    """Save pictures as a set, or as the next version of one.

    The version is written whole or not at all. Files that the version before has as well are shared with it by hard
    links where the disk has them: what is saved takes room once.

    Args:
        name: Of letters, digits, '-' and '_'.
        pictures: In the order of the table; from anywhere, other sets and versions too.

    Raises:
        DataError: the name or the pictures cannot be used, or the disk is full.
    """
    datasets.check_name(name)
    for _ in range(100):
        known = datasets.versions_of(name)
        before = datasets.version_folder(name, known[-1]) if known else None
        target = datasets.version_folder(name, known[-1] + 1 if known else 1)
        try:
            write_table(target, pictures, _Shared(before))
        except DataError:
            if target.exists():  # somebody saved at the same moment: the next number, then
                continue
            raise
        return datasets.find(name)
    raise DataError([f"{name}: is being saved by others all the time. Try again."])


def linked(source: Path, target: Path) -> None:
    """Copy a file; one of a saved set, which never changes, by a hard link where the disk has them."""
    source = source.resolve()
    if _of_set(source):
        try:
            os.link(source, target)
            return
        except OSError:  # other disks, file systems without links, too many links
            pass
    shutil.copyfile(source, target)


def _of_set(path: Path) -> bool:
    return path.resolve().is_relative_to(datasets.datasets_folder().resolve())


@dataclass
class _Shared:
    """Copies a file by a hard link to the same content in a saved version, if it can."""

    before: Path | None
    _known: dict[int, list[Path]] | None = field(default=None)

    def __call__(self, source: Path, target: Path) -> None:
        linked(self._same(source) or source, target)

    def _same(self, source: Path) -> Path | None:
        """The file of the version before that has the same content."""
        if _of_set(source):
            return None
        if self._known is None:
            self._known = {}
            inside = self.before.rglob("*") if self.before else ()
            for path in inside:
                if path.is_file():
                    self._known.setdefault(path.stat().st_size, []).append(path)
        alike = self._known.get(source.stat().st_size, [])
        key = content_key(source) if alike else ""
        return next((path for path in alike if content_key(path) == key), None)


@contextmanager
def gathered(sources: Sequence[Path | str], repeats: int = 1) -> Iterator[Survey]:
    """The pictures of folders, zip files, saved sets (``set:NAME``) and loose files, with notes on what is left out.

    What was unpacked is there inside the context only, so save it there.

    Args:
        sources: A folder or a zip file may be laid out as kohya's are; .txt files among loose pictures are captions.
        repeats: Factor of how often an epoch sees each picture.

    Raises:
        DataError: with the problems of all sources.
    """
    if not 1 <= repeats <= MOST_REPEATS:
        raise DataError([f"--repeats: must be from 1 to {MOST_REPEATS}, got {repeats}."])
    pictures: list[Picture] = []
    notes: list[str] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lowrank-sets-") as place:
        for folder, origin in _folders([_placed(source) for source in sources], Path(place), problems):
            try:
                inside = uncaptioned(folder)
            except DataError as error:
                problems += [problem.replace(str(folder), origin) for problem in error.problems]
                continue
            pictures += inside.pictures
            notes += inside.notes if len(sources) == 1 else [f"{origin}: {note}" for note in inside.notes]
        pictures = [replace(picture, repeats=picture.repeats * repeats) for picture in pictures]
        problems += [
            f"{picture.path}: would have {picture.repeats} repeats; at most {MOST_REPEATS}."
            for picture in pictures
            if picture.repeats > MOST_REPEATS
        ]
        if problems:
            raise DataError(problems)
        yield Survey(pictures, notes)


def _placed(source: Path | str) -> Path:
    return datasets.located(source) if isinstance(source, str) and datasets.is_reference(source) else Path(source)


def _folders(sources: list[Path], place: Path, problems: list[str]) -> Iterator[tuple[Path, str]]:
    """A folder to read for each source and what to call it; loose files together make one."""
    loose = [path for path in sources if path.is_file() and not archives.is_archive(path)]
    for number, source in enumerate(path for path in sources if path not in loose):
        if not archives.is_archive(source):
            yield source, str(source)
            continue
        target = place / f"{number}"
        target.mkdir()
        try:
            yield archives.unpack(source, target), str(source)
        except DataError as error:
            problems += error.problems
    if loose:
        target = place / "files"
        target.mkdir()
        for path in loose:
            try:
                archives.copy_in(path, target)
            except DataError as error:
                problems += error.problems
        yield target, "the files"


def export(name: str, archive: Path, version: int | None = None) -> Path:
    """A zip file of a version, by default the newest. Raises DataError."""
    return archives.pack(datasets.find(name).folder(version), archive)


def check_unused(name: str, verb: str, otherwise: str = "") -> None:
    """Raises DataError where a run would not find its pictures when it goes on; ``otherwise``: another way out."""
    if users := users_of(name):
        advice = f"Let them end, or delete them first{otherwise}."
        rule = f"{name}: cannot {verb} it while unfinished runs learn from it"
        raise DataError([f"{rule}: {', '.join(users)}. {advice}"])


def users_of(name: str) -> list[str]:
    """The names of unfinished runs that learn from a set. Raises DataError where there is no such set."""
    folder = datasets.datasets_folder() / datasets.find(name).name
    users = []
    for run in runs.all_runs():
        try:
            data = run.config().data
        except UserError:  # a run that cannot go on needs nothing
            continue
        if Path(data.instance).is_relative_to(folder) and run.status().state != "finished":
            users.append(run.name)
    return users


def size_in_words(size: int) -> str:
    """Bytes for a person."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
