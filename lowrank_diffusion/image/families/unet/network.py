"""What the networks of families with a UNet have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from ....config import LossConfig
from ...loss import Objective, objective
from .. import clip
from . import attention, flash, gated, norms
from .checks import VAE

CLASSES: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}


def converted(part: str, model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original tensors of a UNet or a VAE under diffusers' names; a VAE alone may have them already."""
    if part == "unet":
        return convert_ldm_unet_checkpoint(tensors, model.config)
    own = {_without_prefix(key): tensor for key, tensor in tensors.items()}
    return own if any(".down_blocks." in key for key in own) else convert_ldm_vae_checkpoint(own, model.config)


def _without_prefix(key: str) -> str:
    for prefix in VAE:
        key = key.removeprefix(prefix)
    return key


def of_text_model(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whether transformers keeps the text model in an attribute differs between its releases and its classes."""
    wrapped = hasattr(model, "text_model")
    return {key if wrapped else key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}


class UNetNetwork:
    """The part of :class:`..family.Network` that does not differ among the families of UNets."""

    def objective(self, scheduler: Any, settings: LossConfig, device: torch.device) -> Objective:
        """DDPM's."""
        return objective(scheduler, settings, device)

    def prepare(self, denoiser: nn.Module, device: torch.device) -> str:
        """Attention, gates and norms as faster kernels compute them."""
        attention.use_short_keys(denoiser, device)
        gated.use_gates(denoiser, device)
        norms.use_float32_norms(denoiser)
        return flash.use_flash(denoiser, device)

    def tokenise(self, tokenizers: Sequence[Any], prompts: Sequence[str], chunks: int) -> dict[str, Tensor]:
        """As CLIP reads them, for every encoder."""
        return clip.tokenise(tokenizers, prompts, chunks)
