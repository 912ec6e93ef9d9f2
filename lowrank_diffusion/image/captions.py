"""Captions that lie beside pictures: one table for the folder, or a text file for each picture.

Tables are ``metadata`` or ``captions`` as .csv or .jsonl with a column for the picture's file name and one for its
caption; they may name pictures of sub-folders, as data sets of the hub do, and say how a picture is learnt (see
:mod:`.columns`). A text file is called as its picture is, with ``.txt`` for the ending or behind it. A caption is one
line: white space and line breaks become single spaces.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import MOST, DataError
from ..files import MB, Unreadable, lines, read_text
from ..marks import Marks, listed
from . import columns
from .columns import Use

TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
NAME_COLUMNS = ("file_name", "filename", "file", "image")
CAPTION_COLUMNS = ("text", "caption", "prompt")

Row = tuple[str, Mapping[Any, Any] | str]
"""Where the row is, for messages, and its values by lower-case column, or what is wrong with it."""


def one_line(caption: str) -> str:
    """The caption with all white space as single spaces."""
    return " ".join(caption.split())


@dataclass
class Captions:
    """Captions by picture, and everything to report about where they came from."""

    by_picture: dict[Path, str] = field(default_factory=dict)
    uses: dict[Path, Use] = field(default_factory=dict)
    """How pictures are learnt of which the table says so."""
    problems: list[str] = field(default_factory=list)
    excluded: list[Path] = field(default_factory=list)
    """Pictures that the table says are not to be learnt."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Columns of the table that are not looked at, and in how many rows they stand."""

    def notes(self) -> list[str]:
        """For a person: what of the table is not used."""
        notes = []
        if self.excluded:
            names = listed(path.name for path in self.excluded)
            notes.append(f"{len(self.excluded)} pictures are left out, as the table asks for: {names}.")
        if self.ignored:
            columns = listed([f"{name} ({count} rows)" for name, count in self.ignored.most_common()], 8)
            notes.append(f"Columns of the table that are not looked at: {columns}.")
        return notes


def from_table(table: Path, pictures: Iterable[Path]) -> Captions:
    """Captions by picture from a table, and everything that is wrong with the table."""
    captions = Captions()
    by_name = _names(pictures)
    try:
        for where, row in _rows(table):
            if len(captions.problems) >= MOST:
                raise DataError([f"{where}: this and what follows was not looked at."])
            picture, caption, problem = (None, "", row) if isinstance(row, str) else _row(row, by_name, table.parent)
            if picture in captions.by_picture or picture in captions.excluded:
                problem = f"names {picture.name} a second time. Keep one row for each picture."
            if picture is None or problem:
                captions.problems.append(f"{where}: {problem}")
            else:
                problems = _take(picture, caption, row, captions, table)
                captions.problems += [f"{where}: {problem}" for problem in problems]
    except DataError as error:
        captions.problems += error.problems
    if not captions.by_picture and not captions.problems:
        why = "leaves out every picture" if captions.excluded else "has no rows"
        captions.problems.append(f"{table}: {why}. Add a row for each picture, or remove the file.")
    return captions


def _take(picture: Path, caption: str, row: Any, captions: Captions, table: Path) -> list[str]:
    """A row whose picture and caption are right: whether and how it wants its picture to be learnt; its problems."""
    marks = Marks(row, classes=True)
    use, problems = columns.read(row, lambda name: _named(name, table.parent), marks.names)
    if marks.left_out:
        captions.excluded.append(picture)
    else:
        captions.by_picture[picture], captions.uses[picture] = caption, use
    known = {*NAME_COLUMNS, *CAPTION_COLUMNS, *columns.COLUMNS, *marks.names}
    captions.ignored.update(str(name) for name, value in row.items() if name not in known and value not in (None, ""))
    return problems


def from_texts(texts: Iterable[Path], pictures: Sequence[Path]) -> Captions:
    """Captions by picture from NAME.txt files, and everything that is wrong with those files."""
    captions = Captions()
    owners = Owners([picture.name for picture in pictures])
    for text in texts:
        owner = owners.of(text.name)
        picture = None if isinstance(owner, str) else pictures[owner]
        if picture is None or picture in captions.by_picture:
            second = picture and f"is a second caption of {picture.name}. Keep one of its .txt files."
            captions.problems.append(f"{text}: {second or owner}")
            continue
        try:
            captions.by_picture[picture] = one_line(_text(text, LARGEST_CAPTION))
        except DataError as error:
            captions.problems += error.problems
    return captions


class Owners:
    """Which picture a text file is the caption of, told by their names."""

    def __init__(self, names: Sequence[str]):
        self._names = names
        self._by_name: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        self._alike: dict[str, int] = {}
        for number, name in enumerate(map(_spelt, names)):
            stem = PurePosixPath(name).stem
            self._by_name.setdefault(name, []).append(number)
            self._by_stem.setdefault(stem, []).append(number)
            self._alike |= {name.casefold(): number, stem.casefold(): number}

    def of(self, text: str) -> int | str:
        """The number of the one picture that a text of this name belongs to, or why there is no such picture."""
        stem = PurePosixPath(_spelt(text)).stem
        meant = self._by_name.get(stem) or self._by_stem.get(stem) or []  # a.png.txt: some programs write captions so
        if len(meant) == 1:
            return meant[0]
        if meant:
            names = " or ".join(self._names[number] for number in meant)
            return (
                f"could be the caption of {names}. Call it {self._names[meant[0]]}.txt, or rename one of the pictures."
            )
        if stem.casefold() in self._alike:
            name = self._names[self._alike[stem.casefold()]]
            return f"differs from {name} in capital letters. Call it {PurePosixPath(name).stem}.txt, or remove it."
        return f"is a caption without its picture. Add a picture {stem}.png (or .jpg...), or remove the file."


