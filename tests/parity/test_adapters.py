"""Adapted layers against formulas, and attaching: what is adapted, how it starts, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowrank_diffusion import adapters
from lowrank_diffusion.config import AdapterConfig, ConfigError
from tests.formulas import gralora_delta

KINDS = {
    "lora": AdapterConfig(kind="lora", rank=4),
    "lora-alpha": AdapterConfig(kind="lora", rank=4, alpha=6),
    "gralora": AdapterConfig(kind="gralora", rank=4, k=2),
    "gralora-k4": AdapterConfig(kind="gralora", rank=8, k=4, alpha=4),
    "gralora-k1": AdapterConfig(kind="gralora", rank=4, k=1),
    "hybrid": AdapterConfig(kind="gralora", rank=4, k=2, hybrid_rank=3, alpha=14),
}


class Block(nn.Module):
    """Two attention projections and something that is not one."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_v, self.other = nn.Linear(16, 24), nn.Linear(16, 24, bias=False), nn.Linear(24, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(torch.tanh(self.to_q(x)) * self.to_v(x))


def adapted(cfg: AdapterConfig, seed: int = 0, trained: bool = True) -> tuple[Block, list[adapters.AdaptedLayer]]:
    torch.manual_seed(1)
    model = Block().double()
    layers = adapters.attach(model, cfg, seed)
    generator = torch.Generator().manual_seed(2)
    if trained:
        for parameter in adapters.trainable(model).values():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, layers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 16)])
def test_layer_acts_as_its_factors_say(kind: str, shape: tuple[int, ...]):
    _, layers = adapted(KINDS[kind])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for layer in layers:
        merged = layer.base.weight + layer.factors().delta()
        assert torch.allclose(layer.module(x), nn.functional.linear(x, merged, layer.base.bias), atol=1e-12)
        assert torch.allclose(layer.factors().delta(), layer.module.get_delta_weight("default"), atol=1e-12)
    assert [layer.path for layer in layers] == ["to_q", "to_v"]


def test_gralora_layer_is_the_block_formula():
    _, layers = adapted(AdapterConfig(kind="gralora", rank=8, k=4, alpha=4))
    layer = layers[0].module
    delta = 0.5 * gralora_delta(layer.gralora_A["default"], layer.gralora_B["default"])
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = nn.functional.linear(x, layers[0].base.weight + delta, layers[0].base.bias)
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_gralora_with_one_block_is_lora():
    gralora, layers = adapted(KINDS["gralora-k1"])
    lora, lora_layers = adapted(KINDS["lora"])
    for one, other in zip(layers, lora_layers, strict=True):
        other.module.lora_A["default"].weight.data = one.module.gralora_A["default"][0].T
        other.module.lora_B["default"].weight.data = one.module.gralora_B["default"][0].T
    x = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(gralora(x), lora(x), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_the_identity_and_as_the_seed_says(kind: str):
    one, _ = adapted(KINDS[kind], seed=7, trained=False)
    two, _ = adapted(KINDS[kind], seed=7, trained=False)
    other, _ = adapted(KINDS[kind], seed=8, trained=False)
    x = torch.ones(2, 3, 16, dtype=torch.float64)
    with adapters.disabled(one):
        base = one(x)
    assert torch.equal(one(x), base)
    pairs = [adapters.trainable(model) for model in (one, two, other)]
    assert all(torch.equal(p, pairs[1][name]) for name, p in pairs[0].items())
    assert any(not torch.equal(p, pairs[2][name]) for name, p in pairs[0].items())
    assert {name for name in pairs[0]} == {n for n, p in one.named_parameters() if "lora_" in n}


def test_disabled_is_undone_after_an_exception():
    model, _ = adapted(KINDS["gralora"])
    x = torch.ones(2, 3, 16, dtype=torch.float64)
    before = model(x)
    with pytest.raises(RuntimeError), adapters.disabled(model):
        raise RuntimeError
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (AdapterConfig(rank=6, k=3), ["adapter.k", "to_q is 24 x 16", "got 3", "Allowed here: [1, 2]"]),
        (AdapterConfig(targets=("to_q", "to_kk")), ["adapter.targets", "'to_kk'", "other, to_q, to_v"]),
        (AdapterConfig(targets=r"blocks\..*"), ["adapter.targets", "matches no linear layer"]),
    ],
)
def test_impossible_combinations_name_layer_and_allowed_values(cfg: AdapterConfig, words: list[str]):
    with pytest.raises(ConfigError) as error:
        adapters.attach(Block(), cfg, 0)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_targets_by_name_and_by_expression():
    model = Block()
    assert list(adapters.matching_layers(model, ("to_v", "other"))) == ["to_v", "other"]
    assert list(adapters.matching_layers(model, "to_[qv]|other")) == ["to_q", "to_v", "other"]
