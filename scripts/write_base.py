"""Write a base with random weights: as a diffusers folder, and as one file in the original layout.

    python -m scripts.write_base --folder OUT --file OUT.safetensors          (SDXL of true size: 6.9 GB each in fp16)
    python -m scripts.write_base --tiny --folder OUT --file OUT.safetensors   (same layers and names, but narrow)
    python -m scripts.write_base --quick --folder OUT                         (true size, from one block of noise)
    python -m scripts.write_base --family sd1 --folder OUT                    (Stable Diffusion 1.5; sd2 for 2.1)

It draws noise: it is for trying what a real model asks of loaders, memory and time where none is at hand. The weights
are a function of the seed and of their names, the same in both layouts, and are written one tensor at a time, so the
true size needs about a gigabyte of memory, half of it torch itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig

from lowrank_diffusion import seeds
from lowrank_diffusion.image.families import FAMILIES, Family

from .original_names import Entry, open_clip, renamed, unet_name, vae, vae_name

DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
CODES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}

_VAE = {"block_out_channels": [16, 24, 32, 32], "norm_num_groups": 8, "sample_size": 128}
_NARROW = {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 16}
_UNET = {"block_out_channels": [16, 24, 32, 32], "norm_num_groups": 8, "sample_size": 16}
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "sdxl": {
        "unet": {
            "block_out_channels": [16, 24, 32],
            "norm_num_groups": 8,
            "attention_head_dim": [1, 2, 4],
            "cross_attention_dim": 48,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
            "sample_size": 16,
        },
        "vae": _VAE,
        "text_encoder": _NARROW,
        "text_encoder_2": {
            "hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "projection_dim": 32,
        },
    },
    "sd1": {"unet": _UNET | {"attention_head_dim": 2, "cross_attention_dim": 16}, "vae": _VAE, "text_encoder": _NARROW},
    "sd2": {
        "unet": _UNET | {"attention_head_dim": [1, 2, 4, 4], "cross_attention_dim": 16},
        "vae": _VAE,
        "text_encoder": _NARROW,
    },
}  # fmt: skip
"""Widths of the tiny ones; everything else, the number of layers above all, is the true model's."""
STEMS = {"text_encoder": "model", "text_encoder_2": "model"}


@dataclass(frozen=True)
class Recipe:
    """Which base to write."""

    family_name: str = "sdxl"
    tiny: bool = False
    seed: int = 0
    dtype: torch.dtype = torch.float16
    v_prediction: bool = False
    quick: bool = False  # repeat one block of noise: as fast as the disk

    @property
    def family(self) -> Family:
        """Of the base."""
        return FAMILIES[self.family_name]

    @property
    def models(self) -> list[str]:
        """Its parts that have weights."""
        return [name for name, part in self.family.parts.items() if part.stem]

    def config(self, part: str) -> dict[str, Any]:
        """The JSON config of a component."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        said = "v_prediction" if self.v_prediction else None
        config = json.loads((self.family.config(part, said) / name).read_text(encoding="utf-8"))
        if part == "scheduler" and self.v_prediction:
            config["prediction_type"] = "v_prediction"
        return config | (TINY[self.family_name].get(part, {}) if self.tiny else {})

    def model(self, part: str) -> torch.nn.Module:
        """A component without memory for its weights."""
        config = self.config(part)
        with init_empty_weights():
            if part == "unet":
                return UNet2DConditionModel.from_config(config)
            if part == "vae":
                return AutoencoderKL.from_config(config)
            return self.family.network().classes[part](CLIPTextConfig(**config))

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
    shutil.copyfile(recipe.family.config("") / "model_index.json", folder / "model_index.json")
    for name in recipe.family.tokenizers:
        shutil.copytree(recipe.family.config(name), folder / name, dirs_exist_ok=True)
    _write_json(folder / "scheduler" / "scheduler_config.json", recipe.config("scheduler"))
    for part in recipe.models:
        _write_json(folder / part / "config.json", recipe.config(part))
        stem = STEMS.get(part, "diffusion_pytorch_model")
        write_tensors(folder / part / f"{stem}.safetensors", list(recipe.entries(part).values()))


def write_file(path: Path, recipe: Recipe) -> None:
    """Write one file in the layout of Stability AI's original checkpoint."""
    write_tensors(path, list(original(recipe)))


def original(recipe: Recipe) -> Iterator[Entry]:
    """The tensors of a whole checkpoint in the original layout."""
    if recipe.family_name == "sd2":
        yield from open_clip(_with_last_block(recipe), "cond_stage_model.model.", recipe.dtype)
    else:
        yield from _clip(recipe, "conditioner.embedders.0." if recipe.family_name == "sdxl" else "cond_stage_model.")
    if recipe.family_name == "sdxl":
        yield from open_clip(recipe.entries("text_encoder_2"), "conditioner.embedders.1.model.", recipe.dtype)
    for name, entry in recipe.entries("vae").items():
        yield vae(entry, "first_stage_model." + vae_name(name))
    for name, entry in recipe.entries("unet").items():
        yield renamed(entry, "model.diffusion_model." + unet_name(name, recipe.config("unet")["up_block_types"]))
    if recipe.v_prediction:
        yield Entry("v_pred", (0,), recipe.dtype, lambda: torch.empty(0, dtype=recipe.dtype))


def _clip(recipe: Recipe, prefix: str) -> Iterator[Entry]:
    """The first text encoder, with the positions that older releases of transformers kept."""
    positions = recipe.config("text_encoder")["max_position_embeddings"]
    text = f"{prefix}transformer.text_model."
    yield Entry(f"{text}embeddings.position_ids", (1, positions), torch.int64, lambda: torch.arange(positions)[None])
    for name, entry in recipe.entries("text_encoder").items():
        yield renamed(entry, text + name.removeprefix("text_model."))


def _with_last_block(recipe: Recipe) -> dict[str, Entry]:
    """Stable Diffusion 2's text encoder as OpenCLIP has it: with one more block, which is never read."""
    entries = recipe.entries("text_encoder")
    entries = {f"text_model.{name.removeprefix('text_model.')}": entry for name, entry in entries.items()}
    last = recipe.config("text_encoder")["num_hidden_layers"]
    of_last = {name: entry for name, entry in entries.items() if f".layers.{last - 1}." in name}
    return entries | {name.replace(f".{last - 1}.", f".{last}."): entry for name, entry in of_last.items()}


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
    parser.add_argument("--family", choices=TINY, default="sdxl", help="what kind of base")
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a few megabytes")
    parser.add_argument("--quick", action="store_true", help="repeat one block of noise: as fast as the disk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    parser.add_argument("--v-prediction", action="store_true", help="mark it as predicting v, not the noise")
    options = parser.parse_args()
    if not (options.folder or options.file):
        parser.error("give --folder, --file or both")
    recipe = Recipe(
        options.family, options.tiny, options.seed, DTYPES[options.dtype], options.v_prediction, options.quick
    )  # fmt: skip
    if options.folder:
        write_folder(options.folder, recipe)
    if options.file:
        write_file(options.file, recipe)


if __name__ == "__main__":
    main()
