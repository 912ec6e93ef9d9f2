"""Loading a small language model, what it cannot take, the micro-batches of a run, and answers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from lowrank_diffusion import adapters
from lowrank_diffusion.adapters import AdapterError, matching_layers
from lowrank_diffusion.bases import ModelError
from lowrank_diffusion.config import BaseModelConfig, ConfigError, TextConfig
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.text import metrics
from lowrank_diffusion.text.batches import Batches
from lowrank_diffusion.text.encode import Encoded, encode, end_of_turn, prompt
from lowrank_diffusion.text.generate import TextGenerator, choose, stream
from lowrank_diffusion.text.model import CAUSAL, Base, _read_once, attention, problems
from lowrank_diffusion.text.request import Settings, violation
from lowrank_diffusion.text.rows import Message, Row
from tests import tiny_language as tiny

CPU = torch.device("cpu")
ASKED = [Message("user", "Hello")]


@pytest.fixture(scope="module")
def base(tiny_language: Path) -> Base:
    return Base.of(BaseModelConfig(path=str(tiny_language)), CPU, torch.float32)


@pytest.fixture(scope="module")
def model(base: Base) -> Any:
    return base.model()


@pytest.fixture(scope="module")
def tokenizer(base: Base) -> Any:
    return base.tokenizer()


def test_a_conversion_reads_a_file_once_and_leaves_the_library_as_it_was(tmp_path: Path):
    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with _read_once():
        assert gguf.GGUFReader(path) is gguf.GGUFReader(path)
        names = [gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) for _ in range(2)]
        assert names[0] is names[1] and names[0].get_name("model.layers.1.mlp.up_proj") == "blk.1.ffn_up"
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
    assert gguf.GGUFReader(path) is not gguf.GGUFReader(path)


def test_a_model_comes_frozen_and_a_broken_one_with_words(base: Base, model: Any, tiny_language: Path, tmp_path: Path):
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
    shutil.copytree(tiny_language, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cut.* is truncated"):
        Base.of(BaseModelConfig(path=str(tmp_path / "cut")), CPU, torch.float32).model()


def test_a_base_without_chat_template_is_offered_a_plain_one(tmp_path: Path):
    bare = Base.of(BaseModelConfig(path=str(tiny.write(tmp_path / "bare", template=None))), CPU, torch.float32)
    with pytest.raises(ConfigError, match=r"no chat template of its own. Set text.template=plain"):
        bare.tokenizer()
    assert bare.tokenizer("plain").decode(prompt(ASKED, bare.tokenizer("plain"))).endswith("### Assistant:\n")


def test_what_a_model_cannot_take(model: Any, monkeypatch: pytest.MonkeyPatch):
    assert problems(model, TextConfig(length=512)) == []
    assert "at most 512, the base's context, got 513" in str(problems(model, TextConfig(length=513))[0])
    monkeypatch.setattr(model.config, "sliding_window", 64, raising=False)
    assert "at most 64, the base's attention window" in str(problems(model, TextConfig())[0])
    assert problems(model, TextConfig(packing=False)) == []
    monkeypatch.setattr(model.config, "sliding_window", None)
    monkeypatch.setattr(type(model), "_is_stateful", True)
    assert "carries a state along the sequence" in str(problems(model, TextConfig())[0])


def test_attention_is_put_back(model: Any):
    with pytest.raises(KeyError), attention(model, CAUSAL):
        assert model.config._attn_implementation == CAUSAL
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("targets", "ends"),
    [
        ("auto", "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"),
        ("attention", "k_proj o_proj q_proj v_proj"),
        ("attention+mlp", "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"),
        ("all-linear", "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"),
        (("q_proj", "lm_head"), "lm_head q_proj"),
        (r".*\.1\.self_attn\.[qv]_proj", "q_proj v_proj"),
    ],
)
def test_targets_of_a_language_model(model: Any, targets: Any, ends: str):
    found = matching_layers(model, targets)
    assert sorted({path.rpartition(".")[2] for path in found}) == ends.split()


def encoded(lengths: list[int]) -> list[Encoded]:
    return [Encoded(tuple(range(n)), (False,) + (True,) * (n - 1)) for n in lengths]


@pytest.mark.parametrize("packing", [True, False])
def test_every_epoch_shows_every_example_once(packing: bool):
    cfg = TextConfig(length=32, packing=packing)
    batches = Batches(encoded([5, 9, 14, 20, 32, 7, 3, 11]), cfg, 1, seed=3, pad=0)
    assert batches.packs == (4 if packing else 8)
    epochs = [[batches.at(e * batches.packs + n) for n in range(batches.packs)] for e in range(3)]
    for epoch in epochs:
        assert sum(batch.count for batch in epoch) == 5 + 9 + 14 + 20 + 32 + 7 + 3 + 11 - 8
        assert {batch.ids.shape[1] for batch in epoch} == ({32} if packing else {8, 16, 24, 32})
    assert [b.ids.tolist() for b in epochs[0]] != [b.ids.tolist() for b in epochs[1]]
    again = Batches(batches.examples, cfg, 1, seed=3, pad=0)
    assert torch.equal(again.at(9).ids, batches.at(9).ids), "a function of the number, whatever was asked before"


def test_answers_are_those_of_transformers(model: Any, tokenizer: Any):
    greedy = "".join(stream(model, tokenizer, ASKED, Settings(max_tokens=12)))
    ids = torch.tensor([prompt(ASKED, tokenizer)])
    wanted = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert greedy == tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True) and greedy
    drawn = [list(stream(model, tokenizer, ASKED, Settings(2.0, 0.9, 12, seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(UserError, match=r"and the base's context 512\. Begin a new one"):
        list(stream(model, tokenizer, [Message("user", "x" * 600)], Settings()))


def test_choosing_a_token():
    logits = torch.tensor([0.1, 3.0, 2.9, -1.0]).log_softmax(0)
    generator = torch.Generator().manual_seed(0)
    assert choose(logits, Settings(), generator) == 1
    assert {choose(logits, Settings(temperature=1, top_p=0.1), generator) for _ in range(20)} == {1}
    assert {choose(logits, Settings(temperature=1, top_p=0.8), generator) for _ in range(50)} == {1, 2}
    assert [violation("seed", 1.5), violation("temperature", 0)] == [
        "must be a whole number from 0 to 4294967295, got 1.5.",
        "",
    ]


def test_rows_answered_together_are_answered_as_alone(model: Any, tokenizer: Any):
    words = ["Hi", "What is it", "Tell me all about it now", "A"]
    rows = [Row(n, (Message("user", word), Message("assistant", "yes"))) for n, word in enumerate(words)]
    found = metrics.answer(model, tokenizer, rows, 10)
    alone = ["".join(stream(model, tokenizer, row.messages[:1], Settings(max_tokens=10))) for row in rows]
    assert list(found.texts) == alone and found.exact_match == 0 and found.tokens_per_second > 0
    assert replace(found, wanted=(alone[0], "x", "y", "z")).exact_match == 0.25
    assert metrics.answerable([Row(1, text="plain"), *rows[:1], Row(3, ASKED and tuple(ASKED))]) == rows[:1]


def test_the_same_answer():
    assert metrics.same('{"a": 1, "b": [2]}', '{"b":[2],"a":1}') and not metrics.same("{a}", '{"a": 1}')
    assert metrics.same(" yes\n", "yes") and not metrics.same("Yes", "yes") and not metrics.same("1.0", "1")
    assert metrics.same('{"a": 4.0, "b": [1e2]}', '{"a": 4, "b": [100]}')
    assert metrics.same('[{"a": {"b": [1.0, {"c": -0.0}]}}]', '[{"a": {"b": [1, {"c": 0}]}}]')
    assert (
        not metrics.same('{"a": true}', '{"a": 1}')
        and not metrics.same("[0]", "[false]")
        and not metrics.same('["4"]', "[4]")
    )
    assert not metrics.same("[" * 100_000, "[1]")


def test_perplexity_is_per_token(model: Any, tokenizer: Any):
    rows = [Row(n, (Message("user", "q" * n), Message("assistant", "answer" * n))) for n in (1, 2, 5)]
    examples = [encode(row, tokenizer, "assistant", 256) for row in rows]
    total = sum(metrics.token_loss(model, [e], 0, 1) * sum(e.learn) for e in examples)
    whole = metrics.token_loss(model, examples, 0, 2)
    assert whole == pytest.approx(total / sum(sum(e.learn) for e in examples), rel=1e-5)
    assert metrics.perplexity(0.0) == 1 and metrics.perplexity(1e9) < float("inf")


def test_a_text_generator_takes_adapters_on_and_off(base: Base, tiny_language: Path, tmp_path: Path):
    generator, settings = TextGenerator(base), Settings(max_tokens=12)
    alone = list(generator.stream(ASKED, settings))
    generator.load(tiny.write_adapter(tiny_language, tmp_path / "adapter"))
    assert list(generator.stream(ASKED, settings)) != alone == list(generator.stream(ASKED, settings, adapted=False))
    generator.load(None)
    assert list(generator.stream(ASKED, settings)) == alone
    assert adapters.adapted_layers(generator._model) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"has no adapter_config\.json"):
        generator.load(tmp_path / "empty")
    generator.release()
    assert end_of_turn(generator.tokenizer) == generator.tokenizer.eos_token_id
