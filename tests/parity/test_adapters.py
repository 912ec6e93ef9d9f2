"""Adapted layers against formulas, and attaching: what is adapted, how it starts, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from benchmarks import sdxl
from lowrank_diffusion import adapters, export
from lowrank_diffusion.adapters import lokr
from lowrank_diffusion.config import AdapterConfig, ConfigError
from tests.adapter_kinds import EXAMPLES, adapter
from tests.formulas import gralora_delta

KINDS = {name: adapter(settings) for name, settings in EXAMPLES.items()}


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
        layer.module.merge()
        assert torch.allclose(layer.base.weight, merged, atol=1e-12)
        assert torch.allclose(layer.module(x), nn.functional.linear(x, merged, layer.base.bias), atol=1e-12)
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
    assert {name for name in pairs[0]} == {n for n, p in one.named_parameters() if ".default" in n}


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_draws_from_torchs_global_generator(kind: str):
    """A run's numbers are functions of its seed; without dropout a layer needs none at all."""
    model, _ = adapted(KINDS[kind])
    before = torch.get_rng_state()
    model.train()(torch.ones(2, 16, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_trained_learns(kind: str):
    """Nothing that begins at zero keeps the rest from ever moving: after a first step every gradient is there."""
    model, _ = adapted(KINDS[kind], trained=False)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for step in range(2):
        model.zero_grad()
        model(x).square().sum().backward()
        grads = {name: parameter.grad for name, parameter in adapters.trainable(model).items()}
        moved = {name for name, grad in grads.items() if grad is not None and bool((grad != 0).any())}
        assert moved if step == 0 else moved == grads.keys()
        for name, parameter in adapters.trainable(model).items():
            parameter.data -= 0.1 * grads[name]  # type: ignore[operator]


@pytest.mark.parametrize(("side", "rank", "factor"), [(640, 8, None), (640, 4, None), (512, 16, 4), (512, 8, 8)])
def test_a_first_step_of_lokr_is_as_large_as_its_file_says(side: int, rank: int, factor: int | None):
    """sqrt(q / 3r) times LoRA's, at the same learning rate."""
    x, y = torch.randn(2, 256, side, generator=torch.Generator().manual_seed(3)).unbind()
    sizes = []
    for cfg in (AdapterConfig(kind="lora", rank=rank), AdapterConfig(kind="lokr", rank=rank, factor=factor)):
        torch.manual_seed(1)
        model = nn.ModuleDict({"to_q": nn.Linear(side, side)})
        (layer,) = adapters.attach(model, cfg.model_copy(update={"targets": ("to_q",)}), 0)
        (layer.module(x) * y).sum().backward()
        torch.optim.Adam(adapters.trainable(model).values(), lr=0.01).step()
        sizes.append(float(layer.factors().delta().norm().detach()))
    q = lokr.split(side, factor)[0]
    assert sizes[1] / sizes[0] == pytest.approx((q / (3 * rank)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_told_without_torch_is_that_of_the_layers(kind: str):
    cfg = KINDS[kind]
    _, layers = adapted(cfg)
    for layer in layers:
        trained = layer.kind.trained(layer.module, "default")
        size = cfg.method.size(cfg, *layer.base.weight.shape)
        assert size.trained == sum(parameter.numel() for parameter in trained.values())
        pair, rank = layer.factors(), layer.kind.shape(layer.module, "default")[0]
        assert size.rank == rank == pair.a.shape[0] == pair.b.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_pefts_folder_comes_back_through_peft(kind: str, tmp_path: Path):
    """On a UNet: the same update of every layer, and the same output, of PEFT's own layers."""
    torch.manual_seed(0)
    unet: Any = sdxl.build(torch.device("cpu"), torch.float64, tiny=True).eval()
    fresh: Any = sdxl.build(torch.device("cpu"), torch.float64, tiny=True).eval()
    fresh.load_state_dict(unet.state_dict())
    layers = adapters.attach(unet, KINDS[kind], 0)
    for number, parameter in enumerate(adapters.trainable(unet).values()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)).double() / 5
    export.save_peft(unet, tmp_path / "x", {}, torch.float32)
    loaded: Any = PeftModel.from_pretrained(fresh, str(tmp_path / "x"))
    back = {layer.path.removeprefix("base_model.model."): layer for layer in adapters.adapted_layers(loaded)}
    assert back.keys() == {layer.path for layer in layers}
    for layer in layers:
        delta = back[layer.path].module.get_delta_weight("default")
        assert (delta - layer.factors().delta()).abs().max() < 1e-7, "rounded to float32 in the file"
    with torch.no_grad():
        said = [sdxl_output(model) for model in (unet, loaded)]
        with adapters.disabled(unet):
            plain = sdxl_output(unet)
    assert (said[0] - said[1]).abs().max() < 1e-5 < 1e-2 < (said[0] - plain).abs().max()


def sdxl_output(unet: Any) -> torch.Tensor:
    """What a tiny UNet makes of fixed inputs."""
    torch.manual_seed(5)
    data = sdxl.inputs(unet, 1, 64)
    conditions = {"text_embeds": data.pooled.double(), "time_ids": data.time_ids.double()}
    return unet(
        data.latents.double(), torch.tensor(100), data.tokens.double(), added_cond_kwargs=conditions, return_dict=False
    )[0]


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
        (AdapterConfig(kind="lokr", rank=3), ["adapter.rank", "to_q is 24 x 16", "got 3", "Allowed here: up to 2."]),
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
