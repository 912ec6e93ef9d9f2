"""Errors whose text is meant for the person at the keyboard: what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """Something a person can put right; shown without a traceback, in the app and on the command line alike."""
