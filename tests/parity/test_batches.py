"""What a micro-batch of DreamBooth holds, as a function of (seed, step)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import sdxl
from lowrank_diffusion import presets

CPU = torch.device("cpu")


def task(**settings: Any) -> Any:
    torch.manual_seed(0)
    unet: Any = sdxl.build(CPU, torch.float32, tiny=True)
    chosen = {"adapter.rank": 4, "adapter.targets": tuple(sdxl.TARGETS), "train.batch": 4}
    cfg = presets.build({}, chosen | {name.replace("__", "."): value for name, value in settings.items()})
    return sdxl.CachedDreamBooth(unet, cfg, sdxl.inputs(unet, 4, 64))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_captions_are_dropped_as_often_as_asked_and_nothing_else_changes(share: float):
    plain, dropping = task(), task(data__caption_dropout=share)
    dropped = 0
    for step in range(60):
        whole, batch, again = plain.batch(step, 0), dropping.batch(step, 0), dropping.batch(step, 0)
        tokens, pooled = dropping.condition(batch).tensors
        gone = (tokens == 0).all(2).all(1)
        assert torch.equal(gone, (pooled == 0).all(1)) and torch.equal(tokens, dropping.condition(again).tokens)
        assert torch.equal(tokens[~gone], whole.tokens[~gone])
        assert torch.equal(pooled[~gone], whole.pooled[~gone])
        for name in ("latents", "noise", "timesteps", "framing", "weights"):
            assert torch.equal(getattr(batch, name), getattr(whole, name)), name
        dropped += int(gone.sum())
    assert abs(dropped / 240 - share) < 4 * (share * (1 - share) / 240) ** 0.5
    assert tokens.dtype == whole.tokens.dtype


def test_class_pictures_keep_their_captions():
    dropping = task(data__caption_dropout=0.9)
    dropping.data.classes = {dropping.data.instances[0][0].size: dropping.data.instances}
    for step in range(5):
        gone = (dropping.condition(dropping.batch(step, 0)).pooled == 0).all(1)
        assert len(gone) == 8 and gone[:4].any() and not gone[4:].any()
