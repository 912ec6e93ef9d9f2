"""Errors whose text is meant for the person at the keyboard: what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence


class UserError(ValueError):
    """Something a person can put right; shown without a traceback, in the app and on the command line alike."""


SHOWN = 20
"""So many problems are listed; the rest are counted."""
MOST = 1000
"""After so many problems of one file, the rest of it is not looked at: a line takes less than what is said of it."""


def listed(problems: Sequence[object]) -> str:
    """A line for each of the first problems, and how many more there are."""
    more = len(problems) - SHOWN
    lines = [str(problem) for problem in problems[:SHOWN]]
    return "\n".join(lines if more <= 0 else [*lines, f"... and {more:,} more problems of this kind."])


class DataError(UserError):
    """All problems of a data set at once (``problems``), each naming its file; a person is shown the first of many."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__(listed(problems))


class AdapterError(UserError):
    """An adapter cannot be used."""


class Hopeless(UserError):
    """An error that trying again repeats: training is the same to the bit, and so is its end."""


_DISK = {
    errno.ENOSPC: "Free some space.",
    errno.EDQUOT: "Free some space, or ask for a larger quota.",
    errno.EFBIG: "Its file system (FAT32 ends at 4 GB) or a limit (ulimit -f) takes no larger file: set LOWRANK_HOME "
    "to a folder on another disk.",
    errno.EROFS: "The disk is mounted read-only: set LOWRANK_HOME to a folder that can be written.",
    errno.EACCES: "Change the permissions, or set LOWRANK_HOME to a folder that can be written.",
    errno.EPERM: "Change the permissions, or set LOWRANK_HOME to a folder that can be written.",
    errno.EIO: "The disk fails: look at the system's log, and copy what you want to keep.",
    errno.ENAMETOOLONG: "Take a shorter name.",
    errno.EEXIST: "Take away what is there, or give another place.",
    errno.ENOENT: "Check the path.",
    errno.EMFILE: "Too many files are open: raise ulimit -n.",
    errno.ENFILE: "Too many files are open on this machine.",
}


def of_disk(error: OSError) -> str:
    """What the system said of a file, and what can be done about it."""
    advice = _DISK.get(error.errno or 0, "Check the disk and the path.")
    return f"{error.filename or 'a file'}: {error.strerror or error}. {advice}"


_NO_MEMORY = re.compile(
    r"out of memory|(not enough|insufficient) memory|(can't|cannot|failed to|unable to) allocate|ALLOC(ATION)?_FAILED|"
    r"invalid buffer size",
    re.IGNORECASE,
)
"""What CUDA, MPS, the CPU, cuDNN and numpy say; only some of them have an exception of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error goes away when less is held in memory."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or _NO_MEMORY.search(str(error)) is not None
