"""The plan of execution: what it says is what the trainer makes, and what the estimate counts is what the model has."""

from __future__ import annotations

from typing import Any, Literal, get_origin

import pytest
import torch

from lowrank_diffusion import adapters, devices, plan, presets
from lowrank_diffusion.config import TARGET_SETS, Config, fields
from lowrank_diffusion.image import adapted, text_encoders
from lowrank_diffusion.image.model import Base
from lowrank_diffusion.image.source import resolve
from lowrank_diffusion.plan import Machine, Plan
from lowrank_diffusion.units import described
from tests.parity.test_fused import Regression
from trainers import fast, optim
from trainers.fast import FastStep

CPU = torch.device("cpu")
NO_TRITON = "triton is not installed"
LITERALS = [
    (key, value)
    for key, field in fields("image").items()
    if get_origin(field.annotation) is Literal and key != "task"
    for value in field.annotation.__args__  # type: ignore[union-attr]
]
CHOICES = [*LITERALS, *(("adapter.targets", name) for name in TARGET_SETS)]
SLOW = {
    ("train.precision", "fp16"), ("optimizer.name", "adamw8bit"), ("optimizer.name", "prodigy"),
    ("optimizer.name", "adafactor"),
}  # fmt: skip
"""The values that CUDA graphs cannot have."""


def config(**others: Any) -> Config:
    given = {key.replace("__", "."): value for key, value in others.items()}
    return presets.build({}, {"adapter.rank": 4, "prior.prompt": "a cat"} | given)


def on(machine: Machine, cfg: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Any]:
    """The plan for ``machine``, and the step that the trainer makes there."""
    monkeypatch.setattr(fast, "machine", lambda device, dtype: machine)
    monkeypatch.setitem(optim.MAKERS, "adamw8bit", optim.MAKERS["adamw"])  # which is made on CUDA alone
    task: Any = Regression(cfg)
    chosen = plan.of(cfg, machine, described(task.model, task.layers))
    return chosen, fast.build(task, cfg, CPU, torch.float64)


@pytest.mark.parametrize("flat", [0.0, 0.1])
@pytest.mark.parametrize(("key", "value"), CHOICES)
def test_the_trainer_makes_what_is_planned(key: str, value: Any, flat: float, monkeypatch: pytest.MonkeyPatch):
    """For every value that settings name, on a CPU and on a GPU that is only said to be there."""
    values = {key: value, "flat.sigma": flat} | ({"adapter.rank": 1} if value == "lokr" else {})
    cfg = presets.build({}, {"adapter.rank": 4, "prior.prompt": "a cat"} | values)
    gpu = Machine("cuda", cfg.train.precision)
    chosen, state = on(gpu, cfg, monkeypatch)
    named = value if key == "train.execution" and value != "auto" else "captured"
    assert chosen.mode == ("eager" if (key, value) in SLOW else named)
    assert state.plan == chosen and isinstance(state, FastStep) == chosen.fast == (chosen.mode != "eager")
    assert bool(chosen.why_not_faster) == ((key, value) in SLOW) and not chosen.refused
    assert state.flat.keep == chosen.keep_noise == (flat > 0 and chosen.fast and cfg.base.quantize == "none")
    if named in ("captured", "compiled") and key == "train.execution" and value != "auto":
        with pytest.raises(devices.DeviceError, match=f"train.execution: {value} cannot be had: the device is cpu"):
            on(Machine("cpu", "fp32"), cfg, monkeypatch)
        return
    chosen, state = on(Machine("cpu", "fp32"), cfg, monkeypatch)
    assert state.plan == chosen and not isinstance(state, FastStep)
    assert str(chosen) == "steps run eager: the device is cpu, and only CUDA captures steps"


@pytest.mark.parametrize(
    ("given", "machine", "mode", "why"),
    [
        ({}, Machine("cuda", "bf16", no_compiler=NO_TRITON), "captured", f"blocks run uncompiled: {NO_TRITON}"),
        ({"train__execution": "eager"}, Machine("cuda", "bf16"), "eager", ""),
        ({"flat__sigma": 0.1}, Machine("cuda", "bf16", "no kernel", NO_TRITON), "eager", "no kernel"),
        ({"adapter__dropout": 0.1}, Machine("cuda", "bf16"), "eager", "adapter.dropout draws a mask at every layer"),
        ({"train__execution": "compiled"}, Machine("cuda", "bf16", no_compiler=NO_TRITON), "eager", NO_TRITON),
    ],
)  # fmt: skip
def test_why_steps_are_not_faster(given: Any, machine: Machine, mode: str, why: str):
    chosen = plan.of(config(**given), machine)
    assert (chosen.mode, chosen.why_not_faster) == (mode, why)
    assert chosen.compile == (mode != "eager" and not machine.no_compiler)
    asked = given.get("train__execution") == "compiled"
    assert chosen.refused == (
        f"train.execution: compiled cannot be had: {why}. Take train.execution=auto." if asked else ""
    )


