"""3D icons of objects that no training set has, as they are and further away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lowrank_diffusion.image import crops
from lowrank_diffusion.image.data import Picture, scan
from lowrank_diffusion.image.dataset import Example
from trainers.dreambooth import DreamBooth

from .outside import CORRUPTIONS, reworded

HELD_OUT = Path(__file__).parents[1] / "heldout"


def pictures(count: int) -> list[Picture]:
    """The first ``count`` of the 100."""
    return scan(HELD_OUT)[:count]


def examples(task: DreamBooth, found: Sequence[Picture]) -> list[Example]:
    """Pictures as the task's model needs them."""
    side = task.data.side
    fitted = crops.fit(list(found), [(side, side)] * len(found), task.cfg.data, seed=0)
    task.data.prompts |= task.data.embeddings([picture[0].caption for picture in fitted], lambda *_: None)
    return [variants[0] for variants in task.data.examples([[p[:1] for p in fitted]], lambda *_: None)[0]]


def further(found: Sequence[Picture], folder: Path) -> dict[str, list[Picture]]:
    """The same pictures corrupted, in files below ``folder``, and with captions in other words: by what was done."""
    made = {name: [_corrupted(picture, name, folder / name) for picture in found] for name in CORRUPTIONS}
    return made | {"reworded": [replace(picture, caption=reworded(picture.caption)) for picture in found]}


def _corrupted(picture: Picture, corruption: str, folder: Path) -> Picture:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{picture.path.stem}.png"
    with Image.open(picture.path) as image:
        # The seed is the name's, so that a picture is corrupted alike whatever stands beside it.
        seed = int.from_bytes(picture.path.stem.encode(), "big")
        CORRUPTIONS[corruption](image.convert("RGB"), seed).save(path)
    return replace(picture, path=path)
