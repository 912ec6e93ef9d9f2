"""What a model repeats must be one program to the compiler: a program for each block would take minutes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks import sdxl
from lowrank_diffusion import kernels, plan, presets
from lowrank_diffusion.adapters.kinds import KINDS
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.image.text_encoders import WithTextEncoders
from tests.adapter_kinds import EXAMPLES
from trainers import compiling
from trainers.fast import FastStep

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_one_shape_are_one_program(kind: str, monkeypatch: pytest.MonkeyPatch):
    """With all that CUDA would swap in: its kernels step aside on a CPU, but what calls them does not."""
    monkeypatch.setattr(kernels, "missing", lambda device: "")
    torch.manual_seed(0)
    unet: Any = sdxl.build(CPU, torch.float32, tiny=True)
    cfg = presets.build({}, EXAMPLES[kind] | {"adapter.targets": tuple(sdxl.TARGETS)})
    task: Any = sdxl.CachedDreamBooth(unet, cfg, sdxl.inputs(unet, 1, 64))
    state = FastStep(task, cfg, CPU, torch.float32, plan.forced(cfg, "compiled"))
    torch.compiler.reset()
    counters.clear()
    blocks = [part for part in compiling.repeated(unet) if type(part[0]).__name__ == "BasicTransformerBlock"]
    state.compiled = [(m, place, torch.compile(getattr(m, name), backend="aot_eager")) for m, name, place in blocks]
    state(0)
    assert len(blocks) > 4
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]


@pytest.mark.parametrize("beside", [False, True])
def test_no_norm_of_a_unet_runs_uncompiled(beside: bool):
    """Neither alone nor as a part of what is trained, as beside text encoders."""
    unet: Any = sdxl.build(CPU, torch.float32, tiny=True)
    family = FAMILIES["sdxl"]
    parts = {name: torch.nn.Identity() for name in family.encoders}
    model = WithTextEncoders(family, {"unet": unet, **parts}) if beside else unet
    compiled = [module for module, _, _ in compiling.repeated(model)]
    inside = {id(part) for module in compiled for part in module.modules()}
    norms = [module for module in unet.modules() if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm)]
    assert norms and all(id(norm) in inside for norm in norms)