def test_rows_that_nf4_cannot_cut_are_named():
    cfg = config(base__quantize="nf4")
    layers = [plan.Layer("a.to_q", 64, 96, ("lora", 4), quantized=stored) for stored in (False, True)]
    assert plan.of(cfg, Machine("cuda", "bf16"), layers[:1]).mode == "captured"
    why = plan.of(cfg, Machine("cuda", "bf16"), layers).why_not_faster
    assert why == "the rows of a.to_q are 96 long, no multiple of nf4's 64"


def test_units_are_siblings_that_agree():
    def layer(path: str, n: int = 8, rank: int = 4, storage: str = "", apart: bool = False) -> plan.Layer:
        return plan.Layer(path, 8, n, ("lora", rank), storage, apart=apart)

    layers = [
        layer("a.to_v"), layer("a.to_q"), layer("a.to_k"), layer("b.to_q", apart=True), layer("b.to_k"),
        layer("c.to_q"), layer("c.to_k", n=9), layer("d.to_q"), layer("d.to_k", rank=5), layer("e.to_q"),
        layer("e.to_k", storage="int8"), layer("f.proj"),
    ]  # fmt: skip
    units = [[layer.path for layer in unit] for unit in plan.units_of(layers)]
    alone = ["b.to_q", "b.to_k", "c.to_q", "c.to_k", "d.to_q", "d.to_k", "e.to_q", "e.to_k", "f.proj"]
    assert units == [["a.to_q", "a.to_k", "a.to_v"], *([path] for path in alone)]
    groups = [["".join(layer.path for layer in unit) for unit in group] for group in plan.groups_of(layers)]
    same = ["b.to_q", "b.to_k", "c.to_q", "d.to_q", "e.to_q", "f.proj"]
    assert groups == [["a.to_qa.to_ka.to_v"], same, ["c.to_k"], ["d.to_k"], ["e.to_k"]]


@pytest.mark.parametrize("quantize", ["none", "8bit"])
@pytest.mark.parametrize("kind", ["lora", "gralora", "lokr"])
def test_the_outline_has_the_units_of_the_model(kind: str, quantize: str):
    """Of the embedded base's denoiser and text encoders together."""
    cfg = config(
        adapter__kind=kind, adapter__rank=2, adapter__targets="all-linear", adapter__text_encoders="attention+mlp",
        base__quantize=quantize,
    )  # fmt: skip
    base = Base.of(cfg.base, CPU, torch.float32)
    denoiser, encoders = base.part(base.family.denoiser), {name: base.part(name) for name in base.family.encoders}
    adapters.attach(denoiser, cfg.adapter, cfg.seed)
    text_encoders.attach(base.family, encoders, cfg.adapter, cfg.seed)
    model = text_encoders.WithTextEncoders(base.family, {base.family.denoiser: denoiser, **encoders})
    real = described(model, adapters.adapted_layers(model))
    source = resolve(cfg.base)
    outline = adapted.layers(cfg, source, adapted.architecture(source))

    def units(layers: list[plan.Layer]) -> set[tuple[Any, ...]]:
        return {tuple(_facts(layer, base.family.denoiser) for layer in unit) for unit in plan.units_of(layers)}

    def groups(layers: list[plan.Layer]) -> set[frozenset[Any]]:
        def key(unit: plan.Unit) -> tuple[Any, ...]:
            return tuple(_facts(layer, base.family.denoiser) for layer in unit)

        return {frozenset(map(key, group)) for group in plan.groups_of(layers)}

    assert units(outline) == units(real) and max(map(len, plan.units_of(outline))) == 3
    assert groups(outline) == groups(real)


def _facts(layer: plan.Layer, denoiser: str) -> tuple[Any, ...]:
    """What both sides say of a layer; models that are trained together have their part's name before their paths."""
    path = layer.path.removeprefix(f"{denoiser}.").replace(".text_model.", ".")
    return path, layer.m, layer.n, layer.rank, layer.quantized, layer.apart


def test_a_machine_is_told_without_torch_as_with_it():
    cfg = config(train__device="cpu", train__precision="fp32")
    assert plan.here(cfg) == fast.machine(CPU, torch.float32)
    assert plan.any_gpu(config()) == Machine("cuda", "auto") and plan.any_gpu(cfg).device == "cpu"
