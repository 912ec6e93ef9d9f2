"""The loss on tokens: chunks, masks of other attentions, accumulation and the fast step change no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from lowrank_diffusion import adapters, plan, presets, runs
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.text import loss as text_loss
from lowrank_diffusion.text import metrics
from lowrank_diffusion.text.encode import Encoded
from lowrank_diffusion.text.loss import sequence_losses, token_losses
from lowrank_diffusion.text.model import Base
from lowrank_diffusion.text.packing import IGNORED, collate
from trainers.fast import FastStep
from trainers.llm import LanguageModel
from trainers.step import Step

CPU = torch.device("cpu")
ROWS = "\n".join(
    f'{{"prompt": "What is {n} and {m}?", "completion": "{n + m} it is{"!" * (n % 5)}"}}'
    for n in range(4, 9)
    for m in (3, 15)
)


@pytest.fixture(scope="module")
def model(tiny_language: Path) -> Any:
    """In float64; only the output layer's weights have gradients."""
    found: Any = Base.of(BaseModelConfig(path=str(tiny_language)), CPU, torch.float64).model()
    found.lm_head.weight.requires_grad_(True)
    return found


@pytest.fixture(scope="module")
def packed() -> Any:
    """Two sequences of several examples, with filling."""
    rows = [Encoded(tuple(range(5 * n, 6 * n)), (False, *[i % 3 != 0 for i in range(n - 1)])) for n in (9, 14, 6, 11)]
    return collate([rows[:2], rows[2:]], 26, pad=1)


def by_hand(model: Any, batch: Any) -> torch.Tensor:
    """Every example alone, token by token."""
    sums = []
    for ids, labels, segments in zip(batch.ids, batch.labels, batch.segments, strict=True):
        total = torch.zeros((), dtype=torch.float64)
        for number in range(1, int(segments.max()) + 1):
            own = segments == number
            logits, wanted = model(input_ids=ids[own][None], use_cache=False).logits[0], labels[own]
            places = [place for place in range(1, len(wanted)) if wanted[place] != IGNORED]
            total = total + sum(cross_entropy(logits[place - 1], wanted[place]) for place in places)
        sums.append(total)
    return torch.stack(sums)


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize(("attention", "near"), [("sdpa", 1e-10), ("eager", 1e-7)])  # the second's softmax is float32
def test_packed_sequences_in_chunks_by_any_attention(
    model: Any, packed: Any, attention: str, near: float, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(text_loss, "CHUNK", chunk)
    wanted = by_hand(model, packed)
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), [model.lm_head.weight])
    model.set_attn_implementation(attention)
    found = sequence_losses(model, packed.ids, packed.labels, packed.positions, packed.segments)
    (grad,) = torch.autograd.grad(found.sum(), [model.lm_head.weight])
    model.set_attn_implementation("sdpa")
    assert found.shape == (2,)
    torch.testing.assert_close(found, wanted, rtol=near, atol=near)
    torch.testing.assert_close(grad, wanted_grad, rtol=near, atol=near)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padded_sequence_needs_no_mask(model: Any, attention: str):
    row = Encoded(tuple(range(40, 52)), (False, *[True] * 11))
    alone, padded = collate([[row]], 12, pad=1), collate([[row]], 20, pad=1)
    model.set_attn_implementation(attention)
    found = sequence_losses(model, padded.ids, padded.labels)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, by_hand(model, alone), rtol=1e-10, atol=1e-10)


def test_all_logits_as_a_gpu_has_them_give_the_same(model: Any, packed: Any):
    from lowrank_diffusion.text.packing import mask

    logits = model(
        input_ids=packed.ids, attention_mask=mask(packed.segments), position_ids=packed.positions, use_cache=False
    ).logits
    targets = torch.nn.functional.pad(packed.labels[:, 1:], (0, 1), value=IGNORED)
    some = sequence_losses(model, packed.ids, packed.labels, packed.positions, packed.segments)
    torch.testing.assert_close(token_losses(logits, targets), some, rtol=1e-12, atol=1e-12)


