"""What is drawn into a folder: requests in turn, each picture in a file of a name that can be told beforehand.

A picture that is there already, drawn from the same, is not drawn again: that is how a list goes on after a stop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, of_disk
from ..files import Unreadable
from . import parameters, png_texts
from .request import DrawRequest, drawn_steps, facts

if TYPE_CHECKING:
    from .generate import Hooks, Studio


@dataclass(frozen=True)
class File:
    """One picture of an item."""

    name: str
    seed: int
    adapted: bool


@dataclass(frozen=True)
class Item:
    """A request; the names of its pictures begin with ``stem``."""

    stem: str
    request: DrawRequest

    @property
    def files(self) -> list[File]:
        """In the order in which they come."""
        request = self.request
        variants = [False] * (request.compare or not request.adapters) + [True] * bool(request.adapters)
        seeds = range(request.seed, request.seed + request.count)
        words = {False: "base", True: "adapted"}
        return [File(f"{self.stem}{seed}-{words[way]}.png", seed, way) for seed in seeds for way in variants]

    @property
    def steps(self) -> int:
        """Denoising steps of all its pictures."""
        return len(self.files) * drawn_steps(self.request)

    def done(self, folder: Path) -> bool:
        """Whether all its pictures are in ``folder``, drawn from what it says."""
        return all(_is(folder / file.name, facts(self.request, file.seed, file.adapted)) for file in self.files)


def _is(path: Path, wanted: dict) -> bool:
    try:
        return path.is_file() and json.loads(png_texts.read(path).get(parameters.OWN, "")) == json.loads(
            json.dumps(wanted)
        )
    except (Unreadable, ValueError, RecursionError):
        return False


def several(prompts: Sequence[str], request: DrawRequest) -> list[Item]:
    """One item for each prompt; the names say their order where there are several."""
    many = len(prompts) > 1
    return [
        Item(f"{number:03d}-" if many else "", replace(request, prompt=prompt)) for number, prompt in enumerate(prompts)
    ]


def draw(items: Sequence[Item], folder: Path, studio: Studio, hooks: Hooks) -> Iterator[tuple[Item, File]]:
    """Draw what is missing; every picture is on the disk when it is said.

    ``hooks.progress`` counts the steps of all items. Raises what :meth:`.generate.Studio.draw` raises, and UserError
    for a disk that cannot be written.
    """
    missing = [item for item in items if not item.done(folder)]
    total, before = sum(item.steps for item in missing), 0
    for item in missing:
        files = {(file.seed, file.adapted): file for file in item.files}
        progress = _shifted(hooks.progress, before, total)
        for drawn in studio.draw(item.request, progress, hooks.cancelled, hooks.preview):
            file = files[drawn.seed, drawn.adapted]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                parameters.save(
                    drawn.image, folder / file.name, item.request, drawn.seed, drawn.adapted, studio.sampler
                )
            except OSError as error:
                raise UserError(f"{folder}: the pictures cannot be written. {of_disk(error)}") from None
            yield item, file
        before += item.steps


def _shifted(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, _total: progress(before + done, total)
