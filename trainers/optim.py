"""Optimisers from libraries, and the learning rate as a function of the step (no scheduler state to save)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import nn

from lowrank_diffusion.config import OptimizerConfig
from lowrank_diffusion.devices import DeviceError

SHARE = "share"
"""The key of a group's share of the learning rate."""


def lr_at(cfg: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0) of ``steps``."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    done = (step - cfg.warmup) / max(1, steps - cfg.warmup)
    decay = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return cfg.lr * decay[cfg.schedule]


def groups(cfg: OptimizerConfig, parameters: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    """``parameters`` by the learning rates they have: the text encoders' may differ."""
    text = {name: parameter for name, parameter in parameters.items() if name.startswith("text_encoder")}
    rest = [parameter for name, parameter in parameters.items() if name not in text]
    param_groups = [{"params": rest, SHARE: 1.0}]
    if text:
        param_groups.append({"params": list(text.values()), SHARE: cfg.lr_of_text_encoders / cfg.lr})
    return param_groups


def build(cfg: OptimizerConfig, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser over the adapter's float32 parameters, in :func:`groups`.

    Raises:
        DeviceError: 8-bit AdamW without CUDA.
    """
    common = {"lr": cfg.lr, "weight_decay": cfg.weight_decay}
    device = next(iter(parameters.values())).device.type
    return MAKERS[cfg.name](cfg, groups(cfg, parameters), device, common)


Groups = list[dict[str, Any]]


def _adamw(cfg: OptimizerConfig, param_groups: Groups, device: str, common: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(param_groups, betas=(cfg.beta1, cfg.beta2), fused=device != "mps", **common)


def _adamw8bit(
    cfg: OptimizerConfig, param_groups: Groups, device: str, common: dict[str, Any]
) -> torch.optim.Optimizer:
    if device != "cuda":
        raise DeviceError("optimizer.name: adamw8bit runs on CUDA only. Take optimizer.name=adamw on this device.")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(param_groups, betas=(cfg.beta1, cfg.beta2), **common)


def _prodigy(cfg: OptimizerConfig, param_groups: Groups, _device: str, common: dict[str, Any]) -> torch.optim.Optimizer:
    from prodigyopt import Prodigy

    own = {"betas": (cfg.beta1, cfg.beta2), "use_bias_correction": True, "safeguard_warmup": cfg.warmup > 0}
    with redirect_stdout(StringIO()):  # it prints which kind of weight decay it has
        return Prodigy(param_groups, **own, **common)


def _adafactor(
    _cfg: OptimizerConfig, param_groups: Groups, _device: str, common: dict[str, Any]
) -> torch.optim.Optimizer:
    # eps: its step is scaled by the weight's size, and every B starts at zero; with 1.0 the step is lr itself
    return torch.optim.Adafactor(param_groups, eps=(None, 1.0), **common)


MAKERS: dict[str, Callable[[OptimizerConfig, Groups, str, dict[str, Any]], torch.optim.Optimizer]] = {
    "adamw": _adamw, "adamw8bit": _adamw8bit, "prodigy": _prodigy, "adafactor": _adafactor,
}  # fmt: skip
"""How each row of :data:`~lowrank_diffusion.optimizers.OPTIMIZERS` is made."""
