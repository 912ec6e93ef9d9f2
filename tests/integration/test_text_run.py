"""Language models in real processes: stopped and killed runs end where an undisturbed one does; files for others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lowrank_diffusion import evaluations, presets, runs, supervisor
from lowrank_diffusion.cli import main
from lowrank_diffusion.runs import Run

from .conftest import python, wait, wait_for_step

QUESTIONS = [f"What is {n} and {m}?" for n in range(4) for m in range(5)]
SETTINGS: dict[str, Any] = {
    "task": "text", "text.length": 96, "text.answers": 2, "validation.holdout": 3, "validation.every": 10,
    "train.steps": 30, "train.accumulate": 2, "adapter.rank": 4, "adapter.hybrid_rank": 2, "adapter.dropout": 0.1,
    "flat.sigma": 0.1, "optimizer.schedule": "cosine", "optimizer.lr": 1e-2, "train.ema": 0.9, "save.every": 12,
    "train.checkpointing": True, "sample.prompts": ["What is 1 and 2?"], "sample.tokens": 4, "sample.every": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "runs"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def home(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """These tests' runs are found by name."""
    monkeypatch.setenv("LOWRANK_HOME", str(root.parent))
    return root.parent


def new_run(root: Path, base: Path) -> Run:
    rows = root.parent / "rows.jsonl"
    lines = [{"prompt": asked, "completion": f"It is {asked[8]}{asked[-2]}."} for asked in QUESTIONS]
    rows.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    given = SETTINGS | {"base.path": str(base), "data.instance": str(rows)}
    return runs.create(presets.build({}, given), "sums", root)


@pytest.fixture(scope="module")
def finished(root: Path, tiny_language: Path) -> Run:
    """Trained from beginning to end."""
    os.environ["LOWRANK_HOME"] = str(root.parent)
    run = new_run(root, tiny_language)
    supervisor.start(run)
    status = wait(run)
    assert status.state == "finished", run.log_path.read_text()[-3000:]
    return run


def test_a_finished_run_says_what_became_of_it(finished: Run):
    status = finished.status()
    assert [step for step, _ in status.losses] == list(range(1, 31))
    assert status.losses[-1][1] < status.losses[0][1] and status.validation[-1][1] < status.validation[0][1]
    assert status.measures.keys() == {"perplexity", "exact match", "tokens/s"}
    assert [step for step, _ in status.measures["exact match"]] == [0, 10, 20, 30]
    assert "17 examples" in status.notes[0] and "3 held out" in status.notes[0]
    assert [path.name for path in finished.files()] == ["sums-peft", "sums-lora-peft"]
    step, prompt, path = status.samples[-1]
    assert (step, prompt) == (30, "What is 1 and 2?") and (finished.path / path).suffix == ".txt"
    assert (finished.path / path).read_text(encoding="utf-8") is not None


def test_stopped_then_killed_it_ends_exactly_there(finished: Run, root: Path, tiny_language: Path):
    run = new_run(root, tiny_language)
    supervisor.start(run)
    wait_for_step(run, 4)
    supervisor.stop(run)
    status = wait(run)
    assert status.state == "stopped" and run.checkpoints[-1].name == f"step-{status.step:06d}"
    supervisor.start(run)
    wait_for_step(run, 15)
    process = run.process()
    assert process is not None
    process.kill()
    assert wait(run).state == "interrupted"
    supervisor.start(run)
    wait_for_step(run, 13)
    assert wait(run, ("finished", "failed")).state == "finished", run.log_path.read_text()[-3000:]
    one, other = finished.status(), run.status()
    assert one.losses == other.losses and one.rates == other.rates and one.validation == other.validation
    for name in ("perplexity", "exact match"):
        assert one.measures[name] == other.measures[name]
    for name in ("checkpoints/step-000030/state", "sums-peft/adapter_model", "sums-lora-peft/adapter_model"):
        left, right = (load_file(made.path / f"{name}.safetensors") for made in (finished, run))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


