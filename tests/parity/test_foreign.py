"""Adapter files of other programs: the UNet says what the explicit formula says, and a bad file changes nothing."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lowrank_diffusion import adapters, presets
from lowrank_diffusion.adapters import AdapterError, matching_layers
from lowrank_diffusion.adapters.kinds import KINDS
from lowrank_diffusion.image.apply import load_adapter
from lowrank_diffusion.image.export import export
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.image.families.unet.names import Layout, names
from lowrank_diffusion.metadata import Facts, Pictures
from tests.adapter_kinds import EXAMPLES

from .conftest import copied

HALVES = (torch.float16, torch.bfloat16)


def says(unet: Any) -> torch.Tensor:
    draws, cfg = torch.Generator().manual_seed(0), unet.config
    pooled = cfg.projection_class_embeddings_input_dim - 6 * cfg.addition_time_embed_dim
    added = {"text_embeds": torch.randn(1, pooled, generator=draws), "time_ids": torch.ones(1, 6)}
    sample = torch.randn(1, 4, 16, 16, generator=draws)
    tokens = torch.randn(1, 7, cfg.cross_attention_dim, generator=draws)
    with torch.no_grad():
        return unet(sample, torch.tensor(500), tokens, added_cond_kwargs=added).sample


def mixed(unet: Any, form: str, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A file with ranks 4, 8 and 16 in turn, other alphas, none in half of the layers; and the updates it means."""
    draws, tensors, deltas = torch.Generator().manual_seed(1), {}, {}
    layout = Layout.of(unet.config)
    for index, (path, layer) in enumerate(matching_layers(unet, "attention+feed_forward").items()):
        rank = (4, 8, 16)[index % 3]
        a = (0.1 * torch.randn(rank, layer.in_features, generator=draws)).to(dtype)
        b = (0.1 * torch.randn(layer.out_features, rank, generator=draws)).to(dtype)
        sgm, underscored = names(path, layout)[1:3]
        name, ends = {
            "sgm": (f"lora_unet_{sgm}", ("lora_down.weight", "lora_up.weight")),
            "kohya": (f"lora_unet_{underscored}", ("lora_down.weight", "lora_up.weight")),
            "new": (f"unet.{path}", ("lora_A.weight", "lora_B.weight")),
            "old": (f"unet.{path}", ("lora.down.weight", "lora.up.weight")),
        }[form]
        tensors |= {f"{name}.{ends[0]}": a, f"{name}.{ends[1]}": b}
        scale = 1.0
        if form in ("sgm", "kohya") and index % 2:
            tensors[f"{name}.alpha"] = torch.tensor(float(1 + index % 5))
            scale = (1 + index % 5) / rank
        deltas[path] = scale * b.float() @ a.float()
    return tensors, deltas


@pytest.mark.parametrize("form", ["sgm", "kohya", "new", "old"])
@pytest.mark.parametrize("dtype", [torch.float32, *(pytest.param(t, marks=pytest.mark.slow) for t in HALVES)])
def test_the_unet_says_what_the_formula_says(pipeline: Any, form: str, dtype: torch.dtype, tmp_path: Path):
    tensors, deltas = mixed(pipeline.unet, form, dtype)
    save_file(tensors, tmp_path / "X.SAFETENSORS")
    expected = copy.deepcopy(pipeline.unet)
    for path, delta in deltas.items():
        expected.get_submodule(path).weight.data += delta
    plain = says(pipeline.unet)
    load_adapter(pipeline, tmp_path / "X.SAFETENSORS", "x")
    said = says(pipeline.unet)
    assert (said - says(expected)).abs().max() < 1e-5
    assert (said - plain).abs().max() > 1e-2


def peft_folder(unet: Any, folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A LoRA as PEFT keeps it, of ranks and alphas by pattern; and the updates it means, by PEFT's formula."""
    draws, tensors, deltas, layers = torch.Generator().manual_seed(2), {}, {}, matching_layers(unet, "attention")
    for path, layer in layers.items():
        rank = next((r for end, r in config["rank_pattern"].items() if path.endswith(end)), config["r"])
        alpha = next((a for end, a in config["alpha_pattern"].items() if path.endswith(end)), config["lora_alpha"])
        a = 0.1 * torch.randn(rank, layer.in_features, generator=draws)
        b = 0.1 * torch.randn(layer.out_features, rank, generator=draws)
        tensors |= {f"base_model.model.{path}.lora_A.weight": a, f"base_model.model.{path}.lora_B.weight": b}
        deltas[path] = alpha / (rank**0.5 if config.get("use_rslora") else rank) * b @ a
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "target_modules": sorted(layers), **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return deltas


@pytest.mark.parametrize("bare", [False, True], ids=["folder", "file"])
@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 4},
        {"r": 4, "lora_alpha": 2, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"attn2.to_k": 8, "to_out.0": 2}},
        {"r": 4, "lora_alpha": 3, "alpha_pattern": {"attn1.to_q": 1, "to_v": 6}, "use_rslora": True},
    ],
    ids=["plain", "rslora", "ranks", "alphas"],
)
def test_pefts_folder_means_what_pefts_formula_says(pipeline: Any, config: dict, bare: bool, tmp_path: Path):
    folder = tmp_path / "adapter"
    whole = {"rank_pattern": {}, "alpha_pattern": {}} | config
    deltas = peft_folder(pipeline.unet, folder, whole)
    expected = copy.deepcopy(pipeline.unet)
    for path, delta in deltas.items():
        expected.get_submodule(path).weight.data += delta
    plain = says(pipeline.unet)
    load_adapter(pipeline, folder / "adapter_model.safetensors" if bare else folder, "x")
    said = says(pipeline.unet)
    assert (said - says(expected)).abs().max() < 1e-5
    assert (said - plain).abs().max() > 1e-2


