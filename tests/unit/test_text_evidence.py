"""The text experiments: rows made from a seed, four bits in plain torch, and whole runs on a tiny model."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.evidence import four_bits, text_rows, texts, training, wordnet
from benchmarks.evidence.__main__ import main
from benchmarks.evidence.design import Experiment, job
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.of_texts import Texts
from lowrank_diffusion import adapters, presets
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.errors import DataError
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.text import metrics
from lowrank_diffusion.text.model import Base

TEXTS = [name for name, experiment in EXPERIMENTS.items() if isinstance(experiment.data, Texts)]


def base_of(folder: Path) -> Base:
    return Base.of(BaseModelConfig(path=str(folder)), torch.device("cpu"), torch.float32)


def quick(name: str, folder: Path) -> Experiment:
    experiment = EXPERIMENTS[name]
    assert isinstance(experiment.data, Texts)
    return replace(experiment, data=experiment.data.here(str(folder))).quick()


def test_orders_come_from_a_seed_and_what_scores_is_never_learnt(tiny_language):
    tokenizer, data = base_of(tiny_language).tokenizer(), Texts("orders", 50, outside=True)
    one, same, other = (text_rows.orders(data, seed, tokenizer, 1000) for seed in (1, 1, 2))
    assert one == same and one.learnt != other.learnt and one.scoring == other.scoring and one.outside == other.outside
    assert (len(one.learnt), len(one.validation), len(one.scoring)) == (50, 30, 70)
    sets = [{row.ids for row in rows} for rows in (one.learnt, one.validation, one.scoring, *one.outside.values())]
    assert sum(map(len, sets)) == len(set().union(*sets))  # no two have a row in common
    assert all(any(row.learn) for rows in (one.learnt, *one.outside.values()) for row in rows)


def test_typing_errors_change_the_question_and_not_what_is_copied_from_it(tiny_language):
    rows = text_rows.read(PROJECT / "assets" / "examples" / "llm-orders" / "held_out.jsonl")
    for row in rows:
        system, asked, answer = text_rows.misspelt(row).messages
        assert (system, answer) == (row.messages[0], row.messages[2]) and asked != row.messages[1]
        order = json.loads(answer.content)
        assert order["name"] in asked.content and (order["note"] or "").lower() in asked.content.lower()
        assert all(item["item"][:-1] in asked.content.lower() for item in order["items"])


def test_longer_orders_have_more_items_than_any_that_is_learnt():
    for row in text_rows.longer_orders(50):
        items = json.loads(row.messages[2].content)["items"]
        assert len(items) in (3, 4) and all(item["item"][:-1] in row.messages[1].content.lower() for item in items)


def test_facts_come_from_a_seed_and_only_their_codes_are_learnt(tiny_language):
    tokenizer, data = base_of(tiny_language).tokenizer(), Texts("facts", 1000)
    rows, other = (text_rows.facts(data, seed, tokenizer, 64) for seed in (1, 2))
    assert rows == text_rows.facts(data, 1, tokenizer, 64) and rows.learnt != other.learnt
    pairs = text_rows.pairs(1000, 1)
    assert len({key for key, _ in pairs}) == 1000 and text_rows.BITS == pytest.approx(28.2026, abs=1e-4)
    for (key, code), row in zip(pairs, rows.learnt, strict=True):
        targets = [token for token, learn in zip(row.ids, row.learn, strict=True) if learn]
        assert tokenizer.decode(list(row.ids)) == f"The code of {key} is {code}"
        assert tokenizer.decode(targets) == f" {code}"


def test_four_bits_in_plain_torch_are_those_of_the_project():
    pytest.importorskip("bitsandbytes")
    from lowrank_diffusion.quantize import QuantizedLinear

    torch.manual_seed(0)
    layer = nn.Linear(192, 32, bias=False)
    layer.weight.data[3, :64] = 0  # a block without any
    expected = QuantizedLinear(layer, "nf4", torch.device("cpu")).dequantized()
    assert torch.allclose(four_bits.nf4_rounded(layer.weight.detach()), expected, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_flat_overfit", "text_gralora_facts16"])
def test_a_run_learns_and_leaves_the_base_as_it_was(name: str, tiny_language):
    experiment = quick(name, tiny_language)
    model, _ = texts._loaded(str(tiny_language), "cpu", torch.float32)
    before = {path: value.clone() for path, value in model.state_dict().items()}
    one = job(name, experiment, "LoRA", 900, 5e-2)
    run, again = training.train(one), training.train(one)
    assert all(torch.equal(before[path], value) for path, value in model.state_dict().items())
    assert run["measures"] == again["measures"] and run["key"] == one.key
    base, *_, last = run["measures"]
    assert [row["step"] for row in run["measures"]] == [0, *experiment.measured] and last["scoring"] < base["scoring"]
    wanted = {"scoring", "validation", *experiment.also}
    assert wanted <= set(base) and {f"{measure} at 0.75" for measure in wanted} <= set(last)
    assert str(tiny_language) not in json.dumps(run) and run["model"] == tiny_language.name


def test_what_is_measured_is_the_trainers_own_loss_and_what_greedy_decoding_says(tiny_language):
    one = job("text_flat_overfit", quick("text_flat_overfit", tiny_language), "LoRA", 900)
    model, tokenizer = texts._loaded(str(tiny_language), "cpu", torch.float32)
    assert isinstance(one.data, Texts) and one.data.outside
    rows = text_rows.orders(one.data, 900, tokenizer, 512)
    cfg = presets.build({}, one.settings | {"base.path": str(tiny_language)})
    task = texts.Task(cfg, torch.device("cpu"), copy.deepcopy(model), tokenizer, rows.learnt)
    found = texts.Measure(task, rows, in_four_bits=True)()
    assert found["scoring"] == pytest.approx(metrics.token_loss(task.model, rows.scoring, task.pad, 1024), rel=1e-5)
    assert found["longer"] == pytest.approx(metrics.token_loss(task.model, rows.outside["longer"], task.pad, 1024))
    assert found["4 bits"] != found["scoring"] and found["exact"] == 0


def test_another_base_is_another_run_and_its_place_is_not():
    data = Texts("orders", 50)
    experiment = EXPERIMENTS["text_flat_overfit"]
    keys = {
        job("x", replace(experiment, data=which), "LoRA", 900).key
        for which in (data, replace(data, path="/elsewhere"), replace(data, model="other"), replace(data, rows=40))
    }
    assert len(keys) == 3


def database(folder: Path) -> Path:
    """WordNet's, of 120 definitions; two of them stand in two files, and one is too long."""
    folder.mkdir()
    for file, kind in (("noun", 5), ("verb", 38), ("adj", 0), ("adv", 2)):
        lines = [f'{n:08d} {kind:02d} x 01 word 0 000 | thing {n} of {kind}; "an example"  ' for n in range(30)]
        if kind > 30:
            twice = [f"0 {30 - n} v 01 a 0 000 | thing {n} of 5" for n in (1, 2)]
            lines[:3] = [*twice, "0 31 v 0 | " + "a" * 201]
        (folder / f"data.{file}").write_text("  1 The licence.\n" + "\n".join(lines) + "\n")
    return folder


