"""Drawing: adapters in static tensors against PEFT's own layers, and the logic around captured calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.peft_utils import set_adapter_layers, set_weights_and_activate_adapters
from torch import Tensor

from benchmarks import sdxl
from lowrank_diffusion import adapters
from lowrank_diffusion.config import AdapterConfig
from lowrank_diffusion.image import replay
from lowrank_diffusion.image.replay import ORDINARY_CALLS, Replay
from tests.adapter_kinds import EXAMPLES, adapter

ATTENTION = ["to_q", "to_v", "to_out.0"]
CONVOLUTIONS = ["conv1", "conv_shortcut"]
SEVERAL = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # several are meant
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def build(device: str = "cpu", dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return sdxl.build(torch.device(device), dtype, tiny=True).eval().requires_grad_(False)


def add(unet: Any, name: str, rank: int, targets: list[str] = ATTENTION, **options: Any) -> None:
    """An adapter with weights that are not zero, as a file would bring it."""
    unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, **options), name)
    for key, parameter in unet.named_parameters():
        if f".{name}." in key:
            parameter.data = torch.randn_like(parameter) * 0.1
    unet.requires_grad_(False)


def use(unet: Any, **strengths: float) -> None:
    """What a pipeline's set_adapters does."""
    set_adapter_layers(unet, enabled=bool(strengths))
    if strengths:
        set_weights_and_activate_adapters(unet, list(strengths), list(strengths.values()))


@torch.no_grad()
def call(unet: Any, batch: int = 1, side: int = 64, seed: int = 0) -> Tensor:
    """A call as the pipeline makes it."""
    torch.manual_seed(seed)
    data = sdxl.inputs(unet, batch, side)
    added = {"text_embeds": data.pooled, "time_ids": data.time_ids}
    timestep = torch.tensor(100.0 + seed, device=unet.device)
    return unet(
        data.latents, timestep, encoder_hidden_states=data.tokens, timestep_cond=None, cross_attention_kwargs=None,
        added_cond_kwargs=added, return_dict=False,
    )[0]  # fmt: skip


def through(held: Replay, **options: int) -> Tensor:
    with held.active():
        return call(held.model, **options)


CHOICES: list[dict[str, float]] = [
    {"one": 1.0}, {"one": -0.5}, {"two": 0.7}, {"one": 0.3, "two": 1.5}, {"wide": 1.0}, {}, {"two": 1.0, "one": 1.0},
]  # fmt: skip


@pytest.mark.slow
@SEVERAL
def test_static_adapters_do_what_pefts_layers_do():
    unet = build()
    add(unet, "one", 4)
    add(unet, "two", 3, [*ATTENTION, *CONVOLUTIONS])
    add(unet, "wide", 12, CONVOLUTIONS)
    held, seen = Replay(unet), []
    with torch.no_grad():
        bare = call(build())
    for strengths in CHOICES:
        use(unet, **strengths)
        expected = call(unet)
        found = through(held)
        assert not held.adapters.obstacle
        assert torch.equal(call(unet), expected), "PEFT's layers are back"
        assert torch.equal(found, bare) if not strengths else not torch.allclose(found, bare, atol=1e-3)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        seen.append(held.adapters.layout)
    assert seen == [1, 1, 2, 2, 3, 0, 3], "a layout is left only for more layers or a larger rank"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_static_adapters_do_what_an_adapter_in_training_does(kind: str):
    unet = build()
    adapters.attach(unet, adapter(EXAMPLES[kind]), 0)
    for parameter in adapters.trainable(unet).values():
        parameter.data = torch.randn_like(parameter) * 0.1
    torch.testing.assert_close(through(Replay(unet)), call(unet), atol=2e-5, rtol=1e-4)


def test_what_a_pair_cannot_say_runs_as_peft_runs_it():
    unet = build()
    add(unet, "dora", 4, use_dora=True)
    held = Replay(unet)
    expected = call(unet)
    assert torch.equal(through(held), expected)
    assert "adapter of another kind" in held.adapters.obstacle


class Recorder:
    """Takes the place of CUDA's capture on a machine without: the same static inputs and result, run again."""

    def __init__(self) -> None:
        self.captured = self.launched = 0
        self.error: Exception | None = None

    def __call__(self, work: Callable[[], Tensor], _pool: Any) -> tuple[Callable[[], None], Tensor]:
        if self.error:
            raise self.error
        self.captured += 1
        output = work()

        def launch() -> None:
            self.launched += 1
            output.copy_(work())

        return launch, output


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(replay, "capture", recorder)
    monkeypatch.setattr(replay, "pool", object)
    return recorder


def capturing(unet: Any) -> Replay:
    held = Replay(unet)
    held.own_obstacle = ""  # as on CUDA
    return held


