"""Packed examples: nothing is lost, and a model learns from them what it learns from each alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from lowrank_diffusion import seeds
from lowrank_diffusion.text.encode import Encoded
from lowrank_diffusion.text.packing import IGNORED, collate, mask, pack

WORDS, SIZE = 61, 24


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Two layers in float64, with grouped heads as real models have them."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=WORDS, hidden_size=32, intermediate_size=64, **heads, attn_implementation="sdpa")
    return LlamaForCausalLM(config).double().eval()


def examples(lengths: list[int]) -> list[Encoded]:
    drawn = seeds.generator(0, 0, "packing")
    ids = [torch.randint(WORDS, (length,), generator=drawn).tolist() for length in lengths]
    learn = [(torch.rand(length, generator=drawn) < 0.6).tolist() for length in lengths]
    return [Encoded(tuple(one), tuple(other)) for one, other in zip(ids, learn, strict=True)]


def loss(model, batch, seen) -> torch.Tensor:
    """Sum over the targets."""
    inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "attention_mask": seen}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def test_loss_and_gradients_are_those_of_the_examples_alone(model):
    rows = examples([9, 3, 12, 24, 1, 5, 8, 2])
    apart = torch.zeros((), dtype=torch.float64)
    targets = 0
    for row in rows:
        ids = torch.tensor([row.ids])
        labels = torch.where(torch.tensor([row.learn]), ids, IGNORED)[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        apart = apart + cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        targets += int((labels != IGNORED).sum())
    expected = torch.autograd.grad(apart, list(model.parameters()))
    order = pack([len(row.ids) for row in rows], SIZE)
    batch = collate([[rows[index] for index in sequence] for sequence in order], SIZE, pad=7)
    assert len(order) == 3 and batch.count == targets
    together = loss(model, batch, mask(batch.segments))
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-10)
    for one, other in zip(torch.autograd.grad(together, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_without_packing_a_causal_mask_is_enough(model):
    """Filling stands at the end; positions without a jump keep transformers from looking for packed sequences."""
    batch = collate([[row] for row in examples([9, 24, 3])], SIZE, pad=0)
    assert torch.equal(batch.positions, torch.arange(SIZE).expand(3, SIZE))
    plain, masked = loss(model, batch, None), loss(model, batch, mask(batch.segments))
    assert torch.isfinite(plain)
    torch.testing.assert_close(plain, masked, rtol=1e-12, atol=1e-12)


def test_a_batch_token_by_token():
    one, two = Encoded((5, 6, 7), (True, False, True)), Encoded((8, 9), (False, True))
    batch = collate([[one, two], [two]], 6, pad=1)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 1], [8, 9, 1, 1, 1, 1]]
    assert batch.labels.tolist() == [[-100, -100, 7, -100, 9, -100], [-100, 9, -100, -100, -100, -100]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]]
    assert batch.count == 3.0
    seen = mask(batch.segments)
    assert seen.shape == (2, 1, 6, 6) and seen.dtype == torch.bool
    assert seen[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    with pytest.raises(ValueError, match="sequence 0 has more than 4 tokens"):
        collate([[one, two]], 4, pad=1)


def test_best_fit_by_hand():
    """5 and 4 open two sequences of 6; each 2 goes where it fits best; the 1s fill up."""
    assert pack([2, 5, 4, 1, 2, 1], 6) == [[1, 3], [2, 0], [4, 5]]
    assert pack([], 6) == []
    for bad in (0, 7):
        with pytest.raises(ValueError, match=f"lengths must be 1 to 6, got {bad}"):
            pack([3, bad], 6)


@pytest.mark.parametrize("case", range(20))
def test_packing_keeps_every_example_once_and_wastes_little(case):
    drawn = seeds.generator(case, 0, "lengths")
    lengths = torch.randint(1, 101, (200,), generator=drawn).tolist()
    order = pack(lengths, 100)
    assert sorted(index for sequence in order for index in sequence) == list(range(200))
    assert all(sum(lengths[index] for index in sequence) <= 100 for sequence in order)
    fewest = -(-sum(lengths) // 100)
    assert len(order) <= 11 / 9 * fewest + 4
    assert order == pack(lengths, 100)
