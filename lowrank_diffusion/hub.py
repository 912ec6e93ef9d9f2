"""What the hub's errors mean for a person, whatever kind of model was asked for."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .bases import ModelError
from .config import Problem


@contextmanager
def explained(hub_id: str, revision: str | None, key: str, missing: tuple[str, str]) -> Iterator[None]:
    """Turn the hub's exceptions into a ModelError that says what a person can do.

    Args:
        hub_id: owner/name.
        revision: Branch, tag or commit that was asked for.
        key: The setting that names the model.
        missing: Rule and advice where the model lacks a file that makes it what it should be.
    """
    try:
        yield
    except (EntryNotFoundError, OSError, HFValidationError) as error:
        raise ModelError([_problem(error, hub_id, revision, key, missing)]) from error


def _problem(error: Exception, hub_id: str, revision: str | None, key: str, missing: tuple[str, str]) -> Problem:
    page = f"https://huggingface.co/{hub_id}"
    if isinstance(error, GatedRepoError):
        rule, advice = "is gated.", f"Accept its licence on {page}, then log in once with 'hf auth login'."
    elif isinstance(error, RevisionNotFoundError):
        return Problem("base.revision", f"{hub_id} has no revision {revision!r}.", f"See {page}/tree/main.")
    elif isinstance(error, RepositoryNotFoundError):
        rule, advice = (
            "is neither a local path nor on the hub.",
            "Check the spelling; for a private one, 'hf auth login'.",
        )
    elif isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        rule, advice = missing
    elif getattr(error, "errno", None) == errno.ENOSPC:
        rule, advice = "does not fit on the disk.", "Free some space, or move the hub's cache with HF_HOME."
    else:
        rule = "is not in the hub's cache, and the hub cannot be reached."
        advice = "Check the network, or give a local folder or file."
        if not isinstance(error, LocalEntryNotFoundError):
            advice += f" ({_first_line(error)})"
    return Problem(key, f"{hub_id} {rule}", advice)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
