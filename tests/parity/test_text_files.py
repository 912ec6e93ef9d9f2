"""The folders of a language model's adapter, of every kind, in PEFT's hands and in the studio's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lowrank_diffusion import adapters, presets
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.text.export import Facts, export
from lowrank_diffusion.text.model import Base
from tests.adapter_kinds import EXAMPLES

CPU = torch.device("cpu")
IDS = torch.arange(40).view(2, 20)


def fresh(path: Path, quantize: str = "none") -> Any:
    config = BaseModelConfig(path=str(path), quantize=quantize)  # type: ignore[arg-type]
    return Base.of(config, CPU, torch.float32).model()


@torch.no_grad()
def says(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


def trained(model: Any, kind: str) -> Any:
    cfg = presets.build({}, EXAMPLES[kind] | {"task": "text"})
    adapters.attach(model, cfg.adapter.model_copy(update={"targets": "attention+mlp"}), 0)
    for number, parameter in enumerate(adapters.trainable(model).values()):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return cfg


@pytest.mark.parametrize("kind", EXAMPLES)
def test_both_folders_mean_what_was_trained(kind: str, tiny_language: Path, tmp_path: Path):
    model = fresh(tiny_language)
    plain = says(model)
    facts = Facts("x", trained(model, kind), "tiny", "", 1)
    wanted = says(model.eval())
    assert (wanted - plain).abs().max() > 1e-2
    for folder in export(model, tmp_path, facts).paths:
        for loaded in (PeftModel.from_pretrained(fresh(tiny_language), str(folder)), None):
            model = loaded or adapters.load(fresh(tiny_language), folder)
            assert (says(model) - wanted).abs().max() < 1e-4, folder.name


@pytest.mark.parametrize("quantize", ["8bit", "nf4"])
@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_studio_loads_them_on_a_quantised_base(kind: str, quantize: str, tiny_language: Path, tmp_path: Path):
    model = fresh(tiny_language, quantize)
    facts = Facts("x", trained(model, kind), "tiny", "", 1)
    wanted = says(model.eval())
    for folder in export(model, tmp_path, facts).paths:
        loaded = adapters.load(fresh(tiny_language, quantize), folder)
        assert (says(loaded) - wanted).abs().max() < 1e-4, folder.name
        assert says(adapters.unload(loaded)).isfinite().all()
