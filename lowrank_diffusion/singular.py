"""What the update of a layer is made of: its singular values, and what follows from them.

Letters as in factors.py: the update dW = B A is (m, n), A (R, n), B (m, R). With p_i = s_i / sum(s) the effective rank
is exp(-sum p_i ln p_i) (Roy and Vetterli, "The effective rank", EUSIPCO 2007) and the stable rank |dW|^2 / s_1^2
(Rudelson and Vershynin, arXiv math/0503442): both are R where all values are equal, and 1 where there is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .evaluations import LayerSpectrum
from .factors import Factors


def singular_values(pair: Factors) -> Tensor:
    """Those of B A, falling, (min(R, m, n),) float64 on the pair's device; the (m, n) update is never made.

    QR of both thin factors leaves a core of at most (R, R) with the same values. A convolution's pair, A (R, n, h, w),
    is that of the flattened weight.
    """
    a, b = pair.a.flatten(1).double(), pair.b.flatten(1).double()
    _, left = torch.linalg.qr(b, mode="r")
    _, right = torch.linalg.qr(a.T, mode="r")
    return torch.linalg.svdvals(left @ right.T)


def effective_rank(values: Tensor) -> float:
    """exp(entropy) of the values (R,); 0 of an update that is zero."""
    total = values.sum()
    if not total > 0:
        return 0.0
    share = values / total
    return float(torch.special.entr(share).sum().exp())


def stable_rank(values: Tensor) -> float:
    """|dW|^2 / s_1^2 of the values (R,); 0 of an update that is zero."""
    largest = values.max() if len(values) else values.sum()
    return float((values / largest).square().sum()) if largest > 0 else 0.0


def layer(path: str, block: str, kind: str, pair: Factors, weight: Tensor) -> LayerSpectrum:
    """One layer's row; ``weight`` is the base's, which may have no values ("meta")."""
    values = singular_values(pair)
    norm = None if weight.is_meta else float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float32))
    return LayerSpectrum(
        path=path, block=block, kind=kind, rank=pair.a.shape[0], values=tuple(_short(v) for v in values.tolist()),
        effective=effective_rank(values), stable=stable_rank(values), norm=float(values.norm()),
        base=norm,
    )  # fmt: skip


def _short(value: float) -> float:
    """Six digits: what a chart shows, in a third of the file."""
    return float(f"{value:.6g}")
