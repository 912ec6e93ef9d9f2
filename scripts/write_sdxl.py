"""Write an SDXL with random weights: as a diffusers folder, and as one file in the original layout.

    python -m scripts.write_sdxl --folder OUT --file OUT.safetensors          (true size: 6.9 GB each in fp16)
    python -m scripts.write_sdxl --tiny --folder OUT --file OUT.safetensors   (same layers and names, but narrow)
    python -m scripts.write_sdxl --quick --folder OUT                         (true size, from one block of noise)

It draws noise: it is for trying what a real SDXL asks of loaders, memory and time where none is at hand. The weights
are a function of the seed and of their names, the same in both layouts, and are written one tensor at a time, so the
true size needs about a gigabyte of memory, half of it torch itself.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lowrank_diffusion import paths, seeds

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
CODES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}

# Widths of the tiny one; everything else, the number of layers above all, is the true model's.
TINY: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [16, 24, 32],
        "norm_num_groups": 8,
        "attention_head_dim": [1, 2, 4],
        "cross_attention_dim": 48,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
        "sample_size": 16,
    },
    "vae": {"block_out_channels": [16, 24, 32, 32], "norm_num_groups": 8, "sample_size": 128},
    "text_encoder": {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16},
    "text_encoder_2": {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "projection_dim": 32},
}
STEMS = {"text_encoder": "model", "text_encoder_2": "model"}


@dataclass(frozen=True)
class Entry:
    """A tensor that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Which SDXL to write."""

    tiny: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float16
    v_prediction: bool = False
    quick: bool = False  # repeat one block of noise: as fast as the disk

    def config(self, part: str) -> dict[str, Any]:
        """The JSON config of a component."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        config = json.loads(((paths.ASSETS / "sdxl") / part / name).read_text(encoding="utf-8"))
        if part == "scheduler" and self.v_prediction:
            config["prediction_type"] = "v_prediction"
        return config | (TINY.get(part, {}) if self.tiny else {})

    def model(self, part: str) -> torch.nn.Module:
        """A component without memory for its weights."""
        config = self.config(part)
        with init_empty_weights():
            if part == "unet":
                return UNet2DConditionModel.from_config(config)
            if part == "vae":
                return AutoencoderKL.from_config(config)
            kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
            return kind(CLIPTextConfig(**config))

    def entries(self, part: str) -> dict[str, Entry]:
        """The tensors of a component, by their names in diffusers."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model(part).state_dict().items()}
        return {name: self._entry(part, name, shape) for name, shape in shapes.items()}

    def _entry(self, part: str, name: str, shape: tuple[int, ...]) -> Entry:
        return Entry(name, shape, self.dtype, lambda: self._weight(f"{part}.{name}", shape))

    def _weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Noise of a size that keeps activations near one."""
        size, scale, shift = torch.Size(shape).numel(), 0.02, 0.0
        if len(shape) == 1 and not name.endswith(".bias"):  # the scale of a norm
            scale, shift = 0.1, 1.0
        elif len(shape) > 1 and "embedding.weight" not in name:
            scale = (shape[0] / size) ** 0.5
        if self.quick:
            block = _block(self.seed, scale, shift, self.dtype)
            return torch.cat([block] * -(-size // len(block)))[:size].view(shape)
        noise = torch.randn(shape, generator=seeds.generator(self.seed, 0, name))
        return noise.mul_(scale).add_(shift).to(self.dtype)


@cache
def _block(seed: int, scale: float, shift: float, dtype: torch.dtype) -> Tensor:
    """A million numbers to repeat; a prime count, so that no two rows of a weight are alike."""
    noise = torch.randn(1_048_573, generator=seeds.generator(seed, 0, "block"))
    return noise.mul_(scale).add_(shift).to(dtype)


def write_folder(folder: Path, recipe: Recipe) -> None:
    """Write a diffusers folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile((paths.ASSETS / "sdxl") / "model_index.json", folder / "model_index.json")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree((paths.ASSETS / "sdxl") / name, folder / name, dirs_exist_ok=True)
    _write_json(folder / "scheduler" / "scheduler_config.json", recipe.config("scheduler"))
    for part in ("text_encoder", "text_encoder_2", "unet", "vae"):
        _write_json(folder / part / "config.json", recipe.config(part))
        stem = STEMS.get(part, "diffusion_pytorch_model")
        write_tensors(folder / part / f"{stem}.safetensors", list(recipe.entries(part).values()))


def write_file(path: Path, recipe: Recipe) -> None:
    """Write one file in the layout of Stability AI's original checkpoint."""
    write_tensors(path, list(original(recipe)))


def original(recipe: Recipe) -> Iterator[Entry]:
    """The tensors of a whole checkpoint in the original layout."""
    positions = recipe.config("text_encoder")["max_position_embeddings"]
    text = "conditioner.embedders.0.transformer.text_model."
    yield Entry(f"{text}embeddings.position_ids", (1, positions), torch.int64, lambda: torch.arange(positions)[None])
    for name, entry in recipe.entries("text_encoder").items():
        yield _renamed(entry, text + name.removeprefix("text_model."))
    yield from _open_clip(recipe.entries("text_encoder_2"), "conditioner.embedders.1.model.", recipe.dtype)
    for name, entry in recipe.entries("vae").items():
        yield _vae(entry, "first_stage_model." + _vae_name(name))
    for name, entry in recipe.entries("unet").items():
        yield _renamed(entry, "model.diffusion_model." + _unet_name(name))
    if recipe.v_prediction:
        yield Entry("v_pred", (0,), recipe.dtype, lambda: torch.empty(0, dtype=recipe.dtype))


def _renamed(entry: Entry, name: str) -> Entry:
    return Entry(name, entry.shape, entry.dtype, entry.make)


def _substitute(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


_OPEN_CLIP = [
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
]


def _open_clip(entries: dict[str, Entry], prefix: str, dtype: torch.dtype) -> Iterator[Entry]:
    """OpenCLIP's names: query, key and value in one tensor, the projection transposed."""
    yield Entry(f"{prefix}logit_scale", (), dtype, lambda: torch.tensor(4.6052, dtype=dtype))
    for name, entry in entries.items():
        new = prefix + _substitute(name, _OPEN_CLIP)
        if name == "text_projection.weight":
            yield Entry(f"{prefix}text_projection", entry.shape[::-1], dtype, lambda e=entry: e.make().T.contiguous())
        elif ".q_proj." in name:
            parts = [entries[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
            shape = (3 * entry.shape[0], *entry.shape[1:])
            stacked = new.replace(".q_proj.", ".in_proj_")
            yield Entry(stacked, shape, dtype, lambda parts=parts: torch.cat([part.make() for part in parts]))
        elif ".k_proj." not in name and ".v_proj." not in name:
            yield _renamed(entry, new)


def _vae_name(name: str) -> str:
    name = re.sub(r"decoder\.up_blocks\.(\d)", lambda match: f"decoder.up.{3 - int(match[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    rules = [
        (r"encoder\.down_blocks\.", "encoder.down."),
        (r"\.resnets\.", ".block."),
        (r"\.(down|up)samplers\.0\.", r".\1sample."),
        (r"mid_block\.attentions\.0\.", "mid.attn_1."),
        (r"attn_1\.group_norm\.", "attn_1.norm."),
        (r"attn_1\.to_([qkv])\.", r"attn_1.\1."),
        (r"attn_1\.to_out\.0\.", "attn_1.proj_out."),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    return _substitute(name, rules)


def _vae(entry: Entry, name: str) -> Entry:
    """The original's attention is made of 1 x 1 convolutions."""
    if ".attn_1." in name and len(entry.shape) == 2:
        return Entry(name, (*entry.shape, 1, 1), entry.dtype, lambda: entry.make()[:, :, None, None])
    return _renamed(entry, name)


_UNET_ENDS = [
    (r"^time_embedding\.linear_([12])", lambda match: f"time_embed.{2 * int(match[1]) - 2}"),
    (r"^add_embedding\.linear_([12])", lambda match: f"label_emb.0.{2 * int(match[1]) - 2}"),
    (r"^conv_in", lambda match: "input_blocks.0.0"),
    (r"^conv_norm_out", lambda match: "out.0"),
    (r"^conv_out", lambda match: "out.2"),
    (r"^mid_block\.attentions\.0", lambda match: "middle_block.1"),
    (r"^mid_block\.resnets\.([01])", lambda match: f"middle_block.{2 * int(match[1])}"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda match: f"input_blocks.{3 * int(match[1]) + 3}.0.op"),
    (r"^up_blocks\.(\d)\.upsamplers\.0", lambda match: f"output_blocks.{3 * int(match[1]) + 2}.2"),
    (r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda match: _unet_block("input", 1, match)),
    (r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda match: _unet_block("output", 0, match)),
]
_UNET_RESNET = [
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]


def _unet_block(side: str, first: int, match: re.Match[str]) -> str:
    """Blocks are numbered through, three to a resolution; the first input block is the convolution."""
    return f"{side}_blocks.{3 * int(match[1]) + int(match[3]) + first}.{int(match[2] == 'attentions')}"


def _unet_name(name: str) -> str:
    if ".resnets." in name:
        name = _substitute(name, _UNET_RESNET)
    for pattern, replacement in _UNET_ENDS:
        name = re.sub(pattern, replacement, name)
    return name


def write_tensors(path: Path, entries: list[Entry]) -> None:
    """Write a safetensors file, tensor by tensor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in (ordered := sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))):
        start, end = end, end + torch.Size(entry.shape).numel() * entry.dtype.itemsize
        header[entry.name] = {"dtype": CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in ordered:
            file.write(entry.make().contiguous().flatten().view(torch.uint8).numpy())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="write a diffusers folder there")
    parser.add_argument("--file", type=Path, help="write one .safetensors file in the original layout there")
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a few megabytes")
    parser.add_argument("--quick", action="store_true", help="repeat one block of noise: as fast as the disk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--v-prediction", action="store_true", help="mark it as predicting v, not the noise")
    options = parser.parse_args()
    if not (options.folder or options.file):
        parser.error("give --folder, --file or both")
    recipe = Recipe(options.tiny, options.seed, DTYPES[options.dtype], options.v_prediction, options.quick)
    if options.folder:
        write_folder(options.folder, recipe)
    if options.file:
        write_file(options.file, recipe)


if __name__ == "__main__":
    main()
