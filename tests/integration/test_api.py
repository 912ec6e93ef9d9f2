"""The front door: README's example runs as it stands, and what is wrong is said as on the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowrank_diffusion
from lowrank_diffusion import api, presets, runs
from lowrank_diffusion.config import ConfigError
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.runs import Run

from .conftest import TINY, train

EXAMPLE = re.search(r"## In your own code\n+```python\n(.*?)```", (PROJECT / "README.md").read_text("utf-8"), re.DOTALL)

SMALL = "train__steps=2, optimizer__warmup=0, data__resolution=64, sample__steps=2"


def test_readmes_example_runs(home: Path, tmp_path: Path):
    """With two steps of small pictures, in a folder that has the project's assets."""
    assert EXAMPLE is not None
    code, count = re.subn("train__steps=160", SMALL, EXAMPLE[1])
    assert count == 1
    (tmp_path / "assets").symlink_to(PROJECT / "assets")
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "LOWRANK_HOME": str(home)}
    command = [sys.executable, "-c", code.replace("num_inference_steps=20", "num_inference_steps=2")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("a ", "all prompts"))]
    assert len(rows) == 6 and all(re.search(r" (base|adapted) 0\.\d+ 0\.\d+$", line) for line in rows)
    sizes = [Image.open(tmp_path / name).size for name in ("whale.png", "whale-0.8.png")]
    assert sizes == [(128, 128)] * 2
    assert runs.find("icons", home / "runs").config().adapter.rank == 8


@pytest.fixture(scope="module")
def cat(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = {"sample__prompts": ["a cat"], "sample__steps": 2, "optimizer__lr": 1e-1}
    return train("cat", tmp_path_factory.mktemp("api"), **settings)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def test_load_and_draw_mean_the_same(cat: Run):
    options = {"seed": 3, "width": 64, "height": 64, "device": "cpu"}
    (adapted,) = lowrank_diffusion.draw(cat, "a cat", **options)
    (base,) = lowrank_diffusion.draw(None, "a cat", steps=2, **options)
    assert np.abs(pixels(adapted) - pixels(base)).max() > 10
    pipe = lowrank_diffusion.load(cat)
    (drawn,) = api.draw(cat, "a cat", **options)
    assert np.array_equal(pixels(drawn), pixels(adapted))
    made = pipe(
        "a cat", num_inference_steps=2, guidance_scale=5.0, width=64, height=64,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert np.abs(pixels(made) - pixels(adapted)).max() <= 2
    again = lowrank_diffusion.load(f"{cat.path}@0", pipe)
    assert again is pipe and pipe.get_list_adapters()["unet"] == ["adapter_0", "adapter_1"]


def test_what_is_wrong_is_said_at_once(cat: Run, home: Path):
    before = len(runs.all_runs())
    with pytest.raises(ConfigError) as caught:
        lowrank_diffusion.train("smoke", adapter__rnak=8, train__steps=0)
    assert [problem.key for problem in caught.value.problems] == ["adapter.rnak", "train.steps"]
    assert len(runs.all_runs()) == before
    with pytest.raises(ConfigError, match=r"^count: must be a whole number from 1 to 64, got 0\.\nwidth: "):
        lowrank_diffusion.draw(cat, "x", count=0, width=9)
    with pytest.raises(ConfigError, match=r"sed: there is no such option\. Options: base, "):
        lowrank_diffusion.draw(cat, "x", sed=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=rf"max_tokens: is for language models; {cat.name} is not one"):
        lowrank_diffusion.evaluate(cat, max_tokens=3)
    with pytest.raises(UserError, match=r"give load\(\) the model too"):
        lowrank_diffusion.load(str(cat.files()[0]))
    with pytest.raises(UserError, match=r"^adapter x@y: the strength behind '@' must be a number"):
        lowrank_diffusion.draw("x@y", "x")


def test_settings_themselves_are_a_preset(home: Path):
    run, notes = api.prepare(presets.build({}, TINY), {"train.steps": 5}, None)
    assert (run.title, run.config().train.steps, run.config().adapter.rank) == ("image", 5, 4)
    assert all(isinstance(note, str) for note in notes)


def test_a_run_that_fails_raises(home: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match=r"train\.execution: captured cannot be had"):
        lowrank_diffusion.train(presets.build({}, TINY), name="none-left", train__execution="captured")
    assert "failed after step 0" in capsys.readouterr().out


def test_a_language_model(tiny_language: Path, home: Path):
    settings = {"task": "text", "base.path": str(tiny_language), "validation.holdout": 4, "text.length": 64}
    rows = home / "rows.jsonl"
    rows.write_text("\n".join(f'{{"prompt": "{number}", "completion": "yes"}}' for number in range(40)), "utf-8")
    settings |= {"data.instance": str(rows), "train.steps": 2}
    run = lowrank_diffusion.train(presets.build({}, settings), name="lines", train__device="cpu")
    found = lowrank_diffusion.evaluate(run, device="cpu")
    assert isinstance(found, dict) and list(found) == ["base", "adapted"]
    assert all(value.perplexity > 1 and value.answered == 4 for value in found.values())
    model = lowrank_diffusion.load(run)
    assert type(model).__name__.startswith("Peft")