def _spelt(name: str) -> str:
    """A name with its accents in one form: those of a Mac's disks are letters of their own."""
    return unicodedata.normalize("NFC", name)


LARGEST_CAPTION = MB
LARGEST_TABLE = 100 * MB


def _text(path: Path, limit: int) -> str:
    try:
        return read_text(path, limit, path.parent)
    except Unreadable as error:
        raise DataError([f"{path}: {error}"]) from None


def _names(pictures: Iterable[Path]) -> dict[str, Path | None]:
    """Pictures by name, and by name without ending where only one has it (None: several have)."""
    by_name: dict[str, Path | None] = {}
    for picture in pictures:
        stem = _spelt(picture.stem)
        by_name[stem] = None if stem in by_name else picture
    return by_name | {_spelt(picture.name): picture for picture in pictures}


def _rows(table: Path) -> Iterator[Row]:
    text = _text(table, LARGEST_TABLE)
    yield from _json_rows(table, text) if table.suffix.lower() == ".jsonl" else _csv_rows(table, text)


def _json_rows(table: Path, text: str) -> Iterator[Row]:
    for number, line in lines(text):
        where = f"{table}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, f"is not valid JSON ({error}). Put one object on each line."
            continue
        if isinstance(row, dict):
            yield where, _without_nulls({str(key).strip().lower(): value for key, value in row.items()})
        else:
            yield where, 'must be an object like {"file_name": "a.png", "text": "..."}.'


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the columns that it has only because others do; a caption that is null is an empty one."""
    filled = {name: value for name, value in row.items() if value is not None}
    empty = next((name for name in CAPTION_COLUMNS if name in row), None)
    return filled if empty is None or filled.keys() & set(CAPTION_COLUMNS) else filled | {empty: ""}


def _csv_rows(table: Path, text: str) -> Iterator[Row]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets write ; where , is the decimal sign
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        problems = [_column(dict.fromkeys(columns, ""), allowed)[1] for allowed in (NAME_COLUMNS, CAPTION_COLUMNS)]
        if any(problems):
            raise DataError([f"{table}, first line: {problem}" for problem in problems if problem])
        reader.fieldnames = columns
        for row in reader:
            yield f"{table}, line {reader.line_num}", row
    except csv.Error as error:
        raise DataError([f"{table}, line {reader.line_num}: is not valid CSV ({error}). Export it again."]) from None


def _row(row: Mapping[Any, Any], by_name: Mapping[str, Path | None], folder: Path) -> tuple[Path | None, str, str]:
    """The picture and caption of a row, and what is wrong with it."""
    if None in row:
        return None, "", 'has more fields than the first line. Put captions with commas in double quotes ("...").'
    name, problem = _column(row, NAME_COLUMNS)
    if problem:
        return None, "", problem
    caption, problem = _column(row, CAPTION_COLUMNS)
    if problem:
        return None, "", problem
    name = name.strip().replace("\\", "/").removeprefix("./")
    picture = by_name.get(_spelt(name)) or _in_sub_folder(name, folder)
    if picture is None:
        several = "does not say which of several pictures it means" if name in by_name else "names a missing picture"
        return None, "", f"{several}: {name!r:.200}. Give the file name of a picture in this folder, or remove the row."
    return picture, one_line(caption), ""


def _named(name: str, folder: Path) -> Path | None:
    """A file beside the table or in a sub-folder, by its whole name."""
    name = name.strip().replace("\\", "/").removeprefix("./")
    return _in_sub_folder(name, folder, least=1)


def _in_sub_folder(name: str, folder: Path, least: int = 2) -> Path | None:
    """The file that a row names by its path from the table's folder, which it cannot lead out of.

    ``least``: how many parts that path has to have.
    """
    parts = PurePosixPath(name).parts
    if len(parts) < least or ".." in parts or PurePosixPath(name).is_absolute() or "\0" in name or len(name) > 1000:
        return None
    path = folder.joinpath(*parts)
    return path if path.is_file() else None


def _column(row: Mapping[Any, Any], allowed: tuple[str, ...]) -> tuple[str, str]:
    """The text of the one column out of ``allowed``, and what is wrong with it."""
    present = [name for name in allowed if name in row]
    if len(present) != 1:
        has = f"has the columns {' and '.join(present)}; keep one" if present else "lacks a column"
        return "", f"{has} of {', '.join(allowed)}."
    value = row[present[0]]
    if not isinstance(value, str):
        return "", f"{present[0]} must be text, got {value!r:.60}."
    return value, ""
