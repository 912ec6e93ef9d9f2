"""What cannot be counted of a run's memory, measured on SDXL with benchmarks/memory.py."""

from __future__ import annotations

from dataclasses import dataclass

from ..devices import GIB


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
    """Bytes that SDXL's VAE needs for each pixel of a picture that it encodes."""
    decoded_pixel: float
    """Bytes that it needs for each pixel of a picture that it draws."""
    tight: float
    """Share of them that will do where there are no more: the rest lies free between the blocks."""
    workspace: dict[str, float]
    """Bytes for the libraries' own use, by the way steps run."""
    quantized: float
    """Bytes for weights on the way from their codes to a product."""
    slack: float
    """Memory that is taken from the GPU for each byte in use: the rest lies between the blocks."""


FACTORS = Factors(
    transformer={"eager": 52.0, "fast": 40.0},
    resnet={"eager": 8.8, "fast": 4.5},
    checkpoint={"eager": 2.9, "fast": 4.0},
    drawing=8.0,
    encoded_pixel=2600.0,
    decoded_pixel=7800.0,
    tight=0.66,
    workspace={"eager": 0.1 * GIB, "fast": 0.5 * GIB},
    quantized=0.35 * GIB,
    slack=1.04,
)
