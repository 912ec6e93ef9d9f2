"""`understand` on a tiny run of the embedded base, and of a language model that is smaller still."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lowrank_diffusion
from lowrank_diffusion import evaluations, understanding
from lowrank_diffusion.cli import main
from lowrank_diffusion.evaluations import Flatness, Spectra
from lowrank_diffusion.paths import EMBEDDED_BASE
from lowrank_diffusion.runs import Run

from .conftest import train


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("understand")


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    settings = {"train__steps": 4, "optimizer__lr": 1e-2, "validation__holdout": 2, "validation__every": 2}
    return train("plain", root, **settings, adapter__kind="lora", save__every=2)


@pytest.fixture(scope="module")
def other(root: Path) -> Run:
    """With text encoders, on everything that it has: nothing is held out."""
    return train("wide", root, train__steps=2, optimizer__lr=1e-2, adapter__text_encoders="attention")


@pytest.fixture(scope="module")
def language(root: Path, tiny_language: Path) -> Run:
    rows = root / "rows.jsonl"
    lines = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(9)]
    rows.write_text("\n".join(map(json.dumps, lines)))
    given = {"task": "text", "base.path": str(tiny_language), "data.instance": str(rows), "text.length": 64}
    given |= {"data.resolution": None, "adapter.rank": 2, "validation.holdout": 3, "validation.every": 5}
    settings = {key.replace(".", "__"): value for key, value in given.items()}
    return train("sums", root, **settings, train__steps=10, optimizer__lr=1e-2)


def test_without_noise_the_loss_is_that_of_validation(run: Run, other: Run, capsys: pytest.CaptureFixture[str]):
    arguments = ["understand", str(run.path), str(other.path), "--flatness", "--sigmas", "0,0.3", "--draws", "2"]
    assert main(arguments) == 0
    record = evaluations.read(run, Flatness)
    assert record is not None and (record.sigmas, record.draws, record.examples) == ((0.0, 0.3), 2, 2)
    assert record.held_out and [curve.run for curve in record.curves] == ["", run.name, other.name]
    validated = dict(run.status().validation)
    still, adapted = (curve.losses[0][0] for curve in record.curves[:2])
    assert still == pytest.approx(validated[0], rel=1e-4) and adapted == pytest.approx(validated[4], rel=1e-4)
    for curve in record.curves:
        assert [len(row) for row in curve.losses] == [1, 2]
        assert len({value for row in curve.losses for value in row}) == 3
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("loss on 2 held-out examples, noise on ") and len(printed) == 5
    assert evaluations.read(other, Flatness) is None
    assert record.command.endswith("--flatness --sigmas 0,0.3 --draws 2")


def test_where_nothing_is_held_out_training_pictures_are_measured(other: Run):
    measured = lowrank_diffusion.flatness(other, sigmas=[0], examples=3)
    assert not measured.held_out and measured.examples == 3
    base, adapted = (curve.losses[0][0] for curve in measured.curves)
    assert base != adapted


def test_spectra_are_those_of_the_files_products(run: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["understand", str(run.path), "--spectra"]) == 0
    record = evaluations.read(run, Spectra)
    assert record is not None and record.step is None
    file = load_file(run.files()[0])
    base = load_file(EMBEDDED_BASE / "unet" / "diffusion_pytorch_model.safetensors")
    assert len(record.layers) == len(file) // 2 == len(capsys.readouterr().out.splitlines()) - 2
    for layer in record.layers:
        down, up = (file[f"{layer.path}.lora_{side}.weight"].double() for side in "AB")
        values = torch.linalg.svdvals(up @ down)[: len(layer.values)]  # alpha = rank
        assert layer.values == pytest.approx(values.tolist(), rel=1e-4, abs=1e-9)
        assert layer.norm == pytest.approx(float((up @ down).norm()), rel=1e-4)
        weight = base[f"{layer.path.removeprefix('unet.')}.weight"].double()
        assert layer.base == pytest.approx(float(weight.norm()), rel=1e-3)
    blocks = list(dict.fromkeys(layer.block for layer in record.layers))
    assert blocks == sorted(blocks, key=lambda block: (block[:1] != "d", block != "mid", block))
    assert {layer.kind for layer in record.layers} == {"to_q", "to_k", "to_v", "to_out"}


def test_a_file_of_another_program_needs_no_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Its own base is not at hand, so sizes are absolute only; SDXL's layers are known without a weight."""
    file = tmp_path / "theirs.safetensors"
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
    down, up = torch.randn(4, 2048), torch.randn(1280, 4)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    save_file(tensors, file)
    (layer,) = lowrank_diffusion.spectra(file).layers
    assert (layer.block, layer.kind, layer.rank, layer.base) == ("mid", "to_k", 4, None)
    assert layer.values == pytest.approx(torch.linalg.svdvals(up.double() @ down.double())[:4] / 2, rel=1e-5)
    assert main(["understand", str(file)]) == 0
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k" in capsys.readouterr().out
    assert main(["understand", str(run.files()[1]), "--spectra"]) == 0, "a run's own file brings its base"
    assert "%" in capsys.readouterr().out


def test_language_models_too(language: Run):
    plan = understanding.flatness_plan([str(language.path)], {"sigmas": "0,0.5", "draws": 2})
    measured = plan.measure()
    validated = dict(language.status().validation)
    base, adapted = (curve.losses[0][0] for curve in measured.curves)
    assert base == pytest.approx(validated[0], rel=1e-4) and adapted == pytest.approx(validated[10], rel=1e-4)
    spectra = understanding.spectra_plan(str(language.path), {}).measure()
    assert {layer.block for layer in spectra.layers} == {"layer 0", "layer 1"}
    assert "q_proj" in {layer.kind for layer in spectra.layers} and all(layer.base for layer in spectra.layers)


def test_what_cannot_be_measured_is_refused_at_once(run: Run, language: Run, capsys: pytest.CaptureFixture[str]):
    def said(*arguments: str) -> str:
        assert main(["understand", *arguments]) == 1
        return capsys.readouterr().err

    wrong = said(str(run.path), "--flatness", "--draws", "0", "--examples", "0", "--sigmas", "0,x")
    assert [line.split(":")[0] for line in wrong.splitlines()] == ["--draws", "--examples", "--sigmas"]
    assert "have not been trained on the same base" in said(str(run.path), str(language.path), "--flatness")
    assert "give each once" in said(str(run.path), str(run.path), "--flatness")
    assert "there is no such file" in said("gone.safetensors", "--spectra")
    assert "--base: is for a file" in said(str(run.path), "--spectra", "--base", "embedded")
    assert "There is no run 'nobody'" in said("nobody")
