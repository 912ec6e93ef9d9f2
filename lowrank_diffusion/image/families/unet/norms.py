"""Group norms whose statistics stay in float32.

CUDA's kernel computes them in float32, but rounds mean and deviation to the input's type before it uses them. In bf16
that is an error of up to 0.4 % that a whole group of channels shares, and so one that does not average out over its
elements. Autocast and compiled code do not make it; with this, neither does a step without them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32GroupNorm(nn.GroupNorm):
    """A group norm that CUDA computes in float32, and rounds once."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), same dtype; under autocast float32, as ever."""
        narrow = input.is_cuda and input.dtype in (torch.bfloat16, torch.float16)
        if not narrow or torch.compiler.is_compiling() or torch.is_autocast_enabled("cuda"):
            return super().forward(input)
        weight, bias = (None if part is None else part.float() for part in (self.weight, self.bias))
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


def use_float32_norms(model: nn.Module) -> None:
    """Make the group norms of a UNet :class:`Float32GroupNorm`; by their class, for the reason in gated.use_gates."""
    for module in model.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = Float32GroupNorm
