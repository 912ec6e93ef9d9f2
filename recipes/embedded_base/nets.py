"""The networks of the pipeline, at the sizes of the settings, and helpers that every stage shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .settings import CHANNELS, CONTEXT, LATENT, SIDE, Sizes
from .towers import TextTower

TIME_CHANNELS = 32  # per number of the micro-conditioning


def unet_config(sizes: Sizes) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel: SDXL's layout, one transformer layer per attention block."""
    pooled = sizes.text_widths[1]
    return {
        "sample_size": LATENT,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": sizes.unet_channels,
        "layers_per_block": sizes.unet_layers,
        "transformer_layers_per_block": [1, 1, 1],
        "attention_head_dim": [c // sizes.head for c in sizes.unet_channels],
        "norm_num_groups": sizes.groups,
        "use_linear_projection": True,
        "cross_attention_dim": sum(sizes.text_widths),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_CHANNELS,
        "projection_class_embeddings_input_dim": pooled + 6 * TIME_CHANNELS,
    }


def vae_config(sizes: Sizes) -> dict[str, Any]:
    """Arguments of AutoencoderKL: 8x smaller, four channels, like SDXL's."""
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": CHANNELS,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": sizes.vae_channels,
        "layers_per_block": 1,
        "norm_num_groups": min(16, min(sizes.vae_channels)),
        "sample_size": SIDE,
        "scaling_factor": 1.0,
        "force_upcast": False,
    }


def vae(sizes: Sizes) -> nn.Module:
    """A fresh autoencoder."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**vae_config(sizes))


class Base(nn.Module):
    """The parts that are trained together: UNet and both text towers."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        first, second = sizes.text_widths
        layers = sizes.text_layers
        self.unet = UNet2DConditionModel(**unet_config(sizes))
        self.text_encoder = TextTower(sizes.vocabulary, first, layers[0], CONTEXT, None)
        self.text_encoder_2 = TextTower(sizes.vocabulary, second, layers[1], CONTEXT, second)

    def forward(
        self, noisy: torch.Tensor, time: torch.Tensor, ids: torch.Tensor, micro: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        """noisy (B, 4, h, w), time (B,), ids (B, T), micro (B, 6), keep (B,) 0 or 1 -> prediction (B, 4, h, w).

        Where `keep` is 0 the text is replaced by zeros, as diffusers does for an absent negative prompt.
        """
        first, _ = self.text_encoder(ids)
        second, pooled = self.text_encoder_2(ids)
        states = torch.cat([first, second], -1) * keep.view(-1, 1, 1)
        added = {"text_embeds": pooled * keep.view(-1, 1), "time_ids": micro}
        return self.unet(noisy, time, encoder_hidden_states=states, added_cond_kwargs=added).sample


def device_of(name: str | None) -> torch.device:
    """The named device, else a GPU if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in module.parameters())


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network with its own seed; layers can only be initialised through the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def save_half(module_state: dict[str, torch.Tensor], path: Path) -> None:
    """fp16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in module_state.items()}
    save_file(half, path, metadata={"format": "pt"})


def load_half(module: nn.Module, path: Path, strict: bool = True) -> nn.Module:
    """Load what `save_half` wrote into float32 weights."""
    module.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=strict)
    return module


class Average:
    """Exponential moving average of the weights: average <- average + (1 - decay) * (weight - average).

    The decay starts low, min(decay, (1 + step) / (10 + step)), or a short run would keep a share of the
    random initial weights in its average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = list(module.parameters())
        self.names = [n for n, _ in module.named_parameters()]
        self.shadow = [p.detach().clone() for p in self.live]
        self.pace = torch.ones((), device=self.live[0].device)  # 1 - decay; a tensor, so that a graph rereads it

    def at(self, step: int) -> None:
        """Set the decay of a 0-based step."""
        self.pace.fill_(1 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights by one step."""
        gap = torch._foreach_sub([p.detach() for p in self.live], self.shadow)
        torch._foreach_mul_(gap, self.pace)
        torch._foreach_add_(self.shadow, gap)


def settle(device: torch.device) -> None:
    """Matrix products in TF32 on a GPU: the float32 parts of the recipe do not need more."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