def test_definitions_are_read_with_their_files_and_no_held_out_one_is_learnt(tiny_language, tmp_path):
    folder = database(tmp_path / "wordnet")
    every = wordnet.definitions(folder)
    assert len(every) == len({said for said, _ in every}) == 30 - 2 + 27 + 30 + 30
    assert every[0] == ("thing 0 of 5", "noun.animal") and ("thing 7 of 38", "verb.motion") in every
    assert len(wordnet.NAMES) == 45 and wordnet.NAMES[2] == "adv.all" and wordnet.NAMES[44] == "adj.ppl"
    tokenizer = base_of(tiny_language).tokenizer()
    rows = text_rows.glosses(Texts("glosses", 60, held_out=20, wordnet=str(folder)), 1, tokenizer, 64)
    sets = [{row.ids for row in part} for part in (rows.learnt, rows.validation, rows.scoring)]
    assert [len(part) for part in sets] == [60, 6, 14] and sum(map(len, sets)) == len(set().union(*sets))
    with pytest.raises(DataError, match=r"has no data\.noun"):
        wordnet.definitions(tmp_path)


@pytest.mark.slow
def test_the_command_makes_a_quick_report(tiny_language, tmp_path):
    name = "text_gralora_glosses16"
    words = [sys.executable, "-m", "benchmarks.evidence", name, "--quick", "--model", str(tiny_language)]
    words += ["--wordnet", str(database(tmp_path / "wordnet"))]
    done = subprocess.run([*words, "--out", str(tmp_path)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / f"{name}.md").read_text()
    assert "Primary measure: mean negative log-likelihood of an answer's token of the scoring definitions" in said
    assert "| exact | GraLoRA k 2 |" in said and "Unfinished" not in said


@pytest.mark.parametrize("name", TEXTS)
def test_every_experiment_can_be_made_quickly(name: str, tiny_language):
    """Its settings are ones that the project takes, also where the model is small."""
    experiment = quick(name, tiny_language)
    for arm in (arm for arm, what in EXPERIMENTS[name].arms.items() if not what.like):
        full = job(name, EXPERIMENTS[name], arm, 900)
        small = job(name, replace(EXPERIMENTS[name], data=experiment.data, measured=experiment.measured), arm, 900)
        assert presets.build({}, full.settings).adapter.kind == presets.build({}, small.settings).adapter.kind
        model, _ = texts._loaded(str(tiny_language), "cpu", torch.float32)
        assert adapters.attach(copy.deepcopy(model), presets.build({}, small.settings).adapter, 0)


def test_pictures_have_no_language_model(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evidence", "flat_usual", "--model", "x"])
    with pytest.raises(SystemExit, match="is of pictures"):
        main()
