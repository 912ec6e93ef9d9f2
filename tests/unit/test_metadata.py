"""What an adapter's file says of itself, and what it does not."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lowrank_diffusion import hashes, paths, presets
from lowrank_diffusion.export import Exported, stored_as
from lowrank_diffusion.factors import Factors, relative_error
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.metadata import Facts, Pictures, common_metadata

CAPTIONS = ("sks Dog, red  ball", "sks dog, a lawn", "sks dog")
SIZES = ((1024, 1024), (832, 1216), (832, 1216))


def said(settings: dict[str, Any] | None = None, **facts: Any) -> dict[str, str]:
    given = {"data.instance": "/home/ann/pictures/dog", "data.trigger": "sks", "train.batch": 2, "train.steps": 30}
    cfg = presets.build({}, given | (settings or {}))
    pictures = Pictures(CAPTIONS, 20, "dog", "dogs", SIZES)
    values: dict[str, Any] = {
        "name": "rex", "base": "my-sdxl", "prediction": "epsilon", "pictures": pictures, "resolution": 1024, "step": 30,
        "loss": 0.1, "started": 1.7e9, "run": "20260101-120000-rex", "precision": "bfloat16",
    }  # fmt: skip
    return common_metadata(Facts(config=cfg, **values | facts), 32) | dict(FAMILIES["sdxl"].metadata)


def test_the_fields_that_other_programs_show():
    found = said()
    assert json.loads(found["ss_tag_frequency"]) == {"dog": {"sks dog": 3, "red ball": 1, "a lawn": 1}}, (
        "tags as A1111 counts them"
    )
    assert json.loads(found["ss_dataset_dirs"]) == {"dog": {"n_repeats": 1, "img_count": 3}}
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"dogs": {"n_repeats": 1, "img_count": 20}}
    wanted = {
        "ss_network_dim": "32", "ss_network_alpha": "32", "ss_num_train_images": "3", "ss_num_reg_images": "20",
        "ss_steps": "30", "ss_max_train_steps": "30", "ss_num_batches_per_epoch": "2", "ss_epoch": "15",
        "ss_num_epochs": "15", "ss_total_batch_size": "2", "ss_mixed_precision": "bf16", "ss_output_name": "rex",
        "ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "my-sdxl", "ss_v2": "False",
        "ss_gradient_checkpointing": "False", "ss_clip_skip": "None", "ss_enable_bucket": "False",
        "modelspec.trigger_phrase": "sks", "modelspec.prediction_type": "epsilon",
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    assert float(found["ss_training_finished_at"]) > float(found["ss_training_started_at"]) == 1.7e9
    assert int(found["ss_session_id"]) == int(said()["ss_session_id"]) != int(said(run="another")["ss_session_id"])
    assert all(isinstance(value, str) for value in found.values())


def test_repeats_are_counted_as_kohyas_scripts_count_them():
    pictures = Pictures(CAPTIONS, 0, "dog", "", SIZES, [10, 10, 2])
    fields = said(pictures=pictures)
    dirs = {"2_dog": {"n_repeats": 2, "img_count": 1}, "10_dog": {"n_repeats": 10, "img_count": 2}}
    assert json.loads(fields["ss_dataset_dirs"]) == dirs
    assert (fields["ss_num_train_images"], fields["ss_num_batches_per_epoch"], fields["ss_epoch"]) == ("22", "11", "3")
    same = said(pictures=Pictures(CAPTIONS, 0, "dog", "", SIZES, [4, 4, 4]))
    assert json.loads(same["ss_dataset_dirs"]) == {"dog": {"n_repeats": 4, "img_count": 3}}


def test_buckets_are_told_where_there_are_any():
    assert "ss_bucket_info" not in said()
    buckets = json.loads(said({"data.buckets": True})["ss_bucket_info"])["buckets"]
    assert buckets == {"0": {"resolution": [832, 1216], "count": 2}, "1": {"resolution": [1024, 1024], "count": 1}}


def test_captions_can_be_left_out():
    words = {
        "sample.prompts": ["a lawn"],
        "data.prompt": "a lawn",
        "prior.prompt": "a lawn",
        "sample.negative": "a lawn",
    }
    found = said(words | {"export.captions": False})
    assert "lawn" not in json.dumps(found) and found["ss_tag_frequency"] == "{}"
    assert "lawn" in json.dumps(said(words))


@pytest.mark.parametrize(
    "settings", [{}, {"base.path": "/home/ann/models/sdxl"}, {"prior.pictures": "C:\\Users\\ann\\x"}]
)
def test_no_path_of_the_machine_is_told(settings: dict[str, Any]):
    assert "ann" not in json.dumps(said(settings)) and "/home" not in json.dumps(said(settings))


def test_a_base_of_one_file_is_told_by_its_hashes(tmp_path: Path):
    path = tmp_path / "base.safetensors"
    content = bytes(0x100000) + b"x" * 0x20000
    path.write_bytes(content)
    found = said(base_file=path)
    assert found["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest(), "A1111 finds a base by all of its file"
    assert found["ss_sd_model_hash"] == hashlib.sha256(b"x" * 0x10000).hexdigest()[:8]
    assert not {"ss_sd_model_hash", "ss_new_sd_model_hash"} & said().keys(), "a folder has none"
    assert not {"ss_sd_model_hash", "ss_new_sd_model_hash"} & said(base_file=tmp_path / "gone").keys()


def test_a_base_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "base.safetensors"
    path.write_bytes(b"one")
    reads: list[object] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: reads.append(file) or digest(file, kind))
    first = hashes.whole(path)
    assert hashes.whole(path) == first == hashlib.sha256(b"one").hexdigest() and len(reads) == 1
    os.utime(path, ns=(1, 1))
    assert hashes.whole(path) == first and len(reads) == 2
    path.write_bytes(b"another")
    assert hashes.whole(path) == hashlib.sha256(b"another").hexdigest() and len(reads) == 3
    for kept in (paths.cache_folder() / "hashes").iterdir():
        kept.write_text("nonsense")
    assert hashes.whole(path) == hashlib.sha256(b"another").hexdigest() and len(reads) == 4


def test_a_base_that_changes_while_it_is_read_has_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "base.safetensors"
    path.write_bytes(b"one")
    digest = hashlib.file_digest

    def changed(file: Any, kind: str) -> Any:
        found = digest(file, kind)
        path.write_bytes(b"two, longer")
        return found

    monkeypatch.setattr(hashlib, "file_digest", changed)
    assert hashes.whole(path) == ""
    monkeypatch.undo()
    assert hashes.whole(path) == hashlib.sha256(b"two, longer").hexdigest()


def test_who_asks_while_a_base_is_read_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "base.safetensors"
    path.write_bytes(b"one")
    started, go_on, reads = threading.Event(), threading.Event(), []
    digest = hashlib.file_digest

    def slow(file: Any, kind: str) -> Any:
        reads.append(file)
        started.set()
        assert go_on.wait(30)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", slow)
    hashes.begin(None)
    hashes.begin(path)
    assert started.wait(30), "begin() came back while the file is being read"
    go_on.set()
    assert hashes.whole(path) == hashlib.sha256(b"one").hexdigest() and len(reads) == 1


@pytest.mark.parametrize(
    ("dtype", "precision", "stored"),
    [
        ("auto", "float32", torch.float32), ("auto", "bfloat16", torch.float16), ("auto", "float16", torch.float16),
        ("fp32", "bfloat16", torch.float32), ("fp16", "float32", torch.float16), ("bf16", "float32", torch.bfloat16),
    ],
)  # fmt: skip
def test_in_which_type_files_are_written(dtype: str, precision: str, stored: torch.dtype):
    assert stored_as(presets.build({}, {"export.dtype": dtype}), precision) == stored


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_error_of_rounding_is_that_of_the_whole_update(dtype: torch.dtype):
    torch.manual_seed(0)
    true = Factors(torch.randn(6, 40) / 50, torch.randn(30, 6) / 500)
    pair = Factors(true.a.to(dtype), true.b.to(dtype))
    wanted = (pair.b.double() @ pair.a.double() - true.b.double() @ true.a.double()).norm()
    wanted /= (true.b.double() @ true.a.double()).norm()
    assert relative_error(pair, true) == pytest.approx(float(wanted), rel=1e-6, abs=1e-12)
    note = Exported([], dtype, float(wanted)).note
    assert (note == "") == (dtype == torch.float32) and (not note or f"{float(wanted):.2%}" in note)


def test_of_nothing_the_error_is_nothing():
    zero = Factors(torch.randn(2, 3), torch.zeros(4, 2))
    assert relative_error(zero, zero) == 0
    assert relative_error(Factors(zero.a, torch.ones(4, 2)), zero) == 1
