"""What loading any base model needs: a quiet terminal, and errors in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from .bases import ModelError
from .config import Problem
from .errors import UserError

_BROKEN = (MemoryError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Loading takes seconds; its bar would litter the run's log."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def explained(what: str, key: str, advice: str) -> Iterator[None]:
    """Turn what the libraries raise on a broken model into a ModelError for the person, with ``advice`` at its end."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except _BROKEN as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if "alloc" in reason or isinstance(error, MemoryError):
            advice = "That is too little memory: close other programs, or load it in half precision."
        raise ModelError([Problem(key, f"{what} cannot be loaded: {reason}", advice)]) from error
