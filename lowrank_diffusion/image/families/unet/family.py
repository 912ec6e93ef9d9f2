"""What the families of Stability's UNets have in common. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....tensor_files import Header
from .. import clip_layers
from ..family import Place
from ..outline import Factors, Outline
from . import checks, outline
from .factors import FACTORS
from .names import Layout, names, place


class UNetFamily:
    """The part of :class:`..family.Family` that does not differ among them."""

    denoiser = "unet"
    denoiser_title = "UNet"
    noise = "DDPM's noise with epsilon or v_prediction"
    factors: Factors = FACTORS

    def scheduler_problems(self, kinds: Sequence[str], config: Mapping[str, Any]) -> list[str]:
        """They learn from DDPM's noise."""
        return checks.scheduler_problems(kinds, config)

    def scheduler_facts(self, header: Header) -> dict[str, Any]:
        """Nothing if the file does not say: then the configuration's epsilon holds."""
        return checks.scheduler_facts(header)

    def outline(self, config: Mapping[str, Any]) -> Outline:
        """By diffusers' UNet2DConditionModel."""
        return outline.outline(config)

    def encoder_layers(self, encoder: str, blocks: int, kind: str) -> tuple[str, ...]:
        """Of all blocks."""
        return clip_layers.layers(blocks, kind)

    def public_name(self, part: str, path: str) -> str:
        """diffusers' path behind the part's name."""
        return f"{part}.{path if part == self.denoiser else clip_layers.public_name(path)}"

    def layer_names(self, part: str, path: str, config: Any) -> list[str]:
        """diffusers' names and the original code's, with dots and with underscores."""
        return names(path, Layout.of(config)) if part == self.denoiser else clip_layers.names(path)

    def place(self, part: str, path: str) -> Place:
        """By the blocks of the UNet; each text encoder is one block, before them."""
        return place(path) if part == self.denoiser else clip_layers.place(part, path)

    def layout(self, config: Any) -> Layout:
        """What the original names depend on."""
        return Layout.of(config)

    def layout_of(self, metadata: Mapping[str, str]) -> Layout:
        """SDXL's where a file does not say."""
        return Layout.of_metadata(metadata)
