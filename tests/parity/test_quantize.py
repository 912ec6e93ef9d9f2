"""Quantised layers against a product with their own dequantised weight, and that against the weight it stands for."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import sdxl
from lowrank_diffusion import adapters
from lowrank_diffusion.config import ConfigError
from lowrank_diffusion.flat import Flat
from lowrank_diffusion.noise import normals_reference
from lowrank_diffusion.quantize import QuantizedLinear, quantize
from tests.adapter_kinds import EXAMPLES, adapter

CPU = torch.device("cpu")
ERRORS = {"8bit": 0.009, "nf4": 0.1}
"""Largest relative error (Frobenius) of normal weights: steps of 1/127 of a row's largest; 16 values."""


def linear(n: int = 128, m: int = 192, dtype: torch.dtype = torch.float32, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n, m, bias=bias, dtype=dtype)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_back_close_in_their_own_dtype_from_a_fraction_of_the_memory(kind: str, dtype: torch.dtype):
    layer = linear(dtype=dtype)
    layer.weight.data.normal_()
    packed = QuantizedLinear(layer, kind, CPU)
    weight = packed.dequantized()
    assert weight.dtype == dtype and weight.shape == layer.weight.shape
    error = (weight.float() - layer.weight.float()).norm() / layer.weight.float().norm()
    assert 0 < error < ERRORS[kind] + torch.finfo(dtype).eps
    bits = 8 * (packed.weight.nbytes + packed.scales.nbytes) / layer.weight.numel()
    assert bits == pytest.approx({"8bit": 8 + 32 / 128, "nf4": 4.5}[kind])


