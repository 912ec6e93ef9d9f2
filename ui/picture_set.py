"""The pictures of the cards as what a run learns from: what keeps it from starting, what it says, its own copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lowrank_diffusion import preflight, presets
from lowrank_diffusion.config import Config, ConfigError, Problem
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import data, pictures, sets
from lowrank_diffusion.image.data import Picture, Survey
from lowrank_diffusion.image.writing import write_table
from lowrank_diffusion.runs import Run


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their captions and how they are learnt."""

    pictures: Sequence[Picture]

    def problems(self, values: dict[str, Any]) -> list[Problem]:
        """What keeps a run with these settings from learning from them."""
        folder = values.get("data.instance")
        if folder and self.pictures:
            return [Problem("data.instance", "names a folder, and there are pictures above.", "Use one or the other.")]
        if not self.pictures and not folder:
            hint = "Drop some into the field above, load an example set, or name a folder."
            return [Problem("Pictures", "there are none.", hint)]
        return self._folder(values) if folder else self._uncaptioned(values) or self._masks(values)

    def _folder(self, values: dict[str, Any]) -> list[Problem]:
        try:
            data.scan(Path(presets.located(str(values["data.instance"])) or ""), str(values.get("data.prompt") or ""))
        except UserError as error:
            return [Problem("data.instance", str(error))]
        return []

    def _uncaptioned(self, values: dict[str, Any]) -> list[Problem]:
        missing = sum(not picture.caption for picture in self.pictures)
        if values.get("data.prompt") or not missing:
            return []
        rule = f"is empty and {missing} of {len(self.pictures)} pictures have no caption."
        return [Problem("data.prompt", rule, "Write captions under the pictures, or one here for all.")]

    def _masks(self, values: dict[str, Any]) -> list[Problem]:
        """Pictures of which the masks leave nothing."""
        if not any(picture.mask for picture in self.pictures):
            return []
        try:
            config = presets.with_absolute_paths(presets.build(overrides=values))
        except ConfigError:  # said with the other settings
            return []
        problems = preflight.look(config, self._survey(config)).problems
        return [Problem("Pictures", problem.rule) for problem in problems if problem.key == "data.instance"]

    def _survey(self, config: Config) -> Survey:
        """As a run sees them: with the caption of those that have none, and with masks of their transparent parts."""
        prompt, alpha = " ".join(config.data.prompt.split()), config.data.alpha_mask
        seen = [replace(picture, caption=picture.caption or prompt) for picture in self.pictures]
        return Survey([with_alpha(picture) if alpha else picture for picture in seen], [])

    def summary(self, config: Config) -> tuple[str, list[str]]:
        """What is learnt, in a line, and notes on what is not learnt as it is. Raises UserError where it cannot be."""
        if not self.pictures:
            return "", preflight.notes(config) if config.data.instance else []
        line = captioned([picture.caption for picture in self.pictures], " ".join(config.data.prompt.split()))
        return line, preflight.notes(config, self._survey(config))

    def count(self, config: Config) -> int:
        """How many examples an epoch has."""
        known = self.pictures or (data.of_run(config.data).pictures if config.data.instance else ())
        return max(0, sum(picture.repeats for picture in known) - config.validation.holdout)

    def write(self, run: Run) -> dict[str, Any]:
        """Copy them into the run, those of a saved set by links."""
        if not self.pictures:
            return {}
        folder = run.path / "data" / "instance"
        if all(plain(picture) for picture in self.pictures):
            data.write_set(folder, [(picture.path, picture.caption) for picture in self.pictures], sets.linked)
        else:
            write_table(folder, self.pictures, sets.linked)
        return {"data.instance": str(folder)}


def plain(picture: Picture) -> bool:
    """Whether nothing is said of how a picture is learnt but its caption."""
    return picture.repeats == 1 and picture.weight == 1 and picture.frame is None and picture.mask is None


def with_alpha(picture: Picture) -> Picture:
    """A transparent picture that has no mask is its own. Raises DataError."""
    masked = picture.mask is None and pictures.transparent(picture.path)
    return replace(picture, mask=picture.path) if masked else picture


def counted(number: int) -> str:
    """So many pictures, in words."""
    return "1 picture" if number == 1 else f"{number} pictures"


def captioned(captions: list[str], prompt: str) -> str:
    """How many pictures are captioned with what."""
    own, missing = [text for text in captions if text], sum(not text for text in captions)
    total = counted(len(captions))
    if missing and not prompt:
        return f"{total}, {missing} without a caption."
    said = Counter([*own, *[prompt] * missing])
    if len(said) == 1:
        return f"{total}, {'all ' if len(captions) > 1 else ''}captioned '{shortened(next(iter(said)))}'."
    if missing:
        return f"{total}: {missing} captioned '{shortened(prompt)}', {len(own)} with captions of their own."
    return f"{total} with captions of their own."


def shortened(text: str, most: int = 80) -> str:
    """The beginning of a long text."""
    return text if len(text) <= most else f"{text[:most]}…"
