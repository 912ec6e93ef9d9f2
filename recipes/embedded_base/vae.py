"""The autoencoder: 128 px pictures <-> 16 x 16 x 4 latents of unit variance."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import nets
from .fit import Fit, Run, averaged
from .settings import CHANNELS, LATENT, Settings

KL_WEIGHT = 2e-3
EDGE_WEIGHT = 0.5
SQUARE_WEIGHT = 3.0


def train(pictures: torch.Tensor, settings: Settings, run: Run) -> bool:
    """pictures (N, 3, H, W) bytes on the device. Leaves a checkpoint; True when the last step is done."""
    model = nets.seeded(lambda: nets.vae(settings.sizes), settings.seed).to(run.device)
    batch = settings.vae.batch
    shape = (batch, CHANNELS, LATENT, LATENT)
    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda")
    if run.device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)

    def roundtrip(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        moments = model.quant_conv(model.encoder(clean)).float()
        mean, log_variance = moments.chunk(2, 1)
        log_variance = log_variance.clamp(-20, 10)
        latent = mean + (0.5 * log_variance).exp() * noise
        made = model.decoder(model.post_quant_conv(latent)).float()
        # KL of N(mean, variance) from N(0, 1), per latent number.
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return distance(made, clean) + KL_WEIGHT * divergence

    step = torch.compile(roundtrip) if settings.compiled else roundtrip

    def loss(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(pictures), (batch,), generator=generator, device=run.device)
        clean = pictures[rows].float() / 127.5 - 1
        noise = torch.randn(shape, generator=generator, device=run.device)
        with autocast:
            return step(clean, noise)

    return Fit(model, loss, settings.vae, run).go()


def distance(made: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """L1 + squared error + L1 of horizontal and vertical differences, values in [-1, 1]."""
    across = F.l1_loss(made.diff(dim=3), clean.diff(dim=3))
    down = F.l1_loss(made.diff(dim=2), clean.diff(dim=2))
    return F.l1_loss(made, clean) + SQUARE_WEIGHT * F.mse_loss(made, clean) + EDGE_WEIGHT * (across + down)


@torch.no_grad()
def finish(pictures: torch.Tensor, settings: Settings, folder: Path, device: torch.device) -> nn.Module:
    """Take the averaged weights and fold the latents' mean and deviation into the two 1x1 convolutions.

    z' = (z - m) / s. Encoder side: mean rows w / s, (b - m) / s; log-variance rows b - 2 ln s. Decoder side:
    w s per input channel, b + w m. Then scaling_factor is 1 and latents are N(0, 1) per channel.
    """
    model = nets.vae(settings.sizes)
    model.load_state_dict(averaged(model, folder))
    model = model.to(device).eval()
    count = min(4096, len(pictures))
    rows = torch.linspace(0, len(pictures) - 1, count, device=device).long()
    latents = torch.cat([encode(model, pictures[part]) for part in rows.split(128)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, back = model.quant_conv, model.post_quant_conv
    quant.weight[:CHANNELS] /= deviation.view(-1, 1, 1, 1)
    quant.bias[:CHANNELS] = (quant.bias[:CHANNELS] - mean) / deviation
    quant.bias[CHANNELS:] -= 2 * deviation.log()
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= deviation.view(1, -1, 1, 1)
    nets.save_half(model.state_dict(), folder / "vae.safetensors")
    return nets.load_half(model, folder / "vae.safetensors")  # what the pool sees is what ships


@torch.no_grad()
def encode(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) bytes -> posterior means (B, 4, h, w)."""
    clean = pictures.float() / 127.5 - 1
    return model.quant_conv(model.encoder(clean))[:, :CHANNELS]


@torch.no_grad()
def psnr(model: nn.Module, pictures: torch.Tensor) -> float:
    """Mean over pictures of 10 log10(1 / mse), values in [0, 1]."""
    found = []
    for part in pictures.split(64):
        made = model.decode(encode(model, part)).sample.clamp(-1, 1)
        error = (made / 2 + 0.5 - part.float() / 255).square().mean((1, 2, 3))
        found.append(-10 * error.clamp_min(1e-10).log10())
    return float(torch.cat(found).mean())
