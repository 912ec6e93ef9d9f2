"""Errors whose text is meant for the person at the keyboard: what is wrong, where, and what to do."""

from __future__ import annotations

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
