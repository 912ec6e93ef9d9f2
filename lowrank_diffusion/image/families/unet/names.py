"""What a UNet's layers are called: diffusers' module paths, and those of the original ("sgm") code.

kohya's scripts write the original names with ``_`` for ``.``, and that is what ComfyUI, Forge, A1111, diffusers and
kohya's own tools read whole. No torch here.

Source of the rules: the module tree of Stability's ``generative-models`` (``openaimodel.UNetModel``). Its
``input_blocks`` count ``conv_in``, then for every level its resnets and a downsampler; ``output_blocks`` for every
level its resnets, the upsampler inside the last of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..family import Place

_FIXED = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
METADATA = "lowrank_diffusion.unet_layout"


@dataclass(frozen=True)
class Layout:
    """What the original names depend on."""

    layers_per_block: int = 2
    """0: the blocks differ, and no layer has an original name."""
    up_attention: tuple[bool, ...] = (True, True, False)
    """Whether the up blocks have attention; an upsampler's number depends on it. The default is SDXL's."""

    @classmethod
    def of(cls, config: Any) -> Layout:
        """That of a UNet's config (an object or a mapping)."""
        get: Any = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name)
        layers = get("layers_per_block")
        counts = set(layers) if isinstance(layers, list | tuple) else {layers}
        # Blocks of unlike length have no original names; 0 says so.
        return cls(
            int(counts.pop()) if len(counts) == 1 else 0, tuple("Attn" in kind for kind in get("up_block_types"))
        )

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> Layout:
        """That of the UNet of an adapter file that says so; SDXL's for any other."""
        try:
            said = json.loads(metadata[METADATA])
            return cls(int(said["layers_per_block"]), tuple(map(bool, said["up_attention"])))
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
            return cls()

    def metadata(self) -> dict[str, str]:
        """For an adapter file's header."""
        return {METADATA: json.dumps(asdict(self))}

    def original(self, path: str) -> str:
        """The original name of a layer: ``mid_block.resnets.1.conv1`` -> ``middle_block.2.in_layers.2``.

        Raises:
            ValueError: a path of no SDXL-shaped UNet.
        """
        if path in _FIXED and self.layers_per_block:
            return _FIXED[path]
        block, _, rest = path.partition(".")
        if block == "mid_block":
            kind, number, inner = _split(path, rest)
            place = {("resnets", 0): 0, ("attentions", 0): 1, ("resnets", 1): 2}.get((kind, number))
            if place is not None and self.layers_per_block:
                return f"middle_block.{place}.{_inner(path, kind, inner)}"
        elif block in ("down_blocks", "up_blocks"):
            level, _, rest = rest.partition(".")
            if level.isdecimal() and self.layers_per_block:
                return self._of_level(path, block == "up_blocks", int(level), *_split(path, rest))
        raise ValueError(f"{path} is not a layer of an SDXL-shaped UNet")

    def _of_level(self, path: str, up: bool, level: int, kind: str, number: int, inner: str) -> str:
        each = self.layers_per_block + 1
        if kind in ("resnets", "attentions"):
            place = level * each + number + (not up)
            return f"{_side(up)}.{place}.{int(kind == 'attentions')}.{_inner(path, kind, inner)}"
        if kind == "downsamplers" and not up and inner == "conv":
            return f"input_blocks.{(level + 1) * each}.0.op"
        if kind == "upsamplers" and up and inner == "conv" and level < len(self.up_attention):
            return f"output_blocks.{level * each + each - 1}.{1 + self.up_attention[level]}.conv"
        raise ValueError(f"{path} is not a layer of an SDXL-shaped UNet")


def _side(up: bool) -> str:
    return "output_blocks" if up else "input_blocks"


def _split(path: str, rest: str) -> tuple[str, int, str]:
    kind, _, rest = rest.partition(".")
    number, _, inner = rest.partition(".")
    if not number.isdecimal() or not inner:
        raise ValueError(f"{path} is not a layer of an SDXL-shaped UNet")
    return kind, int(number), inner


def _inner(path: str, kind: str, inner: str) -> str:
    if kind == "attentions":
        return inner  # the same in both
    if inner not in _RESNET:
        raise ValueError(f"{path} is not a layer of an SDXL-shaped UNet")
    return _RESNET[inner]


def names(path: str, layout: Layout) -> list[str]:
    """Every name under which files speak of a layer of a UNet; the second is what kohya's scripts write for SDXL."""
    names = [path, path.replace(".", "_")]
    try:
        original = layout.original(path)
    except ValueError:
        return names
    return [path, original.replace(".", "_"), path.replace(".", "_"), original]


_KINDS = {
    r"\.to_q$": "to_q",
    r"\.to_k$": "to_k",
    r"\.to_v$": "to_v",
    r"\.to_out\.0$": "to_out",
    r"\.ff\.": "feed-forward",
    r"\.proj_(in|out)$": "projection",
    r"time_emb|add_embedding": "time and size",
}
"""By expressions for the paths of layers; all others are convolutions."""


def place(path: str) -> Place:
    """Where a layer is: down, mid and up with the number of the block, or outside of them."""
    kind = next((kind for form, kind in _KINDS.items() if re.search(form, path)), "convolution")
    block, _, rest = path.partition(".")
    number = rest.partition(".")[0]
    if block in ("down_blocks", "up_blocks") and number.isdecimal():
        up = block == "up_blocks"
        return Place(100 + 200 * up + int(number), f"{'up' if up else 'down'} {number}", kind)
    return Place(200, "mid", kind) if block == "mid_block" else Place(50, "around the blocks", kind)
