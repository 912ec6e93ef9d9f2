"""What a denoiser consists of, and what was measured of its memory: the words in which families say it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Block:
    """A part that gradient checkpointing recomputes as a whole."""

    kind: str
    """"transformer" or "resnet"."""
    level: int
    """How often the latent's sides are halved where it works."""
    inputs: int
    """Channels that come in."""
    outputs: int
    """Channels that go out."""


@dataclass
class Outline:
    """The layers of a denoiser."""

    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(m, n) of every linear layer by its path."""
    apart: set[str] = field(default_factory=set)
    """Linear layers that read another input than their siblings do."""
    weights: int = 0
    """All weights and biases, those of the linear layers included."""
    blocks: list[Block] = field(default_factory=list)
    """In the order of a forward pass."""


@dataclass(frozen=True)
class Factors:
    """What is measured. Bytes per element are per number in the tensor between two layers."""

    transformer: dict[str, float]
    """Bytes that a transformer block leaves for backward, per token and channel, by the way steps run."""
    resnet: dict[str, float]
    """Bytes that a resnet leaves for backward, per pixel of the latent and channel in or out."""
    checkpoint: dict[str, float]
    """With checkpointing: bytes that a block leaves instead, per element of its input, by the way steps run."""
    drawing: float
    """Bytes of the largest moment of a forward pass without gradients, per element of its largest block."""
    encoded_pixel: float
    """Bytes that the VAE needs for each pixel of a picture that it encodes."""
    decoded_pixel: float
    """Bytes that it needs for each pixel of a picture that it draws."""
    tight: float
    """Share of them that is enough if no more are available: the rest is unused space between allocated blocks."""
    workspace: dict[str, float]
    """Bytes for the libraries' own use, by the way steps run."""
    quantized: float
    """Bytes for weights on the way from their codes to a product."""
    slack: float
    """Memory that is taken from the GPU for each byte in use: the rest lies between the blocks."""
