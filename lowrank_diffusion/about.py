"""What a person says of a run: the name it goes by, notes, tags. Nothing of it changes the run or its files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from .errors import UserError
from .files import MB, Unreadable, read_object
from .paths import write_text

FILE = "about.json"
LONGEST_TITLE = 80
LONGEST_NOTES = 20_000
LONGEST_TAG = 40
MOST_TAGS = 20


@dataclass(frozen=True)
class About:
    """See the module."""

    title: str = ""
    """Empty: as it was called when it was made."""
    notes: str = ""
    tags: tuple[str, ...] = ()


def read(folder: Path) -> About:
    """What is said of the run in this folder; nothing of a file that cannot be read."""
    path = folder / FILE
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return About()
    return _read(path, changed)


@lru_cache(maxsize=2000)
def _read(path: Path, _changed: int) -> About:
    try:
        stored = read_object(path, MB)
    except Unreadable:
        return About()
    title, notes, tags = stored.get("title"), stored.get("notes"), stored.get("tags")
    try:
        texts = [item for item in tags if isinstance(item, str)] if isinstance(tags, list) else []
        return checked(title if isinstance(title, str) else "", notes if isinstance(notes, str) else "", texts)
    except UserError:
        return About()


def checked(title: str, notes: str, tags: Iterable[str]) -> About:
    """As it is kept: white space tidied, a tag once. Raises UserError for what is too long, naming all of it."""
    title, notes = " ".join(title.split()), notes.strip()
    tidy = tuple(dict.fromkeys(tag for tag in (" ".join(item.split()) for item in tags) if tag))
    problems = []
    if len(title) > LONGEST_TITLE:
        problems.append(f"Name: must have at most {LONGEST_TITLE} characters, got {len(title)}.")
    if len(notes) > LONGEST_NOTES:
        problems.append(f"Notes: must have at most {LONGEST_NOTES:,} characters, got {len(notes):,}.")
    if len(tidy) > MOST_TAGS:
        problems.append(f"Tags: must be at most {MOST_TAGS}, got {len(tidy)}.")
    if long := next((tag for tag in tidy if len(tag) > LONGEST_TAG), ""):
        problems.append(f"Tags: must have at most {LONGEST_TAG} characters each, got {long[:60]!r}.")
    if problems:
        raise UserError("\n".join(problems))
    return About(title, notes, tidy)


def write(folder: Path, said: About) -> None:
    """Keep it. Raises UserError where the folder cannot be written."""
    try:
        write_text(folder / FILE, json.dumps(asdict(said), ensure_ascii=False, indent=1))
    except OSError as error:
        raise UserError(f"{folder / FILE}: cannot be written: {error.strerror}. Free some space.") from None
