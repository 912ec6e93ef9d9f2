"""How the page's handlers are called: what they raise becomes a message in their tab, and short ones are not queued."""

from __future__ import annotations

import functools
import html
import inspect
import traceback
from collections.abc import Callable
from typing import Any

from lowrank_diffusion.errors import UserError

from . import safe
from .form import message_html
from .toolkit import gr

Handler = Callable[..., Any]
OnError = Callable[[Exception], dict[Any, Any]]


def guard(demo: gr.Blocks) -> None:
    """Guard every handler; call once, when all events are bound.

    What answers once is asked by one plain request. Gradio's queue tells its answers over a stream that it closes
    when it has nothing more to say; a question asked at that moment is answered into a stream that nobody hears, and
    the page then waits forever. Only what answers bit by bit, and so holds the stream open, goes through the queue.
    """
    for event in demo.fns.values():
        if event.fn is not None:
            event.queue = inspect.isgeneratorfunction(event.fn)
            place = next((part for part in event.outputs if _says(part)), None)
            on_error = _error_of_program if event.api_visibility == "public" else functools.partial(_message, place)
            event.fn = guarded(event.fn, on_error)


def _error_of_program(error: Exception) -> dict[Any, Any]:
    """What a program that called is told: the text as it is."""
    if not isinstance(error, UserError | OSError | ValueError):
        traceback.print_exc()
    raise gr.Error(safe.in_words(error), print_exception=False) from None


def _says(part: Any) -> bool:
    return str(getattr(part, "elem_id", None) or "").endswith(("problems", "note"))


def _message(place: Any, error: Exception) -> dict[Any, Any]:
    """What the handler returns in its stead."""
    if isinstance(error, gr.Error):
        raise error
    if not isinstance(error, UserError | OSError | ValueError):
        traceback.print_exc()  # a fault of ours
    if place is None:
        raise gr.Error(html.escape(safe.in_words(error)), print_exception=False) from None  # it is shown as HTML
    return {place: message_html(safe.in_words(error), "bad")}


def guarded(handler: Handler, on_error: OnError) -> Handler:
    """The handler, with what ``on_error`` makes of an error for its result."""
    kinds = {inspect.isgeneratorfunction: _steps, inspect.iscoroutinefunction: _later}
    wrap = next((wrap for is_kind, wrap in kinds.items() if is_kind(handler)), _plain)
    return functools.wraps(handler)(wrap(handler, on_error))


def _plain(handler: Handler, on_error: OnError) -> Handler:
    def run(*values: Any, **named: Any) -> Any:
        try:
            return handler(*values, **named)
        except Exception as error:
            return on_error(error)

    return run


def _later(handler: Handler, on_error: OnError) -> Handler:
    async def run(*values: Any, **named: Any) -> Any:
        try:
            return await handler(*values, **named)
        except Exception as error:
            return on_error(error)

    return run


def _steps(handler: Handler, on_error: OnError) -> Handler:
    def run(*values: Any, **named: Any) -> Any:
        try:
            yield from handler(*values, **named)
        except Exception as error:
            yield on_error(error)

    return run
