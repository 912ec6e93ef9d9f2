"""What is measured further from the training pictures: corruptions, other words, stronger adapters, four bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.evidence import four_bits, held_out, outside
from benchmarks.evidence.of_pictures import OUTSIDE, Pictures
from benchmarks.evidence.training import at_strength
from lowrank_diffusion import adapters
from lowrank_diffusion.image.data import scan
from lowrank_diffusion.paths import PROJECT
from tests.parity.test_fused import settings


def test_corruptions_come_from_the_seed_and_keep_the_picture_recognisable():
    picture = Image.open(held_out.HELD_OUT / "anchor.jpg").convert("RGB")
    pixels = np.asarray(picture, dtype=float)
    for corrupt in outside.CORRUPTIONS.values():
        one, same = corrupt(picture, 1), corrupt(picture, 1)
        assert one.size == picture.size and one.tobytes() == same.tobytes() != picture.tobytes()
        changed = np.asarray(one, dtype=float)
        assert np.corrcoef(changed.ravel(), pixels.ravel())[0, 1] > 0.5
    assert outside.noise(picture, 1).tobytes() != outside.noise(picture, 2).tobytes()
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    assert np.asarray(outside.noise(grey, 0), dtype=float).std() == pytest.approx(0.18 * 255, rel=0.02)
    low = np.asarray(outside.contrast(picture, 0), dtype=float)
    assert low.std(axis=(0, 1)) == pytest.approx(0.2 * pixels.std(axis=(0, 1)), abs=0.3)  # rounded to bytes


def test_captions_in_other_words_name_the_same_thing(tmp_path):
    found = held_out.pictures(100)
    sets = held_out.further(found[:2], tmp_path)
    assert set(sets) | {name for name in OUTSIDE if name.startswith("strength")} | {"4 bits"} == set(OUTSIDE)
    assert [p.caption for p in sets["reworded"]] == [
        "an icon in 3d style of an airplane",
        "an icon in 3d style of an anchor",
    ]
    assert all(outside.reworded(p.caption) != p.caption for p in found)
    again = held_out.further(found[1:2], tmp_path / "again")["noise"][0].path
    assert sets["noise"][1].path.read_bytes() == again.read_bytes()
    learnt = {p.caption for p in scan(PROJECT / "assets" / "examples" / "style-3d-icons")}
    assert not learnt & {p.caption for p in found}
    with pytest.raises(ValueError, match="does not begin"):
        outside.reworded("a photo of a cat")


def test_a_base_in_four_bits_and_a_stronger_adapter_leave_everything_as_it_was():
    model: Any = nn.ModuleDict({"to_q": nn.Linear(64, 64), "time_embedding": nn.Linear(64, 64)})
    cfg = settings("lora").adapter.model_copy(update={"targets": ("to_q",)})
    (layer,) = adapters.attach(model, cfg, 0)
    for p in adapters.trainable(model).values():
        nn.init.normal_(p)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    delta = layer.factors().delta().clone()
    for _ in range(2):
        with four_bits.base(model):
            assert torch.equal(layer.base.weight, four_bits.nf4_rounded(before["to_q.base_layer.weight"]))
            assert torch.equal(model["time_embedding"].weight, before["time_embedding.weight"])
            assert torch.equal(layer.factors().delta(), delta)
        with at_strength(model, 1.4):
            assert torch.allclose(layer.factors().delta(), 1.4 * delta, atol=1e-5)
        with pytest.raises(RuntimeError), at_strength(model, 1.4), four_bits.base(model):
            raise RuntimeError
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_is_not_measured_changes_no_key_and_tunes_no_rate():
    assert Pictures(5).facts() == {"pictures": 5, "held_out": 100}
    assert Pictures(5, outside=True).facts() == {"pictures": 5, "held_out": 100, "outside": True}
    assert Pictures(5, outside=True).tuning() == Pictures(5)
