"""Fixtures of the tests that compare tensors: the embedded base, loaded once.

diffusers is imported where it is used: the process that hands out tests reads this file too, before any of them starts.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lowrank_diffusion.paths import EMBEDDED_BASE


def copied(pipeline: Any) -> Any:
    """A pipeline whose models can be changed without changing those of this one."""
    from diffusers import StableDiffusionXLPipeline

    models = {name: copy.deepcopy(getattr(pipeline, name)) for name in ("unet", "text_encoder", "text_encoder_2")}
    return StableDiffusionXLPipeline(**pipeline.components | models)


@pytest.fixture(scope="session")
def embedded() -> Any:
    """The embedded base; tests take a ``pipeline`` of their own."""
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(EMBEDDED_BASE)


@pytest.fixture
def pipeline(embedded: Any) -> Any:
    """A copy of the embedded base."""
    return copied(embedded)
