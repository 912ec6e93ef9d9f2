"""Training crops, and how each is framed, which some families take as input (arXiv 2307.01952, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from .. import seeds
from ..config import DataConfig
from .buckets import Size
from .data import Picture, open_picture


@dataclass(frozen=True)
class Crop:
    """A part of one picture, after scaling the picture until it covers ``target``."""

    path: Path
    caption: str
    target: Size
    """(width, height) of the crop, pixels."""
    width: int
    """Of the picture as it is stored, pixels."""
    height: int
    top: int
    """Of the crop, in the scaled picture, pixels."""
    left: int
    flipped: bool = False

    @property
    def framing(self) -> tuple[int, int, int, int, int, int]:
        """(original height, original width, crop top, crop left, target height, target width)."""
        return (self.height, self.width, self.top, self.left, self.target[1], self.target[0])

    @property
    def scaled(self) -> tuple[int, int]:
        """(width, height) of the whole picture after scaling."""
        across, down = self.target
        factor = max(across / self.width, down / self.height)
        return max(across, round(self.width * factor)), max(down, round(self.height * factor))

    def pixels(self, background: str) -> Image.Image:
        """The crop itself, RGB, of the target's size.

        A mirrored crop is cut from the mirrored picture at the same place, so that ``left`` means what the model
        was taught it means: the distance to the left edge of what it sees.
        """
        picture = open_picture(self.path, background)
        if self.flipped:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scaled = picture.resize(self.scaled, Image.Resampling.LANCZOS)
        return scaled.crop((self.left, self.top, self.left + self.target[0], self.top + self.target[1]))


def fit(pictures: list[Picture], sizes: list[Size], cfg: DataConfig, seed: int) -> list[list[Crop]]:
    """For every picture the crops that training chooses among: ``data.crops`` places, mirrored as well with flip.

    Picture and size belong together by their place in the lists.
    """
    return [_of_picture(picture, size, cfg, seed) for picture, size in zip(pictures, sizes, strict=True)]


def _of_picture(picture: Picture, size: Size, cfg: DataConfig, seed: int) -> list[Crop]:
    import torch

    whole = Crop(picture.path, picture.caption, size, picture.width, picture.height, 0, 0)
    room_x, room_y = whole.scaled[0] - size[0], whole.scaled[1] - size[1]
    crops = []
    for number in range(cfg.crops):
        if cfg.crop == "center":
            left, top = room_x // 2, room_y // 2
        else:
            draw = torch.rand(2, generator=seeds.generator(seed, number, f"crop {picture.path.name}"))
            left, top = int(draw[0] * (room_x + 1)), int(draw[1] * (room_y + 1))
        for flipped in (False, True) if cfg.flip else (False,):
            crops.append(replace(whole, top=top, left=left, flipped=flipped))
    return crops
