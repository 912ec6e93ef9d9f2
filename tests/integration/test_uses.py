"""Repeats, weights, frames and masks in training on the embedded base, and in runs that stop and go on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lowrank_diffusion import preflight, supervisor
from lowrank_diffusion.errors import DataError
from lowrank_diffusion.image import crops, model
from lowrank_diffusion.image.data import scan
from lowrank_diffusion.runs import Run
from trainers import fingerprint
from trainers.dreambooth import DreamBooth

from .conftest import make_run, train, wait, wait_for_step
from .test_buckets import BUCKETS, PRIOR, fill

CPU = torch.device("cpu")
SHAPES = [(120, 72), (64, 64), (70, 120), (99, 101)]
ROWS: list[dict[str, Any]] = [{}, {"repeats": 3}, {"weight": 0.5, "mask": "masks/2.png"}, {"frame": [0, 0.5, 1, 1]}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures: plain, seen three times, masked and light, framed."""
    pictures = fill(tmp_path / "pictures", SHAPES)
    (pictures / "masks").mkdir()
    mask = Image.new("L", SHAPES[2], 0)
    mask.paste(255, (0, 25, SHAPES[2][0], 60))
    mask.save(pictures / "masks" / "2.png")
    write(pictures, ROWS)
    return pictures


def write(pictures: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"a thing {i}"} | row) for i, row in enumerate(rows)]
    (pictures / "metadata.jsonl").write_text("\n".join(lines))


def prepare(root: Path, pictures: Path, **settings: object) -> DreamBooth:
    run = make_run("task", root, data__instance=str(pictures), data__resolution=64, **settings)
    return DreamBooth(run, run.config(), CPU, torch.float32, lambda *_: None)


def which(task: DreamBooth, latent: torch.Tensor) -> int:
    """The picture that a latent is of."""
    distinct = list({id(variants): variants for variants in task.data.instances}.values())
    alike = {i: v[0].mean for i, v in enumerate(distinct) if v[0].mean.shape == latent.shape}
    return min(alike, key=lambda i: float((alike[i] - latent).abs().mean()))


@pytest.mark.parametrize("settings", [{}, {"data__buckets": True, "data__bucket_step": 16}])
def test_an_epoch_sees_a_picture_as_often_as_it_says(folder: Path, tmp_path: Path, settings: dict[str, Any]):
    task = prepare(tmp_path, folder, **settings)
    assert len(task.data.instances) == len(task.data.sizes) == 6
    seen = Counter[int]()
    for step in range(12):
        batch = task.batch(step, 0)
        seen[which(task, batch.latents[0])] += 1
    assert seen == {0: 2, 1: 6, 2: 2, 3: 2}, "two epochs"
    assert task.data.trained_on.repeats == [1, 3, 1, 1]


def test_weights_and_masks_are_in_the_batch_and_in_the_loss(folder: Path, tmp_path: Path):
    task = prepare(tmp_path, folder, train__batch=2)
    for step in range(6):
        batch = task.batch(step, 0)
        assert batch.mask is not None and batch.mask.shape == (2, 1, 8, 8) and batch.count == 2
        for place in range(2):
            picture = which(task, batch.latents[place])
            assert float(batch.weights[place]) == (0.5 if picture == 2 else 1)
            assert ((batch.mask[place] == 1).all()) == (picture != 2)
        noised = task.objective.noised(batch.latents, batch.noise, batch.timesteps)
        with torch.no_grad():
            predicted = task.predict(noised, batch)
            losses, _ = task.loss(batch)
        target = task.objective.target(batch.latents, batch.noise, batch.timesteps)
        error = task.objective.weight(batch.timesteps)[:, None] * (predicted - target).square().mean(1).flatten(1)
        share = batch.mask.flatten(1)
        expected = batch.weights * (error * share).sum(1) / share.sum(1)
        assert torch.allclose(losses, expected, rtol=1e-5)


def test_without_masks_there_is_none_in_a_batch(folder: Path, tmp_path: Path):
    assert prepare(tmp_path, folder, loss__mask_outside=1).batch(0, 0).mask is None
    write(folder, [{}, {}, {"file_name": "2.png"}, {}])
    assert prepare(tmp_path, folder).batch(0, 0).mask is None


def test_class_pictures_are_not_masked_and_held_out_ones_are(folder: Path, tmp_path: Path):
    task = prepare(tmp_path, folder, train__batch=2, validation__holdout=1, seed=1, **PRIOR)
    for step in range(4):
        batch = task.batch(step, 0)
        assert batch.mask is not None and (batch.mask[2:] == 1).all() and batch.weights[2:].tolist() == [0.5, 0.5]
    seeds = [prepare(tmp_path, folder, validation__holdout=1, seed=seed) for seed in range(12)]
    masked = next(task for task in seeds if not (task.data.held_out[0][0].mask == 1).all())
    with torch.no_grad():
        loss = masked.validate()
        assert loss is not None and loss == masked.validate()
        (example,) = masked.data.held_out[0]
        example.mask.copy_(1 - example.mask)
        assert masked.validate() != loss


