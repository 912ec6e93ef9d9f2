"""The parts of an SDXL-type UNet, told from its config.json alone: no torch, no weights.

For estimating: which linear layers there are, how many other weights, and how large the tensors between them get.
Follows diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Block:
    """A part that gradient checkpointing recomputes as a whole: a resnet, or a transformer block."""

    kind: str
    """"resnet" or "transformer"."""
    level: int
    """How often the latent's sides are halved where it works."""
    inputs: int
    """Channels that come in."""
    outputs: int
    """Channels that go out."""


@dataclass
class Outline:
    """What a UNet consists of."""

    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(m, n) of every linear layer by its path."""
    weights: int = 0
    """All weights and biases, those of the linear layers included."""
    blocks: list[Block] = field(default_factory=list)
    """In the order of a forward pass."""

    def linear(self, path: str, rows: int, columns: int, bias: bool = True) -> None:
        """Add a linear layer."""
        self.linears[path] = rows, columns
        self.weights += rows * columns + rows * bias

    def convolution(self, inputs: int, outputs: int, side: int = 3) -> None:
        """Add a convolution with a bias."""
        self.weights += inputs * outputs * side * side + outputs

    def norm(self, channels: int) -> None:
        """Add a norm with scale and shift."""
        self.weights += 2 * channels

    def resnet(self, path: str, level: int, inputs: int, outputs: int, time: int) -> None:
        """Add a ResnetBlock2D."""
        self.norm(inputs)
        self.convolution(inputs, outputs)
        self.linear(f"{path}.time_emb_proj", outputs, time)
        self.norm(outputs)
        self.convolution(outputs, outputs)
        if inputs != outputs:
            self.convolution(inputs, outputs, 1)
        self.blocks.append(Block("resnet", level, inputs, outputs))

    def transformer(self, path: str, level: int, width: int, depth: int, context: int) -> None:
        """Add a Transformer2DModel of ``depth`` blocks."""
        self.norm(width)
        self.linear(f"{path}.proj_in", width, width)
        for number in range(depth):
            block = f"{path}.transformer_blocks.{number}"
            for name, source in (("attn1", width), ("attn2", context)):
                self.linear(f"{block}.{name}.to_q", width, width, bias=False)
                self.linear(f"{block}.{name}.to_k", width, source, bias=False)
                self.linear(f"{block}.{name}.to_v", width, source, bias=False)
                self.linear(f"{block}.{name}.to_out.0", width, width)
            self.linear(f"{block}.ff.net.0.proj", 8 * width, width)
            self.linear(f"{block}.ff.net.2", width, 4 * width)
            for _ in range(3):
                self.norm(width)
            self.blocks.append(Block("transformer", level, width, width))
        self.linear(f"{path}.proj_out", width, width)


_DEFAULTS = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "transformer_layers_per_block": 1}
"""What diffusers takes where a config.json says nothing."""


def outline(config: Mapping[str, Any]) -> Outline:
    """The outline of the UNet that ``config`` (its config.json) describes."""
    config, found = {**_DEFAULTS, **config}, Outline()
    widths: list[int] = config["block_out_channels"]
    time = 4 * widths[0]
    found.linear("time_embedding.linear_1", time, widths[0])
    found.linear("time_embedding.linear_2", time, time)
    found.linear("add_embedding.linear_1", time, config["projection_class_embeddings_input_dim"])
    found.linear("add_embedding.linear_2", time, time)
    found.convolution(config["in_channels"], widths[0])
    skips = list(_down(found, config, time))
    deepest = len(widths) - 1
    found.resnet("mid_block.resnets.0", deepest, widths[-1], widths[-1], time)
    depth = _each(config["transformer_layers_per_block"], len(widths))[-1]
    found.transformer("mid_block.attentions.0", deepest, widths[-1], depth, config["cross_attention_dim"])
    found.resnet("mid_block.resnets.1", deepest, widths[-1], widths[-1], time)
    _up(found, config, time, skips)
    found.norm(widths[0])
    found.convolution(widths[0], config["out_channels"])
    return found


def _each(value: Any, count: int) -> list[int]:
    """A setting that is given once or for each block."""
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _down(found: Outline, config: Mapping[str, Any], time: int) -> Iterator[int]:
    """Add the way down; yields the channels of each skip connection."""
    widths = config["block_out_channels"]
    layers, depths = (_each(config[key], len(widths)) for key in ("layers_per_block", "transformer_layers_per_block"))
    before = widths[0]
    yield before
    for level, (width, kind) in enumerate(zip(widths, config["down_block_types"], strict=True)):
        for number in range(layers[level]):
            path = f"down_blocks.{level}"
            found.resnet(f"{path}.resnets.{number}", level, before, width, time)
            if "CrossAttn" in kind:
                context = config["cross_attention_dim"]
                found.transformer(f"{path}.attentions.{number}", level, width, depths[level], context)
            before = width
            yield width
        if level < len(widths) - 1:
            found.convolution(width, width)
            yield width


def _up(found: Outline, config: Mapping[str, Any], time: int, skips: list[int]) -> None:
    """Add the way up."""
    widths = config["block_out_channels"][::-1]
    layers, depths = (_each(config[key], len(widths)) for key in ("layers_per_block", "transformer_layers_per_block"))
    before = widths[0]
    for number, (width, kind) in enumerate(zip(widths, config["up_block_types"], strict=True)):
        level, path = len(widths) - 1 - number, f"up_blocks.{number}"
        for inner in range(layers[level] + 1):
            found.resnet(f"{path}.resnets.{inner}", level, before + skips.pop(), width, time)
            if "CrossAttn" in kind:
                context = config["cross_attention_dim"]
                found.transformer(f"{path}.attentions.{inner}", level, width, depths[level], context)
            before = width
        if number < len(widths) - 1:
            found.convolution(width, width)
