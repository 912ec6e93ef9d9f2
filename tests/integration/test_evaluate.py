"""`evaluate` of a run of pictures: its numbers are those of the pictures that it keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import lowrank_diffusion
from lowrank_diffusion import cli_image, evaluations
from lowrank_diffusion.api import EvaluateOptions
from lowrank_diffusion.cli import main
from lowrank_diffusion.image.encoder import Encoder, find
from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import Run

from .conftest import train

PROMPTS = ["a photo of sks cat", "a photo of a fox"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"train__steps": 3, "optimizer__lr": 1e-2, "sample__prompts": PROMPTS, "sample__steps": 2}
    settings |= {"save__every": 1, "validation__holdout": 2, "validation__every": 1}
    return train("cat", tmp_path_factory.mktemp("evaluate"), **settings)


def figures(printed: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(prompt, base or adapted) -> the two numbers."""
    found, prompt = {}, ""
    for line in printed.splitlines()[1:]:
        if match := re.fullmatch(r"  (base|adapted) +to the references (\S+)  to the prompt (\S+)", line):
            found[prompt, match[1]] = (float(match[2]), float(match[3]))
        else:
            prompt = line
    return found


def test_pictures_are_kept_and_measured(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kept = tmp_path / "new" / "kept"
    assert main(["evaluate", str(run.path), "--count", "2", "--seed", "5", "--out", str(kept)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"{run.name}: pictures of each prompt 2, references 7, encoder embedded"
    told = figures(printed)
    assert list(told) == [(prompt, kind) for prompt in [*PROMPTS, "all prompts"] for kind in ("base", "adapted")]

    encoder = Encoder(find("embedded"), torch.device("cpu"))
    references = encoder.embed([Image.open(path) for path in sorted((EXAMPLES / "subject-cat").glob("*.png"))])
    assert len(list(kept.iterdir())) == 8
    for index, prompt in enumerate(PROMPTS):
        for kind in ("base", "adapted"):
            paths = [kept / f"{index}-{prompt.replace(' ', '-')}-seed{seed}-{kind}.png" for seed in (5, 6)]
            seen = encoder.embed([Image.open(path) for path in paths])
            expected = (float((seen @ references.T).mean()), float((seen @ encoder.read([prompt]).T).mean()))
            assert told[prompt, kind] == pytest.approx(expected, abs=6e-4)
    for kind in ("base", "adapted"):
        means = [sum(told[prompt, kind][k] for prompt in PROMPTS) / 2 for k in (0, 1)]
        assert told["all prompts", kind] == pytest.approx(means, abs=2e-3)
    assert told["all prompts", "base"] != told["all prompts", "adapted"]


def test_prompts_and_references_of_ones_own(run: Run, capsys: pytest.CaptureFixture[str]):
    own = ["--prompt", "a photo of a fox", "--references", str(EXAMPLES / "style-3d-icons"), "--count", "1"]
    assert main(["evaluate", str(run.path), *own]) == 0
    printed = capsys.readouterr().out
    assert "pictures of each prompt 1, references 20, encoder embedded" in printed
    assert [prompt for prompt, _ in figures(printed)] == ["a photo of a fox"] * 2 + ["all prompts"] * 2


def test_every_kept_adapter_is_measured_and_the_figures_are_kept(run: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(run.path), "--count", "1", "--steps", "all"]) == 0
    printed = capsys.readouterr().out
    record = evaluations.read(run, evaluations.Pictures)
    assert record is not None and (record.count, record.references, record.encoder) == (1, 7, "embedded")
    kept = sorted({adapter.step or 3 for adapter in run.adapters()})
    for prompt in [*PROMPTS, ""]:
        assert [row.step for row in record.rows if row.prompt == prompt] == [None, *kept]
    lowest = run.status().lowest
    assert lowest is not None
    assert {row.step for row in record.rows if row.best} == {lowest[0]}
    assert printed.count("lowest validation loss") == 3
    assert record.command == f"python -m lowrank_diffusion evaluate {run.name} --steps all --count 1"
    assert len({row.references for row in record.rows if not row.prompt}) == len(kept) + 1

    # one alone gives the same: unloading the others and drawing the base once change nothing
    rows = {(row.prompt, row.step): row for row in record.rows}
    first = lowrank_diffusion.evaluate(run, count=1, steps=str(kept[0]))
    assert isinstance(first, list)
    for row in first:
        same = rows[row.prompt, row.step]
        assert (row.references, row.words) == pytest.approx((same.references, same.words), abs=1e-6)


def test_references_are_cut_to_what_is_learnt_of_them(run: Run, tmp_path: Path):
    source = EXAMPLES / "subject-cat" / "cat-angry.png"
    (tmp_path / "cat.png").write_bytes(source.read_bytes())
    row = {"file_name": "cat.png", "text": "a cat", "frame": [0.0, 0.25, 0.5, 1.0]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    given = dict.fromkeys(EvaluateOptions.__annotations__) | {"device": "auto", "precision": "auto"}
    (reference,) = cli_image.evaluation(run, given | {"references": tmp_path}).references
    whole = Image.open(source)
    assert reference.size == (whole.width // 2, round(whole.height * 0.75))


def test_bad_questions_are_answered_before_anything_is_drawn(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def said(*arguments: str) -> list[str]:
        assert main(["evaluate", str(run.path), *arguments]) == 1
        return capsys.readouterr().err.splitlines()

    assert said("--count", "0", "--seed", "-1") == [
        "--count: must be a whole number from 1 to 64, got 0.",
        "--seed: must be a whole number from 0 to 4294967295, got -1.",
    ]
    assert said("--data", "x", "--max-tokens", "3") == [
        f"--data: is for language models; {run.name} is not one.",
        f"--max-tokens: is for language models; {run.name} is not one.",
    ]
    assert said("--steps", "3", "--step", "3")[0].startswith("--step: cannot be given beside --steps.")
    assert "no pictures" in said("--references", str(tmp_path))[0]
    assert said("--encoder", "no where")[0].startswith("--encoder: 'no where' is neither a path that exists nor a hub")
    assert "Kept steps: 3, 2, 1." in said("--step", "7")[0]
