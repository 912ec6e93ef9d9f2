"""Stable Diffusion 1 and 2 (arXiv 2112.10752): a UNet that reads one text encoder. No torch.

They share their pipeline. 2 has another text encoder (OpenCLIP's ViT-H without its last block), and its models for
768 pixels predict v.
"""

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
from ..unet.names import Layout

_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te"}


class _StableDiffusion(UNetFamily):
    """What 1 and 2 share."""

    name: str
    title: str
    linear: bool
    """Whether the way into a transformer is a linear layer, or a convolution of one pixel."""
    text_encoder: str
    """What the names of its tensors begin with in a checkpoint."""
    tokenizer: Path
    """CLIP's vocabulary with the family's way to fill up a text."""

    pipeline = "StableDiffusionPipeline"
    encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    parts: Mapping[str, Part] = checks.PARTS
    marks: tuple[str, ...] = ("lora_te_",)
    words_width: int
    silence_is_zero = False
    prefixes: Mapping[str, tuple[str, ...]] = {
        "unet": ("unet.", "lora_unet_", "lycoris_", "diffusion_model.", "model.diffusion_model."),
        "text_encoder": (
            "text_encoder.",
            "lora_te_",
            "text_encoders.clip_l.transformer.",
            "text_encoders.clip_h.transformer.",
        ),
    }

    def config(self, part: str, prediction: str | None = None) -> Path:
        """Those of the first models, which ship with the project; see :meth:`.SD2.config`."""
        return self.tokenizer if part == "tokenizer" else ASSETS / self.name / part

    def owns_config(self, config: Mapping[str, Any]) -> bool:
        """Recognised by the way into the UNet's transformers."""
        return bool(config.get("use_linear_projection", False)) == self.linear

    def owns_file(self, header: Header) -> bool:
        """A UNet and the text encoder."""
        names = header.shapes
        return any(n.startswith(UNET) for n in names) and any(n.startswith(self.text_encoder) for n in names)

    def says_prediction(self, header: Header) -> bool:
        """1 predicts epsilon."""
        return True

    def file_problems(self, header: Header, vae: bool) -> list[Wrong]:
        """Of a checkpoint that has both."""
        needed: dict[str, str | tuple[str, ...]] = {"text encoder": self.text_encoder}
        needed |= {"VAE": VAE} if vae else {}
        return list(checks.file_problems(header, self.title, needed))

    def vae_file_problems(self, header: Header) -> list[Wrong]:
        """By the names and shapes of its tensors, and by its modelspec."""
        return checks.vae_file_problems(header, self.title, ("stable-diffusion-v1", "stable-diffusion-v2"))

    def config_problem(self, part: str, config: Mapping[str, Any], alone: bool = False) -> Wrong | None:
        """Of the UNet, by what it reads; of the VAE, by its channels and its scale."""
        channels, added = config.get("in_channels", 4), config.get("addition_embed_type")
        classes = config.get("class_embed_type") or config.get("num_class_embeds")
        if part == "unet" and (channels != 4 or added is not None or classes):
            facts = f"in_channels={channels}, addition_embed_type={added}, class embedding: {classes}"
            return Wrong(f"is not the UNet of a text-to-image {self.title} ({facts}).", f"Give a plain {self.title}.")
        return checks.vae_problem(config, self.title, alone, scaled=True) if part == "vae" else None

    def file_prefix(self, part: str) -> str | tuple[str, ...]:
        """CompVis's."""
        return {"unet": UNET, "vae": VAE, "text_encoder": self.text_encoder}[part]

    def kohya_name(self, part: str, path: str, layout: Layout) -> str:
        """diffusers' names with underscores, as kohya's scripts write them for these families."""
        name = path if part == "unet" else clip_layers.public_name(path)
        return f"{_KOHYA[part]}_{name.replace('.', '_')}"

    def network(self) -> Network:
        """Imports torch and diffusers."""
        from .network import NETWORK

        return NETWORK


class SD1(_StableDiffusion):
    """Stable Diffusion 1.x; see :class:`..family.Family`."""

    name = "sd1"
    title = "Stable Diffusion 1"
    hub_names = re.compile(r"(stable-diffusion|(^|[-_/])sd)[-_]?v?1(?!\d{2})")
    linear = False
    words_width = 768
    text_encoder = "cond_stage_model.transformer."
    tokenizer = ASSETS / "sdxl" / "tokenizer"
    weights: Mapping[str, int] = {"text_encoder": 123_060_480, "vae": 83_653_863}
    metadata: Mapping[str, str] = {
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
    }


class SD2(_StableDiffusion):
    """Stable Diffusion 2.x; see :class:`..family.Family`."""

    name = "sd2"
    title = "Stable Diffusion 2"
    hub_names = re.compile(r"(stable-diffusion|(^|[-_/])sd)[-_]?v?2(?!\d{2})")
    linear = True
    words_width = 1024
    text_encoder = "cond_stage_model.model."
    tokenizer = ASSETS / "sdxl" / "tokenizer_2"
    weights: Mapping[str, int] = {"text_encoder": 340_387_840, "vae": 83_653_863}
    metadata: Mapping[str, str] = {
        "modelspec.architecture": "stable-diffusion-v2/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/stablediffusion",
        "ss_v2": "True",
        "ss_base_model_version": "sd_v2",
    }

    def config(self, part: str, prediction: str | None = None) -> Path:
        """Those of 2.1; the models that predict v are for 768 pixels, the others for 512."""
        return super().config("unet-768" if part == "unet" and prediction == "v_prediction" else part)

    def says_prediction(self, header: Header) -> bool:
        """A file of this family does so in its modelspec only."""
        return "v_pred" in header.shapes or bool(header.metadata.get("modelspec.prediction_type", "").strip())
