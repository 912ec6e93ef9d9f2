"""What a tensor of a diffusers folder is called, and how it lies, in Stability AI's original checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """A tensor that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def renamed(entry: Entry, name: str) -> Entry:
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


def open_clip(entries: dict[str, Entry], prefix: str, dtype: torch.dtype) -> Iterator[Entry]:
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
            yield renamed(entry, new)


def vae_name(name: str) -> str:
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


def vae(entry: Entry, name: str) -> Entry:
    """The original's attention is made of 1 x 1 convolutions."""
    if ".attn_1." in name and len(entry.shape) == 2:
        return Entry(name, (*entry.shape, 1, 1), entry.dtype, lambda: entry.make()[:, :, None, None])
    return renamed(entry, name)


_UNET_ENDS = [
    (r"^time_embedding\.linear_([12])", lambda match: f"time_embed.{2 * int(match[1]) - 2}"),
    (r"^add_embedding\.linear_([12])", lambda match: f"label_emb.0.{2 * int(match[1]) - 2}"),
    (r"^conv_in", lambda match: "input_blocks.0.0"),
    (r"^conv_norm_out", lambda match: "out.0"),
    (r"^conv_out", lambda match: "out.2"),
    (r"^mid_block\.attentions\.0", lambda match: "middle_block.1"),
    (r"^mid_block\.resnets\.([01])", lambda match: f"middle_block.{2 * int(match[1])}"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda match: f"input_blocks.{3 * int(match[1]) + 3}.0.op"),
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


def unet_name(name: str, up_blocks: list[str]) -> str:
    if ".resnets." in name:
        name = _substitute(name, _UNET_RESNET)
    if match := re.match(r"up_blocks\.(\d)\.upsamplers\.0", name):  # behind the attention, where there is some
        place = f"output_blocks.{3 * int(match[1]) + 2}.{1 + ('Attn' in up_blocks[int(match[1])])}"
        return place + name[match.end() :]
    for pattern, replacement in _UNET_ENDS:
        name = re.sub(pattern, replacement, name)
    return name
