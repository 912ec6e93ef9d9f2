"""A base model on its device: quantised on the way there, and drawing where memory is short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.image import model
from lowrank_diffusion.image.model import Base
from lowrank_diffusion.quantize import QuantizedLinear

CPU = torch.device("cpu")


def quantized(unet: torch.nn.Module) -> int:
    return sum(isinstance(module, QuantizedLinear) for module in unet.modules())


def test_the_unet_is_quantised_alone_and_in_the_pipeline_and_nothing_else_is():
    base = Base.of(BaseModelConfig(quantize="8bit"), CPU, torch.float32)
    pipeline = base.pipeline()
    assert quantized(base.part("unet")) == quantized(pipeline.unet) > 50
    assert not any(quantized(part) for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2))
    assert not quantized(Base.of(BaseModelConfig(), CPU, torch.float32).part("unet"))


class Latents:
    """A pipeline whose denoising is over: only what :func:`model.draw` does afterwards is at work."""

    def __init__(self, vae: Any, processor: Any, latents: torch.Tensor):
        self.vae, self.image_processor, self.latents = vae, processor, latents

    def __call__(self, **_options: Any) -> Any:
        return type("Output", (), {"images": self.latents})()


@pytest.mark.slow
def test_a_picture_that_does_not_fit_in_memory_whole_is_drawn_in_tiles(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "TILE", 64)
    pipeline = Base.of(BaseModelConfig(), CPU, torch.float32).pipeline()
    latents = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(0))
    drawing: Any = Latents(pipeline.vae, pipeline.image_processor, latents)
    (whole,), seen = model.draw(drawing, {}, [0]), []

    def full(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(tuple(inputs[0].shape[2:]))
        if max(seen[-1]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    pipeline.vae.decoder.register_forward_pre_hook(full)
    (tiled,) = model.draw(drawing, {}, [0])
    assert seen[0] == (16, 12) and max(max(size) for size in seen[1:]) == 8
    assert tiled.size == whole.size == (96, 128)
    difference = np.abs(np.asarray(tiled, np.float32) - np.asarray(whole, np.float32)).mean()
    assert 0 < difference < 0.5 * np.asarray(whole, np.float32).std()
