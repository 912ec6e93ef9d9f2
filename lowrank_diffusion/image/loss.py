"""The denoising objective of DreamBooth on latents.

x0 clean latent, noise ~ N(0, 1), abar_t the cumulative product of the base's schedule; x_t = sqrt(abar) x0 +
sqrt(1 - abar) noise. Losses are per example, (B,), so that the caller weighs and reduces them. A mask m, 1 where the
loss counts, makes of the mean over a latent a weighted one: sum(w e) / sum(w) with w = m + (1 - m) loss.mask_outside,
so that a picture counts the same however much of it the mask leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ..config import ConfigError, LossConfig, Problem

UNWEIGHTED = LossConfig(min_snr=0.0, noise_offset=0.0)


@dataclass(frozen=True)
class Objective:
    """The base's noise schedule and what it predicts, with our weighting; see :class:`.families.Objective`."""

    alphas_cumprod: Tensor
    """(T,) float32, on the training device."""
    prediction: str
    """'epsilon' or 'v_prediction'."""
    settings: LossConfig = UNWEIGHTED

    def plain(self) -> Objective:
        """The same without our weighting of timesteps, for validation; masks count."""
        settings = UNWEIGHTED.model_copy(update={"mask_outside": self.settings.mask_outside})
        return Objective(self.alphas_cumprod, self.prediction, settings)

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return self.alphas_cumprod.shape[0]

    def drawn_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform, (count,) int64 on the CPU."""
        return torch.randint(self.timesteps, (count,), generator=generator)

    def spaced_timesteps(self, count: int) -> Tensor:
        """Evenly spaced, (count,) int64 on the CPU."""
        return torch.arange(count) * self.timesteps // count + self.timesteps // (2 * count)

    def shifted(self, noise: Tensor, offset: Tensor) -> Tensor:
        """``noise`` (B, C, h, w) with ``loss.noise_offset`` times a number for each channel, (B, C, 1, 1)."""
        return noise + self.settings.noise_offset * offset

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t, (B, C, H, W)."""
        abar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return abar.sqrt() * clean + (1 - abar).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should say: the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x0 (arXiv 2202.00512)."""
        if self.prediction == "epsilon":
            return noise
        abar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return abar.sqrt() * noise - (1 - abar).sqrt() * clean

    def weight(self, timesteps: Tensor) -> Tensor:
        """Min-SNR weight (arXiv 2303.09556), (B,): min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v."""
        if not self.settings.min_snr:
            return torch.ones_like(timesteps, dtype=torch.float32)
        abar = self.alphas_cumprod[timesteps]
        snr = abar / (1 - abar)
        capped = snr.clamp(max=self.settings.min_snr)
        if self.prediction == "epsilon":
            return torch.where(snr > 0, capped / snr.clamp_min(1e-12), 1.0)
        return capped / (snr + 1)

    def loss(
        self, predicted: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Weighted mean squared error of each example, (B,), in float32; ``mask``: (B, 1, h, w), 0 to 1, or none."""
        error = (predicted.float() - self.target(clean, noise, timesteps).float()).square()
        if mask is None:
            return self.weight(timesteps) * error.flatten(1).mean(dim=1)
        outside = self.settings.mask_outside
        share = mask * (1 - outside) + outside
        share = share / share.sum(dim=(1, 2, 3), keepdim=True)  # (B, 1, h, w), of sum 1
        return self.weight(timesteps) * (share * error).flatten(1).sum(dim=1) / error.shape[1]


def objective(scheduler: Any, settings: LossConfig, device: torch.device) -> Objective:
    """The objective that belongs to a base's scheduler.

    Raises:
        ConfigError: for a base that predicts neither epsilon nor v.
    """
    training: Any = DDPMScheduler.from_config(scheduler.config)
    kind = training.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ConfigError(
            [Problem("base.prediction", f"the base predicts {kind!r}.", "Only epsilon and v_prediction train.")]
        )
    return Objective(training.alphas_cumprod.to(device), kind, settings)
