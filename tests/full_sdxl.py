"""An SDXL with every block and layer of the real one, a few numbers wide, and adapters of every kind on all of them.

For what depends on names and counts: which layers other programs find in our files.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lowrank_diffusion import adapters, presets
from lowrank_diffusion.image import text_encoders
from lowrank_diffusion.image.export import export
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.metadata import Facts, Pictures
from lowrank_diffusion.paths import ASSETS
from tests.adapter_kinds import with_every_kind

SDXL = FAMILIES["sdxl"]
WIDTHS: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": (8, 16, 32), "norm_num_groups": 8, "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": 32, "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 40,
    },
    "text_encoder": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "projection_dim": 16},
    "text_encoder_2": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "projection_dim": 16},
}  # fmt: skip
"""What differs from SDXL's own configuration: sizes and nothing else."""
_TOKENS = {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}

KINDS = with_every_kind(
    {
        "lora": {"adapter.kind": "lora"},
        "gralora-2": {"adapter.k": 2},
        "gralora-4": {"adapter.k": 4},
        "hybrid": {"adapter.k": 2, "adapter.hybrid_rank": 3},
        "lokr": {"adapter.kind": "lokr", "adapter.rank": 1},
    }
)
TARGETS: dict[str, tuple[dict[str, Any], int]] = {
    "attention": ({"adapter.targets": "attention"}, 560),
    "feed-forward": ({"adapter.targets": "attention+feed_forward"}, 700),
    "text": ({"adapter.targets": "attention", "adapter.text_encoders": "attention"}, 560 + 11 * 4 + 32 * 4),
    "all": ({"adapter.targets": "all-linear", "adapter.text_encoders": "attention+mlp"}, 743 + 11 * 6 + 32 * 6),
}
"""Settings, and how many layers they mean. SDXL's UNet has 70 transformer blocks, each with 8 projections and 2 linear
layers of its feed-forward part; 11 transformers with a linear layer before and after their blocks; 17 resnets, which
read the time; and 2 linear layers for the time and 2 for size and text. Its text encoders have 12 blocks, of which the
last is never read, and 32, with 4 projections and 2 linear layers each."""
CELLS = list(itertools.product(KINDS, TARGETS))


class Cell(NamedTuple):
    """An adapter's files for diffusers and for kohya's readers, and the updates that were trained."""

    diffusers: Path
    kohya: Path
    deltas: dict[str, torch.Tensor]
    """By ``model.path``, float64 (m, n), as PEFT says them."""


def config(name: str) -> dict[str, Any]:
    """Of one model: SDXL's, with small widths."""
    said = json.loads((ASSETS / "sdxl" / name / "config.json").read_text(encoding="utf-8"))
    plain = {key: value for key, value in said.items() if not key.startswith("_")}
    return plain | WIDTHS[name] | (_TOKENS if name in SDXL.encoders else {})


def models() -> dict[str, Any]:
    """The UNet and both text encoders, by their names in a pipeline."""
    return {
        "unet": UNet2DConditionModel(**config("unet")),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config("text_encoder"))),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2"))),
    }


def write(kind: str, targets: str, folder: Path) -> Cell:
    """Adapters of one kind on some layers, as training would leave them, exported into ``folder``."""
    cfg = presets.build({}, {"adapter.rank": 4, "adapter.alpha": 6.0} | KINDS[kind] | TARGETS[targets][0])
    every, draws = models(), torch.Generator().manual_seed(0)
    adapters.attach(every["unet"], cfg.adapter, 0)
    if cfg.adapter.text_encoders != "none":
        text_encoders.attach(SDXL, {name: every[name] for name in SDXL.encoders}, cfg.adapter, 0)
    own: dict[str, nn.Module] = {name: model for name, model in every.items() if adapters.adapted_layers(model)}
    for parameter in (each for model in own.values() for each in adapters.trainable(model).values()):
        parameter.data.normal_(0, 0.3, generator=draws)
    files = export(SDXL, own, folder, Facts("x", cfg, "sdxl", "epsilon", Pictures(["a cat"]), 1024, 1)).paths
    deltas = {
        f"{name}.{layer.path}": layer.module.double().get_delta_weight(adapters.NAME).detach().contiguous()
        for name, model in own.items()
        for layer in adapters.adapted_layers(model)
    }
    return Cell(files[0], files[1], deltas)


def write_all(folder: Path) -> None:
    """Every cell in a folder of its own with ``deltas.safetensors``, and the models without adapters beside them."""
    for name, model in models().items():
        model.save_pretrained(folder / name)
    for kind, targets in CELLS:
        cell = write(kind, targets, folder / f"{kind}.{targets}")
        save_file(cell.deltas, cell.kohya.with_name("deltas.safetensors"))
