"""Files that come in: pictures, captions, tables and masks one by one, or folders and zip files as a whole.

What a folder or a zip file holds is read by the rules of :mod:`lowrank_diffusion.image.data`. Files that are wrong in
it are left out, so that the rest comes in; each is told with its reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from lowrank_diffusion.errors import DataError, UserError
from lowrank_diffusion.files import Unreadable, read_text
from lowrank_diffusion.image import archives, captions, data, listing, masks
from lowrank_diffusion.image.columns import Use
from lowrank_diffusion.image.numbered import is_numbered

from . import pictures, safe
from .pictures import Item
from .toolkit import uploads_folder

MOST_FILES = 20_000
DEEPEST = 8
ROUNDS = 20
"""So often a folder is read again without the files that were refused; each round leaves out all that are named."""


Result = tuple[list[Item], list[str], list[str]]
"""The cards, a line for every file that was not taken, saying why, and notes on what is taken in another way."""


class Incoming:
    """What has come in so far: the cards by the paths of their pictures, what was refused and why, and notes."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.by_path = {Path(item["path"]): dict(item) for item in items}
        self.refused: list[str] = []
        self.notes: list[str] = []

    def take(self, item: Item) -> None:
        """Another card, unless the picture has one."""
        if Path(item["path"]) in self.by_path:
            self.refused.append(f"{item['name']}: is in the set already.")
        else:
            self.by_path[Path(item["path"])] = item

    @property
    def result(self) -> Result:
        """All of it."""
        return list(self.by_path.values()), self.refused, self.notes


def add(files: Iterable[str], items: Sequence[Item]) -> Result:
    """Take loose uploads in: pictures, zip files, and captions, tables and masks of pictures that are there or come."""
    into = Incoming(items)
    beside: list[Path] = []
    for name in files:
        try:
            path = safe.uploaded(name)
            if archives.is_archive(path):
                _take_folder(_unpacked(path), into, path.name)
            elif path.suffix.lower() == ".txt" or path.name.lower() in captions.TABLES or masks.is_mask(path):
                beside.append(path)
            else:
                into.take(pictures.of_path(path))
        except UserError as error:
            into.refused.append(safe.by_name(error, name))
    for path in beside:
        takes = _take_mask if masks.is_mask(path) else _take_text if path.suffix.lower() == ".txt" else _take_table
        try:
            takes(path, into)
        except UserError as error:
            into.refused += safe.by_name(error, path).splitlines()
    return into.result


def _take_text(text: Path, into: Incoming) -> None:
    """The caption of the picture of its name, as in a folder. Raises UserError."""
    items = list(into.by_path.values())
    owner = captions.Owners([item["name"] for item in items]).of(text.name)
    if isinstance(owner, str):
        raise DataError([f"{text}: {owner}"])
    try:
        caption = captions.one_line(read_text(text, captions.LARGEST_CAPTION))
    except Unreadable as error:
        raise DataError([f"{text}: {error}"]) from None
    if len(caption) > pictures.LONGEST_CAPTION:
        raise DataError([f"{text}: is longer than {pictures.LONGEST_CAPTION} characters, too long for a caption."])
    items[owner]["caption"] = caption


def _take_table(table: Path, into: Incoming) -> None:
    """Captions and more of the pictures that it names. Raises DataError."""
    given = captions.from_table(table, list(into.by_path))
    for path, caption in given.by_picture.items():
        if (item := into.by_path.get(path)) is not None:
            use = given.uses.get(path, Use())
            item |= {"caption": caption, "repeats": use.repeats, "weight": use.weight}
            item |= {"frame": list(use.frame) if use.frame else None}
    into.notes += [f"{table.name}: {note}" for note in given.notes()]
    for path in given.excluded:
        into.by_path.pop(path, None)
    if given.problems:
        raise DataError(given.problems)


def _take_mask(mask: Path, into: Incoming) -> None:
    """Of the picture of its name. Raises DataError."""
    of, problems = masks.owners([mask], list(into.by_path))
    if problems:
        raise DataError(problems)
    for path in of:
        masks.check(path, pictures.size(path), mask)
        into.by_path[path]["mask"] = str(mask)


