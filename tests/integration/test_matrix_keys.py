"""Every kind of adapter on every choice of layers of a whole SDXL: each program finds all it has in the file for it.

What a program looks for is written down here from its own code, as sets of names; nothing of ``layer_names`` is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lowrank_diffusion.image import foreign
from tests import full_sdxl
from tests.full_sdxl import CELLS, TARGETS, Cell

_TRANSFORMERS = {
    "down_blocks.1.attentions": (("input_blocks.4.1", "input_blocks.5.1"), 2),
    "down_blocks.2.attentions": (("input_blocks.7.1", "input_blocks.8.1"), 10),
    "mid_block.attentions": (("middle_block.1",), 10),
    "up_blocks.0.attentions": (("output_blocks.0.1", "output_blocks.1.1", "output_blocks.2.1"), 10),
    "up_blocks.1.attentions": (("output_blocks.3.1", "output_blocks.4.1", "output_blocks.5.1"), 2),
}
"""diffusers' lists of transformers: where Stability's code has each, and how many blocks one holds."""
_RESNETS = {
    "down_blocks.0.resnets": ("input_blocks.1.0", "input_blocks.2.0"),
    "down_blocks.1.resnets": ("input_blocks.4.0", "input_blocks.5.0"),
    "down_blocks.2.resnets": ("input_blocks.7.0", "input_blocks.8.0"),
    "mid_block.resnets": ("middle_block.0", "middle_block.2"),
    "up_blocks.0.resnets": ("output_blocks.0.0", "output_blocks.1.0", "output_blocks.2.0"),
    "up_blocks.1.resnets": ("output_blocks.3.0", "output_blocks.4.0", "output_blocks.5.0"),
    "up_blocks.2.resnets": ("output_blocks.6.0", "output_blocks.7.0", "output_blocks.8.0"),
}
_EMBEDDINGS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = [f"attn{number}.{end}" for number in (1, 2) for end in ("to_q", "to_k", "to_v", "to_out.0")]
_BLOCK += ["ff.net.0.proj", "ff.net.2"]
_CLIP = [f"self_attn.{end}_proj" for end in ("q", "k", "v", "out")] + ["mlp.fc1", "mlp.fc2"]


def _inside(depth: int) -> list[str]:
    return ["proj_in", "proj_out", *(f"transformer_blocks.{i}.{end}" for i in range(depth) for end in _BLOCK)]


def _unet() -> Iterator[tuple[str, str, str]]:
    """All linear layers of SDXL's UNet: diffusers' path, Stability's, and in what kohya's code has it."""
    for place, (originals, depth) in _TRANSFORMERS.items():
        for number, original in enumerate(originals):
            for end in _inside(depth):
                yield f"{place}.{number}.{end}", f"{original}.{end}", "Transformer2DModel"
    for place, originals in _RESNETS.items():
        for number, original in enumerate(originals):
            yield f"{place}.{number}.time_emb_proj", f"{original}.emb_layers.1", "ResnetBlock2D"
    for path, original in _EMBEDDINGS.items():
        yield path, original, ""


UNET = {original: path for path, original, _ in _unet()}
CLIP = {
    name: [f"encoder.layers.{i}.{end}" for i in range(count) for end in _CLIP] for name, count in ((1, 12), (2, 32))
}
PATHS = {f"lora_unet_{original.replace('.', '_')}": f"unet.{path}" for original, path in UNET.items()} | {
    f"lora_te{number}_text_model_{path.replace('.', '_')}": f"text_encoder{'_2' * (number == 2)}.{path}"
    for number, paths in CLIP.items()
    for path in paths
}
"""What each name in a kohya file stands for."""


def comfyui() -> set[str]:
    """ComfyUI and Forge: every weight of the model under its own name with ``_``, and the blocks of both encoders.

    ComfyUI, comfy/lora.py, model_lora_keys_unet and model_lora_keys_clip; Forge has a copy of it.
    """
    return {f"lora_unet_{original.replace('.', '_')}" for original in UNET} | _encoders()


def a1111() -> set[str]:
    """A1111: its modules by name with ``_``; the second encoder is open_clip's, whose q, k and v are one module.

    extensions-builtin/Lora/networks.py, convert_diffusers_name_to_compvis and load_network.
    """
    modules = {f"diffusion_model_{original.replace('.', '_')}" for original in UNET}
    modules |= {f"0_transformer_text_model_{path.replace('.', '_')}" for path in CLIP[1]}
    inside = ("attn", "attn_out_proj", "mlp_c_fc", "mlp_c_proj")
    modules |= {f"1_model_transformer_resblocks_{i}_{end}" for i in range(32) for end in inside}
    return {name for name in PATHS if _as_a1111(name) in modules}


def _as_a1111(name: str) -> str:
    name = name.replace("lora_unet_", "diffusion_model_").replace("lora_te1_text_model", "0_transformer_text_model")
    if not name.startswith("lora_te2_text_model_encoder_layers_"):
        return name
    name = name.replace("lora_te2_text_model_encoder_layers_", "1_model_transformer_resblocks_")
    for ours, theirs in (("self_attn", "attn"), ("mlp_fc1", "mlp_c_fc"), ("mlp_fc2", "mlp_c_proj")):
        name = name.replace(ours, theirs)
    return re.sub("_[qkv]_proj$", "", name)


def kohya() -> set[str]:
    """kohya's scripts, drawing, merging and going on with ``--dim_from_weights``: Linear layers inside the classes
    they name, so not what embeds time and size.

    sd-scripts, networks/lora.py, LoRANetwork; networks/sdxl_merge_lora.py, merge_to_sd_model.
    """
    return {f"lora_unet_{original.replace('.', '_')}" for _, original, inside in _unet() if inside} | _encoders()


def kohya_training() -> set[str]:
    """The same going on with ``--network_weights`` alone: without the resnets, too."""
    held = (original for _, original, inside in _unet() if inside == "Transformer2DModel")
    return {f"lora_unet_{original.replace('.', '_')}" for original in held} | _encoders()


def _encoders() -> set[str]:
    return {name for name in PATHS if name.startswith("lora_te")}


UNREAD = {"ComfyUI": (comfyui(), 0), "A1111": (a1111(), 0), "kohya": (kohya(), 4), "training": (kohya_training(), 21)}
"""The names that a program finds, and how many layers of ``all-linear`` it does not have: kohya's scripts what embeds
time and size, and where they go on by themselves the 17 resnets, too. Of every other choice all have all."""


def test_the_facts_are_of_one_size_with_sdxl():
    assert len(UNET) == 743 and [len(paths) for paths in CLIP.values()] == [72, 192]
    linears = {
        f"{name}.{path.removeprefix('text_model.')}"
        for name, model in full_sdxl.models().items()
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and path != "text_projection"
    }
    assert linears == set(PATHS.values())


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    """Models without adapters."""
    return full_sdxl.models()


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Cell]:
    kind, targets = request.param
    return targets, full_sdxl.write(kind, targets, tmp_path_factory.mktemp("cell"))


def _short(path: str) -> str:
    return path.replace(".text_model.", ".")


def test_each_program_knows_every_key_of_the_kohya_file(cell: tuple[str, Cell]):
    targets, files = cell
    tensors = load_file(files.kohya)
    names = {key.partition(".")[0] for key in tensors}
    assert len(names) == TARGETS[targets][1]
    assert {key.partition(".")[2] for key in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    for program, (found, count) in UNREAD.items():
        unread = names - found
        assert len(unread) == (count if targets == "all" else 0), (program, sorted(unread)[:3])
    second = {name.rpartition("_layers_")[2].partition("_")[0] for name in names if "te2" in name}
    for block in second:  # A1111 leaves an attention of open_clip as it is unless all four are there
        parts = {end for end in "qkv" if f"lora_te2_text_model_encoder_layers_{block}_self_attn_{end}_proj" in names}
        assert len(parts) == 3 and f"lora_te2_text_model_encoder_layers_{block}_self_attn_out_proj" in names


def test_the_kohya_file_means_what_was_trained(cell: tuple[str, Cell]):
    """By the rule of all its readers: W + alpha / rank * up @ down."""
    _, files = cell
    tensors = load_file(files.kohya)
    said = {}
    for name in {key.partition(".")[0] for key in tensors}:
        down, up = (tensors[f"{name}.lora_{side}.weight"].double() for side in ("down", "up"))
        said[PATHS[name]] = float(tensors[f"{name}.alpha"]) / down.shape[0] * up @ down
    _compare(said, files.deltas)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_our_own_reader_finds_every_layer(cell: tuple[str, Cell], form: str, fresh: dict[str, Any]):
    _, files = cell
    pairs = foreign.read(getattr(files, form), fresh)
    said = {f"{name}.{path}": p.b.double() @ p.a.double() for name, own in pairs.items() for path, p in own.items()}
    _compare({_short(path): delta for path, delta in said.items()}, files.deltas)


def test_the_diffusers_file_has_diffusers_own_paths(cell: tuple[str, Cell]):
    _, files = cell
    keys = {f"{path}.lora_{side}.weight" for path in map(_public, files.deltas) for side in "AB"}
    assert set(load_file(files.diffusers)) == keys


def _public(path: str) -> str:
    model, _, rest = _short(path).partition(".")
    return f"{model}.{rest}" if model == "unet" else f"{model}.text_model.{rest}"


def _compare(said: dict[str, torch.Tensor], deltas: dict[str, torch.Tensor]) -> None:
    true = {_short(path): delta for path, delta in deltas.items()}
    assert said.keys() == true.keys()
    assert max(float((said[path] - true[path]).abs().max()) for path in true) < 1e-5
    assert min(float(delta.abs().max()) for delta in true.values()) > 0.01
