"""Runs in which the text encoders matter, from pictures to checkpoints, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lowrank_diffusion import runs
from tests.parity.test_text_encoders import CPU, begin, config
from trainers import checkpoint
from trainers.dreambooth import DreamBooth
from trainers.fast import FastStep
from trainers.step import Step


@pytest.mark.parametrize("kind", ["none", "attention"])
def test_a_run_learns_long_captions_whole(tmp_path: Path, kind: str):
    """What the second half of a caption says reaches the loss, and the samples; without chunks it does not."""
    long = "a 3d icon of " + "very " * 20 + "big {}"
    losses = {}
    for chunks in (1, 2):
        for thing in ("cat", "whale"):
            folder = tmp_path / f"{chunks} {thing}"
            folder.mkdir()
            Image.new("RGB", (128, 128), (200, 40, 90)).save(folder / "a.png")
            prompt = long.format(thing)
            cfg = config(
                adapter__text_encoders=kind, optimizer__text_encoder_lr=None, data__caption_chunks=chunks,
                data__instance=str(folder), data__prompt=prompt, validation__holdout=0, sample__prompts=(prompt,),
            )  # fmt: skip
            run = runs.create(cfg, "long", tmp_path)
            told: list[Any] = []
            task = DreamBooth(run, run.config(), CPU, torch.float32, lambda *_: None, told.append)
            batch = task.batch(0, 0)
            losses[chunks, thing] = float(task.loss(batch)[0].sum().detach())
            tokens = task.condition(batch).tokens
            assert tokens.shape[1] == 30 * chunks + 2
            assert any("longer than the 30 tokens" in note.message for note in told) == (chunks == 1)
            if thing == "cat":
                assert len(task.sample(0)) == 1
    assert losses[1, "cat"] == losses[1, "whale"] and losses[2, "cat"] != losses[2, "whale"]


@pytest.mark.parametrize("kind", [Step, FastStep])
def test_goes_on_from_a_checkpoint_to_the_bit(tmp_path: Path, kind: type[Step]):
    states = [begin(tmp_path / name, kind) for name in ("whole", "first", "second")]
    whole, first, second = states
    run = first.task.run  # type: ignore[attr-defined]
    losses = [whole(step).loss for step in range(4)]
    assert [first(step).loss for step in range(2)] == losses[:2]
    checkpoint.save(run, first)
    assert checkpoint.load(run.checkpoints[-1], second) == 2
    assert [second(step).loss for step in range(2, 4)] == losses[2:]
    assert all(torch.equal(p, second.parameters[name]) for name, p in whole.parameters.items())
