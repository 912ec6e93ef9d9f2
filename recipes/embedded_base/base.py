"""Joint training of the UNet and both text encoders on a pool of latents."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import nets
from .fit import Fit, Run, averaged
from .pool import Pool
from .settings import Settings

TRAIN_STEPS = 1000  # of the noise schedule
BETAS = (0.00085, 0.012)  # SDXL's, linear in the square root
UNCONDITIONAL = 0.1  # share of zeroed text embeddings, for guidance
CLAMP = 5.0  # weight of a clean-picture error is min(SNR + 1, CLAMP)


def signal(device: torch.device) -> torch.Tensor:
    """(1000,) cumulative alphas with zero terminal SNR (Lin et al. 2023, algorithm 1).

    Without it the last timestep still shows the mean colour of the picture, and plain coloured or dark
    backgrounds come out washed. The scheduler's `rescale_betas_zero_snr` computes the same numbers.
    """
    betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    root = (1 - betas).cumprod(0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root.square().float().to(device)


def weights(alphas: torch.Tensor) -> torch.Tensor:
    """(1000,) weight of the squared v error per timestep.

    |v error|^2 = (SNR + 1) |x0 error|^2, so min(SNR + 1, CLAMP) / (SNR + 1) caps what nearly clean pictures
    count. Unlike min-SNR it does not vanish at zero SNR, where a prompt decides everything.
    """
    snr = alphas / (1 - alphas)
    return (snr + 1).clamp(max=CLAMP) / (snr + 1)


def train(pool: Pool, settings: Settings, run: Run) -> bool:
    """Advance the base until its last step or the time limit; True when done."""
    model = nets.seeded(lambda: nets.Base(settings.sizes), settings.seed).to(run.device)
    alphas = signal(run.device)
    weight = weights(alphas)
    batch, (count, kinds) = settings.base.batch, pool.ids.shape[:2]
    if run.device.type == "cuda":
        model.unet = model.unet.to(memory_format=torch.channels_last)
    predict = torch.compile(model) if settings.compiled else model
    autocast = torch.autocast(run.device.type, torch.bfloat16, enabled=run.device.type == "cuda")
    strata = torch.arange(batch, device=run.device)

    def loss(generator: torch.Generator) -> torch.Tensor:
        where = {"generator": generator, "device": run.device}
        rows = torch.randint(count, (batch,), **where)
        ids = pool.ids[rows, torch.randint(kinds, (batch,), **where)].long()
        clean = pool.latents[rows].float()
        noise = torch.randn(clean.shape, **where)
        # One timestep out of each of `batch` equal strata: the same average, less variance.
        time = ((strata + torch.rand(batch, **where)) * (TRAIN_STEPS / batch)).long().clamp(max=TRAIN_STEPS - 1)
        keep = (torch.rand(batch, **where) >= UNCONDITIONAL).float()
        scale = alphas[time].sqrt().view(-1, 1, 1, 1)
        spread = (1 - alphas[time]).sqrt().view(-1, 1, 1, 1)
        with autocast:
            made = predict(scale * clean + spread * noise, time, ids, pool.micro[rows], keep).float()
        error = (made - (scale * noise - spread * clean)).square().mean((1, 2, 3))
        return (weight[time] * error).mean()

    return Fit(model, loss, settings.base, run).go()


def finish(settings: Settings, folder: Path) -> nn.Module:
    """The base with its averaged weights."""
    model = nets.Base(settings.sizes)
    model.load_state_dict(averaged(model, folder))
    return model.eval()
