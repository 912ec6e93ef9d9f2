"""SDXL (arXiv 2307.01952): a UNet that reads two text encoders and how a picture is framed. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....paths import ASSETS
from ....tensor_files import Header
from .. import clip_layers
from ..family import Network, Part, Wrong
from ..strangers import UNET, VAE
from ..unet import checks
from ..unet.family import UNetFamily
from ..unet.names import Layout, names

TEXT_ENCODER, TEXT_ENCODER_2 = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
_FILE_PREFIXES = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}
_DEEPEST = f"{UNET}middle_block.1.transformer_blocks.9.attn2.to_k.weight"
_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


class SDXL(UNetFamily):
    """Facts of SDXL; see :class:`..family.Family`."""

    name = "sdxl"
    title = "SDXL"
    pipeline = "StableDiffusionXLPipeline"
    hub_names = re.compile(r"xl")
    encoders: tuple[str, ...] = ("text_encoder", "text_encoder_2")
    tokenizers: tuple[str, ...] = ("tokenizer", "tokenizer_2")
    parts: Mapping[str, Part] = {
        "scheduler": checks.PARTS["scheduler"],
        "text_encoder": checks.PARTS["text_encoder"],
        "text_encoder_2": Part(("CLIPTextModelWithProjection",), "model"),
        "tokenizer": checks.PARTS["tokenizer"],
        "tokenizer_2": checks.PARTS["tokenizer"],
        "unet": checks.PARTS["unet"],
        "vae": checks.PARTS["vae"],
    }
    marks: tuple[str, ...] = ("text_encoder_2.", "lora_te1_", "lora_te2_", "text_encoders.clip_g.")
    words_width = 2048
    silence_is_zero = True
    weights: Mapping[str, int] = {"text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "vae": 83_653_863}
    prefixes: Mapping[str, tuple[str, ...]] = {
        "unet": ("unet.", "lora_unet_", "lycoris_", "diffusion_model.", "model.diffusion_model."),
        "text_encoder_2": ("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."),
        "text_encoder": ("text_encoder.", "lora_te1_", "text_encoders.clip_l.transformer."),
    }
    metadata: Mapping[str, str] = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0",
    }

    def config(self, part: str, prediction: str | None = None) -> Path:
        """Those of SDXL base 1.0, which ship with the project."""
        return ASSETS / self.name / part

    def owns_config(self, config: Mapping[str, Any]) -> bool:
        """No other family has this pipeline."""
        return True

    def owns_file(self, header: Header) -> bool:
        """A UNet and one of the text encoders."""
        names = header.shapes
        return any(n.startswith(UNET) for n in names) and any(
            n.startswith((TEXT_ENCODER, TEXT_ENCODER_2)) for n in names
        )

    def says_prediction(self, header: Header) -> bool:
        """A file that says nothing predicts epsilon."""
        return True

    def file_problems(self, header: Header, vae: bool) -> list[Wrong]:
        """Reduced ones are refused too, since only a folder tells their layers."""
        needed: dict[str, str | tuple[str, ...]] = {"text encoder": TEXT_ENCODER, "second text encoder": TEXT_ENCODER_2}
        problems = list(checks.file_problems(header, self.title, needed | ({"VAE": VAE} if vae else {})))
        if _DEEPEST not in header.shapes:
            what = "is a reduced SDXL (such as SSD-1B), whose layers a single file does not tell."
            problems.append(Wrong(what, "Give its diffusers folder."))
        return problems

    def vae_file_problems(self, header: Header) -> list[Wrong]:
        """By the names and shapes of its tensors, and by its modelspec."""
        return checks.vae_file_problems(header, self.title, ("stable-diffusion-xl",))

    def config_problem(self, part: str, config: Mapping[str, Any], alone: bool = False) -> Wrong | None:
        """Of the UNet, by what it reads; of the VAE, by its channels and its scale."""
        channels, added = config.get("in_channels", 4), config.get("addition_embed_type")
        if part == "unet" and (channels != 4 or added != "text_time"):
            facts = f"in_channels={channels}, addition_embed_type={added}"
            return Wrong(f"is not the UNet of a text-to-image SDXL ({facts}).", "Give a plain SDXL.")
        return checks.vae_problem(config, self.title, alone, scaled=False) if part == "vae" else None

    def file_prefix(self, part: str) -> str | tuple[str, ...]:
        """Stability's."""
        return _FILE_PREFIXES[part]

    def encoder_layers(self, encoder: str, blocks: int, kind: str) -> tuple[str, ...]:
        """Without the first encoder's last block: SDXL reads what comes into it, and never what it makes."""
        return clip_layers.layers(blocks - (encoder == "text_encoder"), kind)

    def kohya_name(self, part: str, path: str, layout: Layout) -> str:
        """The original ("sgm") names of the UNet's layers, which every reader knows."""
        name = names(path, layout)[1] if part == "unet" else clip_layers.public_name(path).replace(".", "_")
        return f"{_KOHYA[part]}_{name}"

    def network(self) -> Network:
        """Imports torch and diffusers."""
        from .network import NETWORK

        return NETWORK
