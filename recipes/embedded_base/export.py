"""Checkpoints -> a folder that plain `StableDiffusionXLPipeline.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import base, nets
from .judge import plain_dtype, text_config
from .settings import CONTEXT, Settings

SCHEDULER = {
    "num_train_timesteps": base.TRAIN_STEPS,
    "beta_start": base.BETAS[0],
    "beta_end": base.BETAS[1],
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}


def pipeline(model: nn.Module, vae: nn.Module, words: Path, settings: Settings, out: Path) -> None:
    """Write UNet, text encoders, autoencoder, scheduler, tokenizers and index, weights in fp16."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    towers = [_tower(model, settings, i) for i in (0, 1)]
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=towers[0],
        text_encoder_2=towers[1],
        tokenizer=CLIPTokenizer.from_pretrained(words, model_max_length=CONTEXT),
        tokenizer_2=CLIPTokenizer.from_pretrained(words, model_max_length=CONTEXT),
        unet=model.unet.to(memory_format=torch.contiguous_format),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipe.to(torch.float16)
    pipe.save_pretrained(out, safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2"):
        plain_dtype(out / name / "config.json")


def _tower(model: nn.Module, settings: Settings, index: int) -> nn.Module:
    """One trained text tower as transformers' own class."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = settings.sizes
    width, layers = sizes.text_widths[index], sizes.text_layers[index]
    config = CLIPTextConfig(**text_config(sizes.vocabulary, width, layers, width))
    kind = (CLIPTextModel, CLIPTextModelWithProjection)[index]
    tower = kind(config)
    state = (model.text_encoder, model.text_encoder_2)[index].state_dict()
    names = set(tower.state_dict())
    # Releases of transformers differ in whether CLIPTextModel keeps the "text_model." level in memory.
    if not names & set(state):
        state = {k.removeprefix("text_model."): v for k, v in state.items()}
    tower.load_state_dict(state, strict=True)
    return tower


def parts(state: dict[str, torch.Tensor], folder: Path, limit: int = 15_000_000) -> None:
    """Write fp16 weights as several files of at most `limit` bytes, for links that refuse larger ones."""
    shelf: dict[str, torch.Tensor] = {}
    size = number = 0
    for name, tensor in state.items():
        weight = 2 * tensor.numel()
        if size + weight > limit and shelf:
            nets.save_half(shelf, folder / f"part-{number}.safetensors")
            shelf, size, number = {}, 0, number + 1
        shelf[name], size = tensor, size + weight
    nets.save_half(shelf, folder / f"part-{number}.safetensors")


def joined(folder: Path) -> dict[str, torch.Tensor]:
    """What `parts` wrote."""
    from safetensors.torch import load_file

    return {k: v.float() for path in sorted(folder.glob("part-*.safetensors")) for k, v in load_file(path).items()}