@pytest.mark.parametrize("kind", ERRORS)
def test_zeros_stay_zeros_and_a_large_row_spoils_no_other(kind: str):
    layer = linear(bias=False)
    layer.weight.data[0], layer.weight.data[1] = 0, 1e4
    weight = QuantizedLinear(layer, kind, CPU).dequantized()
    assert weight[0].eq(0).all()
    assert torch.allclose(weight[1], layer.weight[1])
    assert (weight[2:] - layer.weight[2:]).norm() / layer.weight[2:].norm() < ERRORS[kind]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_are_those_of_the_dequantised_weight_which_is_not_kept(kind: str, bias: bool):
    layer = QuantizedLinear(linear(bias=bias), kind, CPU)
    x = torch.randn(2, 3, 128, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y = layer(x)
    wanted = nn.functional.linear(x, layer.dequantized(), layer.bias)
    assert torch.equal(y, wanted) and not kept
    grad = torch.randn_like(y)
    assert torch.allclose(*torch.autograd.grad([y], x, grad), *torch.autograd.grad([wanted], x, grad), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_compiled_blocks_share_one_graph():
    """As the fast step compiles them: weights are inputs of the graph, not constants of it."""
    blocks = nn.Sequential(*[nn.Sequential(linear(64, 64), nn.GELU(), linear(64, 64)) for _ in range(3)])
    quantize(blocks, "nf4", CPU)
    x = torch.randn(5, 64, requires_grad=True)
    wanted = blocks(x)
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for block in blocks:
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    y = blocks(x)
    assert torch.equal(y, wanted) and counter.frame_count < len(blocks)
    assert torch.equal(*torch.autograd.grad([y.sum()], x), *torch.autograd.grad([wanted.sum()], x))


@pytest.mark.parametrize("kind", ERRORS)
def test_of_a_unet_all_linear_layers_but_those_of_time_are_quantised(kind: str):
    unet = sdxl.build(CPU, torch.float32, tiny=True)
    linears = [path for path, layer in unet.named_modules() if isinstance(layer, nn.Linear)]
    data = sdxl.inputs(unet, 2, 64)
    times, said = torch.tensor([1, 500]), {"text_embeds": data.pooled, "time_ids": data.time_ids}
    with torch.no_grad():
        plain = unet(data.latents, times, data.tokens, added_cond_kwargs=said).sample
        quantize(unet, kind, CPU)
        packed = unet(data.latents, times, data.tokens, added_cond_kwargs=said).sample
    for path in linears:
        kept = any(name in path for name in ("time_embedding", "time_emb_proj", "add_embedding"))
        assert isinstance(unet.get_submodule(path), QuantizedLinear) != kept, path
    assert 0 < (packed - plain).norm() / plain.norm() < 2 * ERRORS[kind]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_v, self.lm_head = linear(64, 64), linear(64, 32, bias=False), linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.to_v(torch.tanh(self.to_q(x))))


TARGETS = ("to_q", "to_v")
KINDS = {name: adapter(settings | {"adapter.targets": TARGETS}) for name, settings in EXAMPLES.items()}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("family", KINDS)
def test_adapters_and_flat_lora_work_on_quantised_layers_as_on_their_dequantised_weights(kind: str, family: str):
    packed, plain = Block(), Block()
    quantize(packed, kind, CPU)
    assert type(packed.lm_head) is nn.Linear
    for name in ("to_q", "to_v"):
        plain.get_submodule(name).weight.data = packed.get_submodule(name).dequantized()  # type: ignore[union-attr]
    sides: list[Any] = []
    x = torch.randn(4, 7, 64, generator=torch.Generator().manual_seed(1))
    for model in (packed, plain):
        before = model(x)
        layers = adapters.attach(model, KINDS[family], seed=0)
        assert torch.equal(model(x), before)  # the identity at first
        for number, parameter in enumerate(adapters.trainable(model).values()):
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        flatness = Flat(model, layers, 0.3, 10, seed=3)
        with flatness.perturbed(6):
            out = model(x)
            out.square().mean().backward()
        grads = {name: parameter.grad for name, parameter in adapters.trainable(model).items()}
        sides.append((out, grads, adapters.native(model), [draw.scale for draw in flatness.draws(6)]))
    (out, grads, (tensors, config), scales), (wanted, wanted_grads, exported, wanted_scales) = sides
    assert torch.allclose(out, wanted, atol=1e-6) and grads.keys() == wanted_grads.keys()
    assert all(torch.allclose(grads[name], wanted_grads[name], atol=1e-6) for name in grads)
    assert all(torch.allclose(one, other) for one, other in zip(scales, wanted_scales, strict=True))
    assert config == exported[1] and all(torch.equal(tensors[name], exported[0][name]) for name in exported[0])
    assert len(tensors) == len(exported[0])


def test_flat_lora_perturbs_what_is_dequantised():
    model = Block()
    quantize(model, "nf4", CPU)
    layers = adapters.attach(model, KINDS["lora"], seed=0)
    flatness, x = Flat(model, layers, 0.3, 10, seed=3), torch.randn(5, 64)
    draw = flatness.draws(6)[0]
    sigma = 0.3 * (1 - math.cos(math.pi * 6 / 10)) / 2
    assert torch.allclose(draw.scale, layers[0].base_weight().norm(dim=1) * sigma / math.sqrt(64), rtol=1e-5)
    with flatness.perturbed(6):
        perturbed = layers[0].base(x)
    assert draw.place.before == 0
    rows = layers[0].base.out_features
    eps = draw.scale[:, None] * normals_reference((rows, 64), draw.seed, draw.step, draw.place.unit)
    weight = layers[0].base_weight() + eps
    assert torch.allclose(perturbed, nn.functional.linear(x, weight, layers[0].base.bias), atol=1e-6)


def test_none_changes_nothing_and_what_cannot_work_says_why(monkeypatch: pytest.MonkeyPatch):
    model = Block()
    assert quantize(model, "none", CPU) is model and type(model.to_q) is nn.Linear
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"base\.quantize: nf4 does not work on cpu here: .*bitsandbytes.* Take 8bit"):
        quantize(model, "nf4", CPU)
    assert type(model.to_q) is nn.Linear


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ERRORS)
def test_on_a_gpu_layers_come_one_at_a_time_and_can_be_captured(kind: str):
    cuda = torch.device("cuda")
    one = nn.Linear(2048, 2048, dtype=torch.bfloat16)
    model = nn.Sequential(*[nn.Linear(2048, 2048, dtype=torch.bfloat16) for _ in range(8)])
    on_cpu = QuantizedLinear(model[0], kind, CPU).dequantized()  # type: ignore[arg-type]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    quantize(model, kind, cuda)
    packed = torch.cuda.memory_allocated() - before
    assert packed < (1.1 if kind == "8bit" else 0.6) * 8 * one.weight.numel()
    assert torch.cuda.max_memory_allocated() - before < packed + 8 * one.weight.nbytes  # float32 copies of one layer
    assert (model[0].dequantized().cpu() - on_cpu).abs().max() <= 1e-2 * on_cpu.abs().max()  # type: ignore[operator]
    side = torch.cuda.Stream()  # autograd waits for the stream of a leaf, and nothing captured may wait for the first
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        x = torch.randn(64, 2048, dtype=torch.bfloat16, device=cuda, requires_grad=True)
        wanted = model(x)
        (wanted_grad,) = torch.autograd.grad(wanted.sum(), x)
        wanted = wanted.detach()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph := torch.cuda.CUDAGraph(), stream=side):
        y = model(x)
        (grad,) = torch.autograd.grad(y.sum(), x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, wanted) and torch.equal(grad, wanted_grad)
