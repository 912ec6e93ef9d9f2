"""From the Generate tab's fields to a request, naming every problem; and which adapters there are to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lowrank_diffusion import runs
from lowrank_diffusion.config import BaseModelConfig, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest
from lowrank_diffusion.image.source import ModelError, resolve
from lowrank_diffusion.runs import Run

from . import live, safe
from .form import number

LIMITS = {
    "count": ("Pictures", 1, 64),
    "steps": ("Steps", 1, 200),
    "seed": ("Seed", 0, 2**32 - 1),
    "width": ("Width", 64, 4096),
    "height": ("Height", 64, 4096),
}
LARGEST_GUIDANCE = 30
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


class RequestError(UserError):
    """The fields do not make a request (``problems``)."""

    def __init__(self, problems: list[Problem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def adapter_file(run: Run) -> tuple[Path, str] | None:
    """A run's newest adapter in diffusers' format and where it stands ('finished', 'step 100'); None without one."""
    final = run.path / f"{run.title}.safetensors"
    if final.is_file():
        return final, "finished"
    for folder in reversed(run.checkpoints):
        path = folder / f"{run.title}.safetensors"
        if path.is_file():
            return path, f"step {int(folder.name.rpartition('-')[2])}"
    return None


def adapter_choices(uploads: list[str], limit: int = 100) -> list[tuple[str, str]]:
    """Choices for a selector: none, uploaded files, then runs that have an adapter, newest first."""
    options = [("none", "")]
    options += [(Path(path).name, f"file:{path}") for path in uploads]
    for run in runs.all_runs()[:limit]:
        found = adapter_file(run)
        if found:
            options.append((f"{run.title} · {found[1]} · {live.created(run)}", f"run:{run.name}"))
    return options


def describe_adapter(path: Path) -> str:
    """One line about an uploaded adapter. Raises UserError for a file that is not one."""
    if path.suffix.lower() in PICKLES:
        raise UserError(f"{path.name}: is a pickle checkpoint, which can run code when it is opened. Use .safetensors.")
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{path.name}: is not an adapter file. Use a .safetensors file of diffusers or kohya.")
    try:
        with safe_open(path, "np") as file:
            count, facts = len(list(file.keys())), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path.name}: is not a whole safetensors file ({error}). Export or download it again."
        ) from None
    trigger = facts.get("modelspec.trigger_phrase")
    return f"{path.name}: {count} tensors." + (f" Trigger word: {trigger}." if trigger else "")


def _adapter(choice: str, strength: float) -> AdapterChoice:
    """One chosen row. Raises UserError."""
    kind, _, name = choice.partition(":")
    if kind == "file":
        path = safe.uploaded(name)
        describe_adapter(path)
        return AdapterChoice(str(path), strength)
    if kind != "run":
        raise UserError(f"there is no adapter {choice!r}. Choose one of the list, or add a file.")
    found = adapter_file(safe.run(name))
    if found is None:
        raise UserError(f"the run {name} has no adapter file yet. Wait for its first checkpoint.")
    return AdapterChoice(str(found[0]), strength)


def _whole(name: str, raw: Any) -> int | None:
    """A number field as an int within its limits. Raises UserError."""
    _, low, high = LIMITS[name]
    value = number(raw)
    if value is None:
        return None
    if not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"must be a whole number from {low} to {high}, got {raw}.")
    if name in ("width", "height") and value % 8:
        raise UserError(f"must be a multiple of 8, got {value}. Take {value // 8 * 8}.")
    return value


def build_request(answers: dict[str, Any]) -> DrawRequest:
    """A request out of the tab's fields. Raises RequestError with every problem."""
    problems: list[Problem] = []
    numbers: dict[str, Any] = {}
    for name, (label, *_) in LIMITS.items():
        try:
            numbers[name] = _whole(name, answers[name])
            if numbers[name] is None and name not in ("width", "height"):
                problems.append(Problem(label, "is empty."))
        except UserError as error:
            problems.append(Problem(label, str(error)))
    guidance = number(answers["guidance"])
    if not isinstance(guidance, int | float) or not 0 <= guidance <= LARGEST_GUIDANCE:
        problems.append(Problem("Guidance", f"must be a number from 0 to {LARGEST_GUIDANCE}, got {guidance}."))
    adapters = []
    for index, (choice, strength) in enumerate(answers["adapters"], 1):
        try:
            adapters += [_adapter(choice, float(strength))] if choice else []
        except UserError as error:
            problems.append(Problem(f"Adapter {index}", str(error)))
    base = BaseModelConfig(path=str(answers["base"] or "").strip() or "embedded")
    try:
        resolve(base)
    except ModelError as error:
        problems += [Problem("Base model", problem.rule, problem.hint) for problem in error.problems]
    if problems:
        raise RequestError(problems)
    return DrawRequest(
        prompt=str(answers["prompt"] or "").strip(),
        negative=str(answers["negative"] or "").strip(),
        base=base,
        adapters=tuple(adapters),
        guidance=float(guidance or 0),
        compare=bool(answers["compare"]) and bool(adapters),
        **{name: value for name, value in numbers.items() if value is not None},
    )
