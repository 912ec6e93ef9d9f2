"""Training crops, and how each is framed, which some families take as input (arXiv 2307.01952, section 2.2).

A picture with a frame of its own is treated as if it had been cut to that frame and saved: the crop lies inside, and
what a family is told of the original size and of the crop's place is the frame's size and the place in it. So it learns
that the frame is a whole picture, with as many pixels as it really has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from .. import seeds
from ..config import DataConfig
from . import masks
from .buckets import Size
from .columns import Frame
from .data import Picture, open_picture

Box = tuple[int, int, int, int]
"""(left, top, right, bottom), pixels."""


@dataclass(frozen=True)
class Crop:
    """A part of one picture, after scaling the picture until it covers ``target``."""

    path: Path
    caption: str
    target: Size
    """(width, height) of the crop, pixels."""
    width: int
    """Of the picture as it is stored, or of its frame, pixels."""
    height: int
    top: int
    """Of the crop, in the scaled picture, pixels."""
    left: int
    flipped: bool = False
    box: Box | None = None
    """The frame in the stored picture; None: all of it."""
    stored: Size = (0, 0)
    """(width, height) of the stored picture, pixels."""
    weight: float = 1.0
    """Factor of its loss."""
    mask: Path | None = None
    """See :attr:`.columns.Use.mask`."""

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

    @property
    def part(self) -> Frame:
        """What is seen of the stored picture, as it is before it is mirrored."""
        (across, down), (width, height) = self.scaled, self.stored
        left, top, right, bottom = self.box or (0, 0, width, height)
        begin = across - self.left - self.target[0] if self.flipped else self.left
        x, y = (right - left) / across, (bottom - top) / down
        return (
            (left + begin * x) / width, (top + self.top * y) / height,
            (left + (begin + self.target[0]) * x) / width, (top + (self.top + self.target[1]) * y) / height,
        )  # fmt: skip

    def pixels(self, background: str) -> Image.Image:
        """The crop itself, RGB, of the target's size.

        A mirrored crop is cut from the mirrored picture at the same place, so that ``left`` means what the model
        was taught it means: the distance to the left edge of what it sees.
        """
        return self._cut(open_picture(self.path, background), Image.Resampling.LANCZOS)

    def masked(self, size: Size) -> Image.Image | None:
        """The same part of the picture's mask, each value the mean of an area: floating-point grey, 0 to 255.

        ``size``: (width, height), that of the latents. None for a picture without a mask.
        """
        if self.mask is None:
            return None
        cut = self._cut(masks.opened(self.path, self.mask, self.stored), Image.Resampling.BOX)
        return cut.convert("F").resize(size, Image.Resampling.BOX)

    def _cut(self, picture: Image.Image, resampling: Image.Resampling) -> Image.Image:
        picture = picture.crop(self.box) if self.box else picture
        if self.flipped:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scaled = picture.resize(self.scaled, resampling)
        return scaled.crop((self.left, self.top, self.left + self.target[0], self.top + self.target[1]))


def fit(pictures: list[Picture], sizes: list[Size], cfg: DataConfig, seed: int) -> list[list[Crop]]:
    """For every picture the crops that training chooses among: ``data.crops`` places, mirrored as well with flip.

    Picture and size belong together by their place in the lists.
    """
    return [_of_picture(picture, size, cfg, seed) for picture, size in zip(pictures, sizes, strict=True)]


def _of_picture(picture: Picture, size: Size, cfg: DataConfig, seed: int) -> list[Crop]:
    whole = _whole(picture, size)
    room_x, room_y = whole.scaled[0] - size[0], whole.scaled[1] - size[1]
    crops = []
    for number in range(cfg.crops):
        if cfg.crop == "center":
            left, top = room_x // 2, room_y // 2
        else:
            import torch

            draw = torch.rand(2, generator=seeds.generator(seed, number, f"crop {picture.path.name}"))
            left, top = int(draw[0] * (room_x + 1)), int(draw[1] * (room_y + 1))
        for flipped in (False, True) if cfg.flip else (False,):
            crops.append(replace(whole, top=top, left=left, flipped=flipped))
    return crops


def _whole(picture: Picture, size: Size) -> Crop:
    """The top left crop."""
    stored = (picture.width, picture.height)
    return Crop(
        picture.path, picture.caption, size, *picture.seen, 0, 0, box=picture.box, stored=stored,
        weight=picture.weight, mask=picture.mask,
    )  # fmt: skip


def empty_mask(crop: Crop, size: Size) -> bool:
    """Whether a crop's mask leaves nothing to learn in latents of ``size`` (width, height)."""
    mask = crop.masked(size)
    if mask is None:
        return False
    _, most = mask.getextrema()
    return float(most) < 255 * masks.EMPTY  # type: ignore[arg-type]


_REMEDY = (
    "Give it a frame round the part that counts, take data.buckets=true or data.crop=center, mend the mask, or set "
    "loss.mask_outside above 0."
)


def refusal(picture: Path) -> str:
    """What is said of a picture of which nothing is left to learn."""
    return f"{picture}: has a mask that is black wherever the picture is looked at. {_REMEDY}"


def mask_problems(pictures: list[Picture], sizes: list[Size], cfg: DataConfig, factor: int) -> list[str]:
    """Pictures whose masks leave nothing to learn, told without torch, so of random crops only if no place is left.

    Args:
        pictures: All that are learnt.
        sizes: (width, height) at which each is seen, pixels.
        cfg: Where crops are taken.
        factor: Pixels of a latent's side.
    """
    problems = []
    for picture, (width, height) in zip(pictures, sizes, strict=True):
        if picture.mask is None:
            continue
        crop = _whole(picture, (width, height))
        if cfg.crop == "center":
            (crop, *_) = _of_picture(picture, (width, height), cfg, seed=0)
        else:
            crop = replace(crop, target=crop.scaled)
        if empty_mask(crop, (crop.target[0] // factor, crop.target[1] // factor)):
            problems.append(refusal(picture.path))
    return problems
