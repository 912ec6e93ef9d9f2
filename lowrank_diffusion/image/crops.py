"""Square training crops, and the micro-conditioning that tells SDXL about them (arXiv 2307.01952, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .. import seeds
from ..config import DataConfig
from .data import Picture, open_picture


@dataclass(frozen=True)
class Crop:
    """One square of one picture, after scaling its short side to ``side``."""

    path: Path
    caption: str
    side: int
    width: int
    """Of the picture as it is stored, pixels."""
    height: int
    top: int
    """Of the square, in the scaled picture, pixels."""
    left: int
    flipped: bool = False

    @property
    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """(original height, original width, crop top, crop left, target height, target width)."""
        return (self.height, self.width, self.top, self.left, self.side, self.side)

    @property
    def scaled(self) -> tuple[int, int]:
        """(width, height) of the whole picture after scaling."""
        factor = self.side / min(self.width, self.height)
        return max(self.side, round(self.width * factor)), max(self.side, round(self.height * factor))

    def pixels(self, background: str) -> Image.Image:
        """The square itself, RGB, side x side.

        A mirrored crop is cut from the mirrored picture at the same place, so that ``left`` means what the model
        was taught it means: the distance to the left edge of what it sees.
        """
        picture = open_picture(self.path, background)
        if self.flipped:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scaled = picture.resize(self.scaled, Image.Resampling.LANCZOS)
        return scaled.crop((self.left, self.top, self.left + self.side, self.top + self.side))


def plan(pictures: list[Picture], cfg: DataConfig, side: int, seed: int) -> list[list[Crop]]:
    """For every picture the crops that training chooses among: ``data.crops`` places, mirrored as well with flip."""
    return [_of_picture(picture, cfg, side, seed) for picture in pictures]


def _of_picture(picture: Picture, cfg: DataConfig, side: int, seed: int) -> list[Crop]:
    import torch

    whole = Crop(picture.path, picture.caption, side, picture.width, picture.height, 0, 0)
    room_x, room_y = whole.scaled[0] - side, whole.scaled[1] - side
    crops = []
    for number in range(cfg.crops):
        if cfg.crop == "center":
            left, top = room_x // 2, room_y // 2
        else:
            draw = torch.rand(2, generator=seeds.generator(seed, number, f"crop {picture.path.name}"))
            left, top = int(draw[0] * (room_x + 1)), int(draw[1] * (room_y + 1))
        for flipped in (False, True) if cfg.flip else (False,):
            crops.append(Crop(picture.path, picture.caption, side, picture.width, picture.height, top, left, flipped))
    return crops
