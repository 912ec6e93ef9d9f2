"""Sub-folders as kohya's scripts read them: ``10_sks dog`` holds pictures that an epoch sees 10 times each.

The words behind the number are the caption of a picture without one of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from . import listing
from .columns import MOST_REPEATS
from .listing import Listing

_NAME = re.compile(r"(?P<number>\d{1,9})_(?P<words>.*)", re.DOTALL)


@dataclass(frozen=True)
class Numbered:
    """A numbered sub-folder that has pictures."""

    files: Listing
    repeats: int
    words: str
    """Behind the number; may be empty."""

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.files.folder

    @property
    def problem(self) -> str:
        """What is wrong with its number, or nothing."""
        if self.repeats <= MOST_REPEATS:
            return ""
        return f"{self.path}: the number in front says how often an epoch sees its pictures, at most {MOST_REPEATS}."


def is_numbered(folder: Path) -> bool:
    """Whether a folder is called as kohya's are, with a number above 0: kohya's scripts pass over 0 as well."""
    match = _NAME.fullmatch(folder.name)
    return match is not None and int(match["number"]) > 0


def folders(files: Listing) -> list[Numbered]:
    """The numbered sub-folders that are read.

    None where the folder has pictures or a table of its own: it is an ordinary one then, and whoever put pictures
    aside into ``1_old`` does not learn from them.
    """
    if files.pictures or files.tables:
        return []
    layout = []
    for path in filter(is_numbered, files.folders):
        inside = listing.read(path)
        match = _NAME.fullmatch(path.name)
        if match and (inside.pictures or inside.tables or inside.not_read):
            layout.append(Numbered(inside, int(match["number"]), match["words"]))
    return layout


def passed_over(files: Listing) -> list[str]:
    """A note on numbered sub-folders of a folder that is an ordinary one."""
    if not any(is_numbered(path) and listing.read(path).pictures for path in files.folders):
        return []
    return [
        "Numbered sub-folders are read, as kohya's scripts do it, only where a folder has no pictures and no table of "
        "its own: move its pictures into a sub-folder such as 1_words."
    ]
