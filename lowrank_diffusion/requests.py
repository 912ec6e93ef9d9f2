"""What can be asked of a run at work: files in its folder, which its process looks for between two steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from .config import Problem
from .errors import UserError
from .runs import Run, RunError

ALL = ("stop", "pause", "save", "sample")
MOST_PROMPTS, LONGEST_PROMPT = 16, 2000


def sample_now(run: Run, prompts: Sequence[str] = ()) -> None:
    """Ask a run for samples after the current step: of these prompts, else of its own. Raises RunError, UserError."""
    _check_running(run)
    prompts = [" ".join(prompt.split()) for prompt in prompts if prompt.strip()]
    if not prompts and not run.config().sample.prompts:
        raise RunError("sample.prompts is empty: this run has nothing to draw. Give a prompt.")
    problems = [] if len(prompts) <= MOST_PROMPTS else [f"must be at most {MOST_PROMPTS}, got {len(prompts)}."]
    long = max(map(len, prompts), default=0)
    problems += [f"must have at most {LONGEST_PROMPT} characters, got {long}."] if long > LONGEST_PROMPT else []
    if problems:
        raise UserError("\n".join(str(Problem("Prompts", rule)) for rule in problems))
    run.request("sample", json.dumps(prompts, ensure_ascii=False) if prompts else "")


def prompts_of(run: Run) -> tuple[str, ...]:
    """The prompts of a request for samples; none: the run's own."""
    try:
        stored = json.loads(run.requested_text("sample") or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(item for item in stored if isinstance(item, str)) if isinstance(stored, list) else ()


def file_name(step: int, prompt: str, number: int | None, suffix: str) -> str:
    """What a sample's file is called; ``number``: of a prompt of the run's own, None: of one that was asked for."""
    which = hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest() if number is None else str(number)
    return f"step-{step:06d}-{which}{suffix}"


def save_now(run: Run) -> None:
    """Ask a run for a checkpoint with its adapter's files after the current step. Raises RunError."""
    _check_running(run)
    run.request("save")


def pause(run: Run) -> None:
    """Ask a run to wait after the current step, its model in memory, until :func:`go_on`. Raises RunError."""
    _check_running(run)
    run.request("pause")


def go_on(run: Run) -> None:
    """End a pause. Raises RunError if there is none."""
    _check_running(run)
    if not run.requested("pause"):
        raise RunError(f"{run.title} is not paused.")
    run.clear("pause")


def _check_running(run: Run) -> None:
    if run.process() is None:
        raise RunError(f"{run.name} is not running (it is {run.status().state}).")
