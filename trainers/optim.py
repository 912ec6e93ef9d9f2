"""Optimisers from libraries, and the learning rate as a function of the step (no scheduler state to save)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lowrank_diffusion.config import OptimizerConfig
from lowrank_diffusion.devices import DeviceError


def lr_at(cfg: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0) of ``steps``."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    done = (step - cfg.warmup) / max(1, steps - cfg.warmup)
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return cfg.lr * decay[cfg.schedule]


def build(cfg: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over the adapter's float32 parameters.

    Raises:
        DeviceError: 8-bit AdamW without CUDA.
    """
    betas = (cfg.beta1, cfg.beta2)
    common: dict[str, Any] = {"lr": cfg.lr, "weight_decay": cfg.weight_decay}
    if cfg.name == "adamw":
        return torch.optim.AdamW(parameters, betas=betas, fused=parameters[0].device.type != "mps", **common)
    if cfg.name == "adafactor":
        # eps: its step is scaled by the weight's size, and every B starts at zero; with 1.0 the step is lr itself
        return torch.optim.Adafactor(parameters, eps=(None, 1.0), **common)
    if cfg.name == "prodigy":
        from prodigyopt import Prodigy

        return Prodigy(parameters, betas=betas, use_bias_correction=True, safeguard_warmup=cfg.warmup > 0, **common)
    if parameters[0].device.type != "cuda":
        raise DeviceError("optimizer.name: adamw8bit runs on CUDA only. Take optimizer.name=adamw on this device.")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, betas=betas, **common)
