"""The parts of a run's memory that cannot be counted, measured on SDXL's UNet and VAE with benchmarks/memory.py."""

from __future__ import annotations

from ....devices import GIB
from ..outline import Factors

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
