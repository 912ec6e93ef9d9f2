"""The parts of a UNet of Stable Diffusion's kind, told from its config.json alone: no torch, no weights.

For estimating: which linear layers there are, how many other weights, and how large the tensors between them get.
Follows diffusers' UNet2DConditionModel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..outline import Block, Outline


@dataclass
class _Outline(Outline):
    """An outline that grows by diffusers' modules."""

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

    def transformer(self, path: str, level: int, width: int, depth: int, config: Mapping[str, Any]) -> None:
        """Add a Transformer2DModel of ``depth`` blocks."""
        context, linear = config["cross_attention_dim"], config["use_linear_projection"]
        self.norm(width)
        self._projection(f"{path}.proj_in", width, linear)
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
            self.apart.add(f"{block}.attn2.to_q")
        self._projection(f"{path}.proj_out", width, linear)

    def _projection(self, path: str, width: int, linear: bool) -> None:
        """Add the way into or out of a transformer: a linear layer, or a convolution of one pixel."""
        if linear:
            self.linear(path, width, width)
        else:
            self.convolution(width, width, 1)


_DEFAULTS = {
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "transformer_layers_per_block": 1,
    "use_linear_projection": False,
}  # fmt: skip
"""What diffusers takes where a config.json says nothing."""


def outline(config: Mapping[str, Any]) -> Outline:
    """The outline of the UNet that ``config`` (its config.json) describes."""
    config, builder = {**_DEFAULTS, **config}, _Outline()
    widths: list[int] = config["block_out_channels"]
    time = 4 * widths[0]
    builder.linear("time_embedding.linear_1", time, widths[0])
    builder.linear("time_embedding.linear_2", time, time)
    if config.get("addition_embed_type") == "text_time":
        builder.linear("add_embedding.linear_1", time, config["projection_class_embeddings_input_dim"])
        builder.linear("add_embedding.linear_2", time, time)
    builder.convolution(config["in_channels"], widths[0])
    skips = list(_down(builder, config, time))
    deepest = len(widths) - 1
    builder.resnet("mid_block.resnets.0", deepest, widths[-1], widths[-1], time)
    depth = _each(config["transformer_layers_per_block"], len(widths))[-1]
    builder.transformer("mid_block.attentions.0", deepest, widths[-1], depth, config)
    builder.resnet("mid_block.resnets.1", deepest, widths[-1], widths[-1], time)
    _up(builder, config, time, skips)
    builder.norm(widths[0])
    builder.convolution(widths[0], config["out_channels"])
    return builder


def _each(value: Any, count: int) -> list[int]:
    """A setting that is given once or for each block."""
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _down(builder: _Outline, config: Mapping[str, Any], time: int) -> Iterator[int]:
    """Add the way down; yields the channels of each skip connection."""
    widths = config["block_out_channels"]
    layers, depths = (_each(config[key], len(widths)) for key in ("layers_per_block", "transformer_layers_per_block"))
    before = widths[0]
    yield before
    for level, (width, kind) in enumerate(zip(widths, config["down_block_types"], strict=True)):
        for number in range(layers[level]):
            path = f"down_blocks.{level}"
            builder.resnet(f"{path}.resnets.{number}", level, before, width, time)
            if "CrossAttn" in kind:
                builder.transformer(f"{path}.attentions.{number}", level, width, depths[level], config)
            before = width
            yield width
        if level < len(widths) - 1:
            builder.convolution(width, width)
            yield width


def _up(builder: _Outline, config: Mapping[str, Any], time: int, skips: list[int]) -> None:
    """Add the way up."""
    widths = config["block_out_channels"][::-1]
    layers, depths = (_each(config[key], len(widths)) for key in ("layers_per_block", "transformer_layers_per_block"))
    before = widths[0]
    for number, (width, kind) in enumerate(zip(widths, config["up_block_types"], strict=True)):
        level, path = len(widths) - 1 - number, f"up_blocks.{number}"
        for inner in range(layers[level] + 1):
            builder.resnet(f"{path}.resnets.{inner}", level, before + skips.pop(), width, time)
            if "CrossAttn" in kind:
                builder.transformer(f"{path}.attentions.{inner}", level, width, depths[level], config)
            before = width
        if number < len(widths) - 1:
            builder.convolution(width, width)