def test_half_precision_logits_are_summed_in_float32():
    logits, targets = torch.randn(1, 5, 7).bfloat16(), torch.tensor([[1, IGNORED, 6, 0, 2]])
    found = token_losses(logits, targets)
    assert found.dtype == torch.float32
    wanted = cross_entropy(logits[0].float(), targets[0], ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(found[0], wanted)


def task(folder: Path, base: Path, **settings: Any) -> tuple[LanguageModel, Any]:
    """A task on a few rows, in float32 on the CPU; keyword names have '__' for '.'."""
    data = folder / "rows.jsonl"
    data.write_text(ROWS, encoding="utf-8")
    given = {
        "task": "text", "base.path": str(base), "data.instance": str(data), "text.length": 64, "adapter.rank": 4,
        "optimizer.lr": 1e-2, "train.precision": "fp32",
    }  # fmt: skip
    cfg = presets.build({}, given | {key.replace("__", "."): value for key, value in settings.items()})
    run = runs.create(cfg, "parity", folder)
    return LanguageModel(run, cfg, CPU, torch.float32, lambda *_: None, lambda _: None), cfg


def trained(state: Step, steps: int = 2) -> tuple[list[float], dict[str, torch.Tensor]]:
    losses = [result.loss for step in range(steps) for result in [state(step)]]
    return losses, {name: value.detach().clone() for name, value in state.parameters.items()}


def assert_equal(one: Any, other: Any) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=0, atol=3e-4, msg=name)


@pytest.mark.parametrize("packing", [True, False])
def test_accumulation_counts_tokens(tiny_language: Path, tmp_path: Path, packing: bool):
    """Two micro-batches of one sequence do what one of two does, however different their numbers of targets are."""
    built = [
        task(tmp_path, tiny_language, text__packing=packing, train__batch=batch, train__accumulate=2 // batch)
        for batch in (1, 2)
    ]
    counts = {built[0][0].batch(0, micro).count for micro in (0, 1)}
    assert len(counts) == 2, "the micro-batches must differ in their targets for this to say anything"
    one, other = (trained(Step(made, cfg, CPU, torch.float32)) for made, cfg in built)
    assert_equal(one, other)


@pytest.mark.parametrize("packing", [True, False])
def test_the_fast_step_takes_these_batches(tiny_language: Path, tmp_path: Path, packing: bool):
    plain, fast = (task(tmp_path, tiny_language, text__packing=packing) for _ in range(2))
    eager = trained(Step(*plain, CPU, torch.float32))
    assert_equal(trained(FastStep(*fast, CPU, torch.float32, plan.forced(fast[1], "compiled"))), eager)


def test_a_batch_is_a_function_of_seed_and_step(tiny_language: Path, tmp_path: Path):
    made, _ = task(tmp_path, tiny_language)
    first = [made.batch(step, 0) for step in (0, 1, 7)]
    again = [made.batch(step, 0) for step in (7, 0, 1)]
    for one, other in zip(first, [again[1], again[2], again[0]], strict=True):
        assert torch.equal(one.ids, other.ids) and torch.equal(one.labels, other.labels)
    assert not torch.equal(first[0].ids, first[2].ids)


def test_only_the_first_held_out_rows_are_scored_where_that_is_asked_for(tiny_language: Path, tmp_path: Path):
    made, _ = task(tmp_path, tiny_language, validation__holdout=3, text__scored=2)
    first = metrics.token_loss(made.model, made.data.held_out[:2], made.pad, 64)
    every = metrics.token_loss(made.model, made.data.held_out, made.pad, 64)
    assert made.validate() == first != every


@pytest.mark.parametrize("quantize", ["8bit", "nf4"])
def test_a_quantised_base_trains(tiny_language: Path, tmp_path: Path, quantize: str):
    """A GraLoRA adapter, with and without Flat-LoRA, over 8 and 4 bits; the frozen numbers stay as they are."""
    pytest.importorskip("bitsandbytes")
    made, cfg = task(tmp_path, tiny_language, base__quantize=quantize, flat__sigma=0.1, train__batch=2)
    frozen = {name: p.detach().clone() for name, p in made.model.named_parameters() if not p.requires_grad}
    losses, _ = trained(Step(made, cfg, CPU, torch.float32), steps=4)
    assert losses[-1] < losses[0]
    after = dict(made.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert adapters.adapted_layers(made.model)[0].base.weight.dtype in (torch.int8, torch.uint8)