@pytest.mark.parametrize("mid", [False, True], ids=["LoCon", "LoCon with a middle"])
def test_convolutions_of_locon_are_exact(pipeline: Any, mid: bool, tmp_path: Path):
    """1x1 and 3x3, with alpha of each; dW by the formula, W + dW said by the UNet."""
    unet, draws, tensors = pipeline.unet, torch.Generator().manual_seed(3), {}
    expected, layout = copy.deepcopy(unet), Layout.of(unet.config)
    convolutions = {path: layer for path, layer in unet.named_modules() if isinstance(layer, torch.nn.Conv2d)}
    for index, (path, layer) in enumerate(convolutions.items()):
        rank, (n, m), size = (2, 4)[index % 2], (layer.in_channels, layer.out_channels), layer.kernel_size
        key = f"lora_unet_{names(path, layout)[2]}"
        inside = (rank, n, 1, 1) if mid else (rank, n, *size)
        down, up = (0.05 * torch.randn(shape, generator=draws) for shape in (inside, (m, rank, 1, 1)))
        middle = 0.3 * torch.randn(rank, rank, *size, generator=draws)
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
        if mid:
            tensors[f"{key}.lora_mid.weight"] = middle
            down = torch.einsum("rshw,sn->rnhw", middle, down[:, :, 0, 0])
        delta = torch.einsum("mr,rnhw->mnhw", up[:, :, 0, 0], down) / rank
        expected.get_submodule(path).weight.data += delta
    save_file(tensors, tmp_path / "locon.safetensors")
    plain = says(unet)
    load_adapter(pipeline, tmp_path / "locon.safetensors", "x")
    said = says(unet)
    assert (said - says(expected)).abs().max() < 1e-5
    assert (said - plain).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "hybrid"])
def test_a_peft_folder_of_our_own_means_what_its_plain_file_does(pipeline: Any, kind: str, tmp_path: Path):
    """The native form, by folder and by the bare file in it, of the kinds that the reader knows; and the plain one."""
    config = presets.build({}, EXAMPLES[kind])
    trained = copy.deepcopy(pipeline.unet)
    adapters.attach(trained, config.adapter, 0)
    for number, parameter in enumerate(adapters.trainable(trained).values()):
        draws = torch.Generator().manual_seed(number)
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=draws)
    facts = Facts("x", config, "embedded", "epsilon", Pictures(["a cat"]), 64, 1)
    diffusers, kohya, peft = export(FAMILIES["sdxl"], {"unet": trained}, tmp_path, facts).paths
    expected = says(trained.eval())
    alone = shutil.copy(peft / "adapter_model.safetensors", tmp_path / "as it was uploaded.safetensors")
    native = (peft, peft / "adapter_model.safetensors", Path(alone))
    known = config.adapter.kind in ("lora", "gralora")
    for path in () if known else native:
        with pytest.raises(AdapterError, match=r"adapter, not a LoRA|of the type '\w+', not LORA"):
            load_adapter(copied(pipeline), path, "x")
    for path in (diffusers, kohya, *(native if known else ())):
        fresh = copied(pipeline)
        load_adapter(fresh, path, "x")
        assert (says(fresh.unet) - expected).abs().max() < 1e-5, path.name


def test_a_text_encoder_file_of_one_projection_is_read(pipeline: Any, tmp_path: Path):
    tensors = {}
    for number, encoder in ((1, pipeline.text_encoder), (2, pipeline.text_encoder_2)):
        size, stem = encoder.config.hidden_size, f"lora_te{number}_text_model_encoder_layers_0_self_attn_q_proj"
        tensors |= {f"{stem}.lora_down.weight": torch.ones(2, size), f"{stem}.lora_up.weight": torch.ones(size, 2)}
    save_file(tensors, tmp_path / "te.safetensors")
    load_adapter(pipeline, tmp_path / "te.safetensors", "x")
    assert set(pipeline.get_list_adapters()) == {"text_encoder", "text_encoder_2"}


def test_a_file_of_another_base_is_refused(pipeline: Any, tmp_path: Path):
    tensors = {
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 2),
        "lora_unet_nowhere.lora_up.weight": torch.ones(2, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"2 of 2 tensors fit no layer .*, such as lora_unet_nowhere"):
        load_adapter(pipeline, tmp_path / "x.safetensors", "x")
