"""`evaluate` of a run of pictures: its numbers are those of the pictures that it keeps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from lowrank_diffusion.cli import main
from lowrank_diffusion.image.encoder import Encoder, find
from lowrank_diffusion.paths import EXAMPLES
from lowrank_diffusion.runs import Run

from .conftest import train

PROMPTS = ["a photo of sks cat", "a photo of a fox"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"train__steps": 3, "optimizer__lr": 1e-2, "sample__prompts": PROMPTS, "sample__steps": 2}
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
    assert "no pictures" in said("--references", str(tmp_path))[0]
    assert said("--encoder", "no where")[0].startswith("--encoder: 'no where' is neither a path that exists nor a hub")
    assert "Checkpoints: 3." in said("--step", "7")[0]
