"""Formulas of papers, written out, for tests to compare with."""

from __future__ import annotations

import torch
from torch import Tensor


def gralora_delta(a: Tensor, b: Tensor) -> Tensor:
    """GraLoRA's update block by block (arXiv 2505.20355, eq. 5), unscaled: (k, n/k, r), (k, r, m/k) -> (m, n)."""
    k, _, r = a.shape
    t = r // k
    rows = []
    for i in range(k):
        blocks = [(a[j, :, i * t : (i + 1) * t] @ b[i, j * t : (j + 1) * t, :]).T for j in range(k)]
        rows.append(torch.cat(blocks, dim=1))
    return torch.cat(rows, dim=0)