READ = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, native, plain, merged = sys.argv[1:]
ids = torch.arange(40, 64)[None]
def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.double()
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
wanted = logits(PeftModel.from_pretrained(load(base), native))
print(json.dumps({
    "plain": (logits(PeftModel.from_pretrained(load(base), plain)) - wanted).abs().max().item(),
    "merged": (logits(load(merged)) - wanted).abs().max().item(),
    "base": (logits(load(base)) - wanted).abs().max().item(),
}))
"""


def test_its_files_mean_the_same_to_programs_that_do_not_know_us(finished: Run, tiny_language: Path, tmp_path: Path):
    """GraLoRA with a hybrid part, natively, as plain LoRA and merged, read by PEFT and transformers alone."""
    assert main(["export", finished.name, "--out", str(tmp_path), "--merged", "--rank", "2"]) == 0
    merged = tmp_path / "sums-merged"
    native, plain = finished.files()
    found = python(READ, str(tiny_language), str(native), str(plain), str(merged))
    assert found["base"] > 1e-2 and found["plain"] <= 1e-5 and found["merged"] <= 1e-4
    config = json.loads((plain / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 10, 10)
    assert "q_proj" in config["target_modules"] and config["base_model_name_or_path"] == tiny_language.name
    smaller = load_file(tmp_path / "sums-r2-lora-peft" / "adapter_model.safetensors")
    assert {min(tensor.shape) for tensor in smaller.values()} == {2}
    assert (merged / "chat_template.jinja").read_text() == (plain / "chat_template.jinja").read_text()


def test_ask_and_evaluate(finished: Run, capsys: pytest.CaptureFixture[str]):
    """A base that talks nonsense is told apart from one that has learnt how its answers begin."""
    assert main(["ask", "What is 2 and 3?", "--adapter", finished.name, "--compare", "--max-tokens", "4"]) == 0
    asked = capsys.readouterr().out
    assert asked.startswith("base:\n") and "adapted:\n" in asked
    assert main(["evaluate", finished.name, "--answers", "1", "--max-tokens", "4"]) == 0
    base, adapted = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert (base[0], adapted[0]) == ("base", "adapted") and float(adapted[2]) < float(base[2])
    last = finished.status().measures["perplexity"][-1][1]
    assert float(adapted[2]) == pytest.approx(last, rel=1e-3)


def test_every_kept_adapter_is_measured_and_the_figures_are_kept(finished: Run, capsys: pytest.CaptureFixture[str]):
    arguments = ["--steps", "all", "--answers", "1", "--max-tokens", "4"]
    assert main(["evaluate", finished.name, *arguments]) == 0
    printed = capsys.readouterr().out.splitlines()[1:]
    record = evaluations.read(finished, evaluations.Texts)
    assert record is not None and record.examples == 3
    steps = [row.step for row in record.rows]
    assert steps[0] is None and steps[1:] == sorted(steps[1:]) and {12, 24, 30} <= set(steps)
    assert [line.split("  ")[0].strip() for line in printed] == ["base", *(f"step {step}" for step in steps[1:])]
    status = finished.status()
    assert status.lowest is not None
    assert [row.step for row in record.rows if row.best] == [status.lowest[0]]
    measured, validated = {row.step: row.perplexity for row in record.rows}, dict(status.measures["perplexity"])
    for step in measured.keys() & validated.keys():  # what validation said while it trained
        assert measured[step] == pytest.approx(validated[step], rel=1e-3)
    assert measured[None] == pytest.approx(validated[0], rel=1e-3) and len(measured.keys() & validated.keys()) > 0
    assert record.command.endswith(f"evaluate {finished.name} {' '.join(arguments)}")


def test_commands_of_the_other_task_say_so(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["generate", "a cat", "--adapter", finished.name, "--out", str(tmp_path)]) == 1
    assert "is a run of a language model. Use the command ask." in capsys.readouterr().err
    assert main(["ask", "x", "--temperature", "9", "--top-p", "0"]) == 1
    said = capsys.readouterr().err
    assert "--temperature: must be a number from 0 to 5, got 9.0." in said and "--top-p: must be" in said
    assert main(["ask", "x", "--adapter", str(finished.files()[0])]) == 1
    assert "--base: is needed with a folder." in capsys.readouterr().err
    assert main(["evaluate", finished.name, "--data", str(tmp_path / "gone.jsonl")]) == 1
    assert "gone.jsonl: does not exist." in capsys.readouterr().err
    assert main(["evaluate", finished.name, "--prompt", "x", "--count", "2"]) == 1
    rules = [f"--{name}: is for picture models; {finished.name} is not one." for name in ("prompt", "count")]
    assert capsys.readouterr().err.splitlines() == rules


def test_wrong_rows_and_a_wrong_base_are_told_before_there_is_a_run(
    tmp_path: Path, tiny_language: Path, capsys: pytest.CaptureFixture[str]
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "x"}\n{broken', encoding="utf-8")
    before = len(runs.all_runs())
    assert main(["train", "llm-smoke", f"data.instance={rows}", f"base.path={tiny_language / 'config.json'}"]) == 1
    said = capsys.readouterr().err
    assert f"base.path: {tiny_language / 'config.json'} is one file of a model. Give the folder around it" in said
    assert "line 1: lacks the field completion." in said and "line 2: is not valid JSON" in said
    assert len(runs.all_runs()) == before
