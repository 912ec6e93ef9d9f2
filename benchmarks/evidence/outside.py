"""What is further from the training pictures: corruptions of pictures, and captions in other words."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

Corruption = Callable[[Image.Image, int], Image.Image]
"""Of an RGB picture, by a seed; the result has the same size."""


def noise(picture: Image.Image, seed: int) -> Image.Image:
    """Gaussian noise with a standard deviation of 0.18 of the range, another one at every place and channel."""
    pixels = _fractions(picture)
    return _picture(pixels + np.random.default_rng(seed).normal(0, 0.18, pixels.shape))


def blur(picture: Image.Image, _seed: int) -> Image.Image:
    """A Gaussian of 3 pixels of 224, so of 1.7 where a side has 128."""
    return picture.filter(ImageFilter.GaussianBlur(3 * max(picture.size) / 224))


def contrast(picture: Image.Image, _seed: int) -> Image.Image:
    """A fifth of the contrast, around the mean of each channel."""
    pixels = _fractions(picture)
    mean = pixels.mean(axis=(0, 1))
    return _picture(mean + 0.2 * (pixels - mean))


def jpeg(picture: Image.Image, _seed: int) -> Image.Image:
    """Quality 15."""
    content = BytesIO()
    picture.save(content, "JPEG", quality=15)
    return Image.open(content).convert("RGB")


CORRUPTIONS: dict[str, Corruption] = {"noise": noise, "blur": blur, "contrast": contrast, "JPEG": jpeg}
"""At severity 3 of the 5 of ImageNet-C (arXiv 1903.12261)."""


def reworded(caption: str) -> str:
    """The same in other words: "a 3d icon of an anchor" becomes "an icon in 3d style of an anchor".

    Raises ValueError for a caption of another form.
    """
    match = re.fullmatch(r"a 3d icon of (.+)", caption)
    if not match:
        raise ValueError(f"{caption!r} does not begin with 'a 3d icon of '")
    return f"an icon in 3d style of {match[1]}"


def _fractions(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) float64, 0 to 1."""
    return np.asarray(picture.convert("RGB"), dtype=np.float64) / 255


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
