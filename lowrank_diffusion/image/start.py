"""The picture that drawing starts from and the mask of what may change, read and brought to size; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageFilter, ImageOps

from ..errors import UserError
from .pictures import open_picture
from .request import LIMITS, DrawRequest

CELL = 8
"""Pixels of a latent's side."""
SOFT = 2
"""Pixels over which what is drawn fades in, inside the mask."""


@dataclass(frozen=True)
class Start:
    """Both have the size of what is drawn; ``note`` says what was done to them, empty if nothing."""

    picture: Image.Image
    mask: Image.Image | None
    note: str = ""

    def cells(self) -> Image.Image | None:
        """The mask in whole latents: one that has a white pixel is white, so that all of the mask can change."""
        if self.mask is None:
            return None
        width, height = self.mask.size
        coarse = self.mask.reduce(CELL).point([0] + [255] * 255)
        return coarse.resize((width, height), Image.Resampling.NEAREST)

    def kept(self, drawn: Image.Image) -> Image.Image:
        """``drawn`` inside the mask, fading in; outside of it the start picture, to the bit."""
        if self.mask is None:
            return drawn
        soft = ImageChops.darker(self.mask, self.mask.filter(ImageFilter.GaussianBlur(SOFT)))
        return Image.composite(drawn, self.picture, soft)


def read(request: DrawRequest) -> Start | None:
    """What a request starts from; None where that is noise. Raises UserError."""
    if not request.start:
        return None
    picture = open_picture(Path(request.start))
    mask = open_picture(Path(request.mask), "#000000") if request.mask else None
    if mask is not None and mask.size != picture.size:
        (width, height), (own_width, own_height) = picture.size, mask.size
        raise UserError(
            f"mask: must have the size of the start picture, {width} × {height} px; it has {own_width} × {own_height}."
        )
    size = sides(picture.size, request.width, request.height)
    note = _note(picture.size, size)
    grey = mask and mask.convert("L").point([0] * 128 + [255] * 128)
    if grey is not None and not grey.getbbox():
        raise UserError("mask: nothing of it is white, so nothing would change. Paint what is to be drawn anew.")
    cut = ImageOps.fit(picture, size, Image.Resampling.LANCZOS) if _scaled(picture.size, size) else _cut(picture, size)
    if grey is not None:
        grey = ImageOps.fit(grey, size, Image.Resampling.NEAREST) if _scaled(grey.size, size) else _cut(grey, size)
    return Start(cut, grey, note)


def sides(own: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
    """Of what is drawn from a picture of size ``own``: what was asked for, else the picture's; multiples of 8.

    Raises UserError for a picture that is too small or too large to be drawn at its size.
    """
    wide, high = own
    size = (width or round(wide * (height or high) / high), height or round(high * (width or wide) / wide))
    low, most = LIMITS["width"]
    if not all(low <= side <= most for side in size):
        shown = f"{size[0]} × {size[1]} px"
        raise UserError(f"start: would be drawn at {shown}; from {low} to {most} px can be. Give width and height.")
    return size[0] // CELL * CELL, size[1] // CELL * CELL


def _scaled(own: tuple[int, int], size: tuple[int, int]) -> bool:
    return not all(0 <= side - new < CELL for side, new in zip(own, size, strict=True))


def _cut(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture that is a few pixels larger."""
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return picture.crop((left, top, left + size[0], top + size[1]))


def _note(own: tuple[int, int], size: tuple[int, int]) -> str:
    if own == size:
        return ""
    how = "scaled and cropped" if _scaled(own, size) else "cropped"
    return f"The start picture, {own[0]} × {own[1]} px, is {how} to {size[0]} × {size[1]} px (multiples of {CELL})."
