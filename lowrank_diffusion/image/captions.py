"""Captions that lie beside pictures: one table for the folder, or a text file for each picture.

Tables are ``metadata`` or ``captions`` as .csv or .jsonl with a column for the picture's file name and one for its
caption. A caption is one line: white space and line breaks become single spaces.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from .pictures import DataError, os_problem

TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
NAME_COLUMNS = ("file_name", "filename", "file", "image")
CAPTION_COLUMNS = ("text", "caption", "prompt")

Row = tuple[str, Mapping[Any, Any] | str]
"""Where the row is, for messages, and its values by lower-case column, or what is wrong with it."""


def one_line(caption: str) -> str:
    """The caption with all white space as single spaces."""
    return " ".join(caption.split())


def from_table(table: Path, pictures: Iterable[Path]) -> tuple[dict[Path, str], list[str]]:
    """Captions by picture from a table, and everything that is wrong with the table."""
    found: dict[Path, str] = {}
    problems: list[str] = []
    by_name = _names(pictures)
    try:
        for where, row in _rows(table):
            picture, caption, problem = (None, "", row) if isinstance(row, str) else _row(row, by_name)
            if picture in found:
                problem = f"names {picture.name} a second time. Keep one row for each picture."
            if picture is None or problem:
                problems.append(f"{where}: {problem}")
            else:
                found[picture] = caption
    except DataError as error:
        problems += error.problems
    if not found and not problems:
        problems.append(f"{table}: has no rows. Add one for each picture, or remove the file.")
    return found, problems


def from_texts(texts: Iterable[Path], pictures: Iterable[Path]) -> tuple[dict[Path, str], list[str]]:
    """Captions by picture from NAME.txt files, and everything that is wrong with those files."""
    found: dict[Path, str] = {}
    problems: list[str] = []
    by_stem = {picture.stem: picture for picture in pictures}
    for text in texts:
        picture = by_stem.get(text.stem)
        if picture is None:
            hint = f"Add a picture {text.stem}.png (or .jpg...), or remove the file."
            problems.append(f"{text}: is a caption without its picture. {hint}")
            continue
        try:
            found[picture] = one_line(_text(text))
        except DataError as error:
            problems += error.problems
    return found, problems


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise os_problem(path, error) from None
    if "\0" in text:  # UTF-16 without its mark passes as UTF-8 full of zeros
        raise DataError([f"{path}: is not UTF-8 text. Save it with the encoding UTF-8."])
    return text


def _names(pictures: Iterable[Path]) -> dict[str, Path | None]:
    """Pictures by name, and by name without ending where only one has it (None: several have)."""
    by_name: dict[str, Path | None] = {}
    for picture in pictures:
        by_name[picture.stem] = None if picture.stem in by_name else picture
    return by_name | {picture.name: picture for picture in pictures}


def _rows(table: Path) -> Iterator[Row]:
    text = _text(table)
    yield from _json_rows(table, text) if table.suffix.lower() == ".jsonl" else _csv_rows(table, text)


def _json_rows(table: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{table}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, f"is not valid JSON ({error}). Put one object on each line."
            continue
        if isinstance(row, dict):
            yield where, {str(key).strip().lower(): value for key, value in row.items()}
        else:
            yield where, 'must be an object like {"file_name": "a.png", "text": "..."}.'


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


def _row(row: Mapping[Any, Any], by_name: Mapping[str, Path | None]) -> tuple[Path | None, str, str]:
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
    picture = by_name.get(name)
    if picture is None:
        several = "does not say which of several pictures it means" if name in by_name else "names a missing picture"
        return None, "", f"{several}: {name!r}. Give the file name of a picture in this folder, or remove the row."
    return picture, one_line(caption), ""


def _column(row: Mapping[Any, Any], allowed: tuple[str, ...]) -> tuple[str, str]:
    """The text of the one column out of ``allowed``, and what is wrong with it."""
    present = [name for name in allowed if name in row]
    if len(present) != 1:
        has = f"has the columns {' and '.join(present)}; keep one" if present else "lacks a column"
        return "", f"{has} of {', '.join(allowed)}."
    value = row[present[0]]
    if not isinstance(value, str):
        return "", f"{present[0]} must be text, got {value!r}."
    return value, ""
