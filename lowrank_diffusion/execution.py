"""How a step can run, from settings and a few facts of the machine, without torch.

The training step obeys it, the memory estimate counts by it: each rule is here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable

from .config import Config
from .optimizers import OPTIMIZERS

CAPTURED = [row.name for row in OPTIMIZERS.values() if row.captured]
NF4_BLOCK = 64
"""Weights of a row that share a scale in base.quantize=nf4."""


def obstacle(cfg: Config, device: str, precision: str, no_kernel: str, rows: Iterable[tuple[str, int]]) -> str:
    """Why steps have to be eager; empty if they need not.

    Args:
        cfg: The settings.
        device: "cuda", "mps" or "cpu".
        precision: "fp16" scales its loss on the host; others do not.
        no_kernel: Why Flat-LoRA's kernel is not there; empty if it is (:func:`.kernels.missing`).
        rows: (path, inputs) of the adapted layers whose weights are quantised.
    """
    optimizer = OPTIMIZERS[cfg.optimizer.name]
    uneven = [row for row in rows if row[1] % NF4_BLOCK] if cfg.base.quantize == "nf4" else []
    reasons = (
        (device != "cuda", f"the device is {device}, and only CUDA captures steps"),
        (precision == "fp16", "fp16 scales its loss; bf16 and fp32 do not"),
        (not optimizer.captured, f"optimizer.name={optimizer.name} cannot be captured, {', '.join(CAPTURED)} can"),
        (cfg.adapter.dropout > 0, "adapter.dropout draws a mask at every layer"),
        (True, cfg.adapter.method.obstacle),
        (bool(cfg.flat.sigma), no_kernel),
        *((True, f"the rows of {path} are {n} long, no multiple of nf4's {NF4_BLOCK}") for path, n in uneven[:1]),
    )
    return next((reason for holds, reason in reasons if holds and reason), "")


def keeps_noise(cfg: Config, captured: bool, no_kernel: str) -> bool:
    """Whether perturbed weights are kept from forward to backward pass, for the memory of the adapted weights.

    Those of a quantised base would take the memory that it saves. The eager step keeps what it has no kernel to make
    again in one launch.
    """
    wanted = bool(cfg.flat.sigma) and cfg.flat.keep and cfg.base.quantize == "none"
    return wanted and (captured or bool(no_kernel))