def test_masks_are_in_no_key_and_frames_are(folder: Path, tmp_path: Path):
    task = prepare(tmp_path, folder)
    known = {}
    for name in ("with", "without"):
        (chosen,) = crops.fit(scan(folder)[2:3], [(64, 64)], task.cfg.data, 0)
        known[name] = model.latent_key(task.base.key, chosen[0], task.cfg.data)
        write(folder, [{}, {}, {}, {}])
    assert known["with"] == known["without"]
    framed = [crops.fit(scan(folder)[3:], [(64, 64)], task.cfg.data, 0)[0][0]]
    write(folder, ROWS)
    framed += [crops.fit(scan(folder)[3:], [(64, 64)], task.cfg.data, 0)[0][0]]
    assert len({model.latent_key(task.base.key, crop, task.cfg.data) for crop in framed}) == 2


def test_what_changed_of_a_picture_is_named(folder: Path, tmp_path: Path):
    before = prepare(tmp_path, folder).content()
    assert before["pictures"]["1.png (repeats)"] == "3" and before["pictures"]["2.png (weight)"] == "0.5"
    Image.new("L", (70, 120), 255).save(folder / "masks" / "2.png")
    write(folder, [{"weight": 2}, {}, {"weight": 0.5, "mask": "masks/2.png"}, {"frame": [0, 0.4, 1, 1]}])
    after = prepare(tmp_path, folder).content()
    facts: dict[str, Any] = {"settings": {}, "machine": {}, "base": ""}
    said = "; ".join(fingerprint.compared(facts | before, facts | after).noted)
    for part in ("1.png (repeats) is gone", "0.png (weight) is new", "2.png (mask), 3.png (frame) are changed"):
        assert part in said, said


def test_a_mask_that_leaves_nothing_is_refused_before_the_start(folder: Path, tmp_path: Path):
    mask = Image.new("L", SHAPES[2], 0)
    mask.paste(255, (0, 0, SHAPES[2][0], 10))  # above the square in the middle
    mask.save(folder / "masks" / "2.png")
    refusal = "2.png: has a mask that is black wherever the picture is looked at. Give it a frame"
    run = make_run("task", tmp_path, data__instance=str(folder))
    (problem,) = preflight.look(run.config()).problems
    assert problem.key == "data.instance" and refusal in problem.rule
    with pytest.raises(DataError, match="has a mask that is black"):
        prepare(tmp_path, folder)
    for settings in ({"loss__mask_outside": 0.1}, {"data__buckets": True, "data__bucket_step": 16}):
        run = make_run("task", tmp_path, data__instance=str(folder), data__resolution=64, **settings)
        assert preflight.look(run.config()).problems == []
    batch = prepare(tmp_path, folder, loss__mask_outside=0.1).batch(0, 0)
    assert batch.mask is not None


def test_a_masked_run_goes_on_to_the_bit(folder: Path, tmp_path: Path):
    settings: dict[str, Any] = {
        "data__instance": str(folder), "train__steps": 8, "train__batch": 2, "data__flip": True, "save__every": 3,
        "validation__holdout": 1, "validation__every": 4, **BUCKETS,
    }  # fmt: skip
    runs = [make_run(name, tmp_path / "runs", **settings) for name in ("whole", "parts")]
    supervisor.start(runs[0])
    assert wait(runs[0]).state == "finished", runs[0].log_path.read_text()[-3000:]
    supervisor.start(runs[1])
    wait_for_step(runs[1], 3)
    supervisor.stop(runs[1])
    status = wait(runs[1])
    if status.state == "stopped":
        supervisor.start(runs[1])
        assert wait(runs[1], ("finished", "failed")).state == "finished", runs[1].log_path.read_text()[-3000:]
    one, other = (run.status() for run in runs)
    assert one.losses == other.losses and one.validation == other.validation and len(one.losses) == 8
    left, right = (end(run) for run in runs)
    assert all(torch.equal(left[key], right[key]) for key in left) and left.keys() == right.keys()
    assert np.isfinite([loss for _, loss in one.losses]).all()


def test_two_processes_do_what_one_does_with_twice_the_window(folder: Path, tmp_path: Path):
    settings: dict[str, Any] = {
        "data__instance": str(folder), "data__resolution": 64, "train__steps": 4, "train__device": "cpu",
    }  # fmt: skip
    pair = train("pair", tmp_path / "runs", **settings, train__gpus=2)
    one = train("one", tmp_path / "runs", **settings, train__accumulate=2)
    losses = [[loss for _, loss in run.status().losses] for run in (pair, one)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def end(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.files()[0])