def test_a_shape_is_captured_after_its_first_calls_and_gets_new_inputs_every_time(recorder: Recorder):
    unet = build()
    held = capturing(unet)
    for number in range(ORDINARY_CALLS + 3):
        assert torch.equal(through(held, seed=number), call(unet, seed=number))
    assert (recorder.captured, recorder.launched) == (1, 3)
    first = through(held, seed=1)
    through(held, seed=2)
    assert torch.equal(first, call(unet, seed=1)), "a result is not written again by the next call"
    for number in range(ORDINARY_CALLS + 1):
        assert torch.equal(through(held, batch=2, seed=number), call(unet, batch=2, seed=number))
    assert (recorder.captured, held.graphs) == (2, 2)


@SEVERAL
def test_switching_and_rescaling_adapters_captures_nothing_new(recorder: Recorder):
    unet = build()
    add(unet, "one", 4)
    add(unet, "two", 4)
    held = capturing(unet)
    for strengths in [{"one": 1.0}] * 3 + [{"two": 0.5}, {"one": 0.2, "two": -1.0}] + [{}] * 3 + [{"one": 1.0}]:
        use(unet, **strengths)
        torch.testing.assert_close(through(held), call(unet), atol=2e-5, rtol=1e-4)
    assert recorder.captured == 2, "with adapters, and without"
    add(unet, "wide", 20)
    use(unet, wide=1.0)
    torch.testing.assert_close(through(held), call(unet), atol=2e-5, rtol=1e-4)
    assert held.graphs == 1, "the graph of the smaller tensors is gone, the base's is not"


def test_a_capture_that_fails_is_said_and_the_picture_drawn(recorder: Recorder):
    unet = build()
    held = capturing(unet)
    for _ in range(ORDINARY_CALLS + 1):
        through(held)
    assert held.graphs == 1
    recorder.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    for _ in range(ORDINARY_CALLS + 2):
        assert torch.equal(through(held, batch=2), call(unet, batch=2))
    assert held.graphs == 0 and held.obstacle == "memory is short"
    assert not held.release(), "nothing is held any more"


def test_calls_of_another_kind_are_left_alone(recorder: Recorder):
    unet = build()
    held = capturing(unet)
    with held.active():
        for _ in range(ORDINARY_CALLS + 1):
            with torch.enable_grad():
                data = sdxl.inputs(unet, 1, 64)
                added = {"text_embeds": data.pooled, "time_ids": data.time_ids}
                unet(data.latents, torch.tensor(1.0), data.tokens, added_cond_kwargs=added).sample.sum()
    assert recorder.captured == 0
    assert "forward" not in vars(unet)


@contextmanager
def only_ordinary(held: Replay) -> Iterator[None]:
    """The same kernels without graphs."""
    held.release("asked for")
    yield
    held.own_obstacle = ""


@CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graphs_give_the_very_bits_of_ordinary_calls(dtype: torch.dtype):
    unet = build("cuda", dtype)
    add(unet, "one", 4)
    add(unet, "two", 3, [*ATTENTION, *CONVOLUTIONS])
    held = Replay(unet)
    cases = [
        (choice, batch) for choice in ({"two": 1.0}, {"one": 0.5}, {"one": 1.0, "two": -0.3}, {}) for batch in (1, 2)
    ]
    expected = []
    with only_ordinary(held):
        for choice, batch in cases:
            use(unet, **choice)
            expected.append(through(held, batch=batch))
    for _ in range(ORDINARY_CALLS + 2):
        for (choice, batch), wanted in zip(cases, expected, strict=True):
            use(unet, **choice)
            assert torch.equal(through(held, batch=batch), wanted)
    assert not held.obstacle and held.graphs == 4, "two batch sizes, with adapters and without"
    peft_own = []
    for choice, batch in cases:
        use(unet, **choice)
        peft_own.append(call(unet, batch=batch))
    for wanted, found in zip(peft_own, expected, strict=True):
        assert (wanted - found).abs().max() <= (5e-3 if dtype == torch.float32 else 0.1) * wanted.abs().max()


@CUDA
def test_an_adapter_in_training_is_drawn_from_graphs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it rounds like half precision
    unet = build("cuda")
    layers = adapters.attach(unet, AdapterConfig(kind="gralora", rank=4, k=2), 0)
    for layer in layers:
        layer.module.to("cuda")
    for round_ in range(2):
        for parameter in adapters.trainable(unet).values():
            parameter.data = torch.randn_like(parameter) * 0.1
        held = Replay(unet)
        for number in range(ORDINARY_CALLS + 2):
            expected = call(unet, seed=number)
            torch.testing.assert_close(through(held, seed=number), expected, atol=1e-4, rtol=1e-3)
        assert held.graphs == 1, (round_, held.obstacle)
        assert held.release()