def add_tree(files: Sequence[tuple[str, str]], items: Sequence[Item]) -> Result:
    """Take in what was uploaded of folders: (path from above the folder, upload)."""
    into = Incoming(items)
    try:
        root, refused = _laid_out(files)
    except OSError as error:
        into.refused.append(f"The folder cannot be put together: {error.strerror or error}.")
        return into.result
    into.refused += refused
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if folders and all(map(is_numbered, folders)):
        folders = [root]  # whose they are is not told, only that they are kohya's
    for folder in folders:
        _take_folder(folder, into, "the folder" if folder == root else folder.name)
    return into.result


def _laid_out(files: Sequence[tuple[str, str]]) -> tuple[Path, list[str]]:
    """The uploads, by links, in a folder as they were in theirs; the same files are the same folder. Raises OSError."""
    wanted, refused = [], []
    for name, upload in files[:MOST_FILES]:
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")]
        try:
            good = 1 <= len(parts) <= DEEPEST and ".." not in parts and max(map(len, parts)) <= 200 and "\0" not in name
            if not good:
                raise DataError([f"{name[:120]!r}: cannot be the name of a file in a folder."])
            if not any(listing.is_junk(part) for part in parts):
                wanted.append((Path("files", *parts) if len(parts) == 1 else Path(*parts), safe.uploaded(upload)))
        except UserError as error:
            refused.append(safe.by_name(error, upload))
    if len(files) > MOST_FILES:
        refused.append(f"{len(files) - MOST_FILES} files are left out: at most {MOST_FILES:,} are taken at once.")
    key = hashlib.sha256(repr([(str(name), str(path)) for name, path in sorted(wanted)]).encode()).hexdigest()
    root = uploads_folder() / key
    _appear(root, lambda partial: [_link(path, partial / name) for name, path in wanted])
    return root, refused


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileExistsError:  # the same name twice: the first stays, as on a disk
        return
    except OSError:
        shutil.copyfile(path, target)


def _appear(root: Path, fill: Callable[[Path], object]) -> None:
    """Fill a new folder, or put into one of an earlier time what was left out then. Raises OSError, DataError."""
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        fill(partial)
        if not root.exists():
            partial.rename(root)
            return
        for path in (path for path in partial.rglob("*") if path.is_file()):
            _link(path, root / path.relative_to(partial))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpacked(archive: Path) -> Path:
    """What a zip file holds. Raises DataError."""
    root = uploads_folder() / hashlib.sha256(f"{archive}/{archive.stat().st_mtime_ns}".encode()).hexdigest()
    try:
        _appear(root, lambda partial: archives.unpack(archive, partial))
    except OSError as error:
        raise DataError([f"{archive}: cannot be unpacked: {error.strerror or error}."]) from None
    return archives.inner(root)


def _take_folder(folder: Path, into: Incoming, title: str) -> None:
    """The pictures of a folder of ours, without those files that keep it from being read; each is told.

    A file is left out by unlinking it: the folder holds links or copies that were made for this.
    """
    for _ in range(ROUNDS):
        try:
            survey = data.uncaptioned(folder)
        except DataError as error:
            problems = [problem.replace(f"{folder}/", "").replace(str(folder), title) for problem in error.problems]
            into.refused += [f"{title}: {line}" if not line.startswith(title) else line for line in problems]
            if not _without(folder, error.problems):
                return
            continue
        into.notes += [f"{title}: {note}" for note in survey.notes]
        for picture in survey.pictures:
            into.take(pictures.card(picture))
        return


def _without(folder: Path, problems: Sequence[str]) -> bool:
    """Leave out the files that problems name; False where none is named."""
    named = [Path(problem.partition(": ")[0]) for problem in problems]
    gone = [path for path in named if path.is_relative_to(folder) and path.is_file()]
    for path in gone:
        path.unlink(missing_ok=True)
    return bool(gone)
