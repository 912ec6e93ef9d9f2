"""Errors whose text is meant for the person at the keyboard: what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Something a person can put right; shown without a traceback, in the app and on the command line alike."""


class DataError(UserError):
    """All problems of a data set at once (``problems``), each naming its file."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


class AdapterError(UserError):
    """An adapter cannot be used."""
