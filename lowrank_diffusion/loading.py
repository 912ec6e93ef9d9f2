"""What reading anybody's model needs: a quiet terminal, and errors in words, whatever a library raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .bases import ModelError
from .config import Problem
from .errors import UserError

_TOO_LITTLE = "That is too little memory: close other programs, or load it in half precision."


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Loading takes seconds; its bar would litter the run's log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def reading(failed: Callable[[str], UserError]) -> Iterator[None]:
    """Inside, a library reads a file that anybody may have made: what it raises becomes ``failed(reason)``.

    Libraries raise nearly anything for a broken file, those written in Rust even what is not an ``Exception``. So
    nothing but the reading itself belongs inside: an error of our own would look like a broken file. That a GPU is full
    is not the file's fault and goes through.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be imported for it
            raise
        raise failed(in_words(error)) from error


def in_words(error: BaseException) -> str:
    """What a library's exception says, without its class: one line, not too long."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    lines = str(error).strip().splitlines()
    said = lines[0][:300].encode("utf-8", "backslashreplace").decode() if lines else ""
    if isinstance(error, KeyError):
        return f"it lacks {said or 'a name'}" if " " not in said else said.strip("'\"")
    return said or ("not enough memory" if isinstance(error, MemoryError) else "it is damaged")


@contextmanager
def explained(what: str, key: str, advice: str) -> Iterator[None]:
    """:func:`reading` a base model: a ModelError for the person, with ``advice`` at its end."""

    def failed(reason: str) -> ModelError:
        little = "alloc" in reason or "not enough memory" in reason
        rule = f"{what} cannot be loaded: {reason}"
        return ModelError([Problem(key, rule, _TOO_LITTLE if little else advice)])

    with reading(failed):
        yield
