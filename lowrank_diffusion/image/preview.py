"""A small picture of what is being drawn, cheap enough to be shown while it is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SMALLER = 4
"""A preview's side is this part of the picture's: it costs a sixteenth of decoding it."""
SHARE = 0.05
"""Of the time of drawing, for previews."""


class Preview:
    """Decodes the latents that a step leaves, as often as the share of time allows.

    The mean of 4 x 4 latents holds a quarter of their noise, so that shapes are seen long before the last step. Of a
    batch the first picture is shown. Nothing here is captured in a CUDA graph: it runs between the calls of the
    denoiser.

    Args:
        pipeline: Its VAE decodes.
        show: What is given the pictures.
    """

    def __init__(self, pipeline: Any, show: Callable[[Image.Image], None]) -> None:
        self._pipeline, self._show = pipeline, show
        self._cost, self._last = 0.0, time.monotonic()

    def step(self, latents: Tensor) -> None:
        """``latents`` (B, C, h, w) after a step; shown if it is time to."""
        now = time.monotonic()
        if now - self._last < max(self._cost / SHARE, 0.3):
            return
        self._show(self.picture(latents))
        self._last = time.monotonic()
        self._cost = self._last - now

    @torch.no_grad()
    def picture(self, latents: Tensor) -> Image.Image:
        """RGB, a quarter of the picture's sides; noise that is left is brought to the strength of a picture's."""
        vae = self._pipeline.vae
        small = functional.avg_pool2d(latents[:1].float(), SMALLER, ceil_mode=True)
        small = small / small.std().clamp(min=1.0)
        small = small.to(vae.device, vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        decoded = vae.decode(small).sample.cpu()
        (picture,) = self._pipeline.image_processor.postprocess(decoded, output_type="pil")
        return picture
