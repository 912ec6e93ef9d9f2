"""The algebra of low-rank updates, as pure functions of tensors.

Letters: a layer's weight W is (m, n) = (out_features, in_features); r rank; k GraLoRA's blocks per side; R the rank of
a plain pair. A plain pair is A (R, n) and B (m, R) with update B A; any scaling is inside B. GraLoRA stores, as PEFT
does, A (k, n/k, r) and B (k, r, m/k): the pair of output block i and input block j is
``A[j, :, i*r/k:(i+1)*r/k]`` and ``B[i, j*r/k:(j+1)*r/k, :]``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """A plain low-rank pair whose update is ``b @ a``."""

    a: Tensor
    """(R, n)"""
    b: Tensor
    """(m, R)"""

    def delta(self) -> Tensor:
        """The update itself, (m, n)."""
        return self.b @ self.a


def relative_error(pair: Factors, true: Factors) -> float:
    """|dW - dW_true| / |dW_true| of two pairs of one shape, by Frobenius norms; 0 if both are zero.

    Their difference is the low-rank product [dB, B_true] [A; dA], so nothing of size (m, n) is made, and nothing is
    lost by subtracting what is nearly equal.
    """
    a, b, own_a, own_b = (t.double() for t in (true.a, true.b, pair.a, pair.b))
    difference = Factors(torch.cat([own_a, own_a - a]), torch.cat([own_b - b, b], dim=1))
    size = _norm(Factors(a, b))
    return _norm(difference) / size if size else float(_norm(difference) > 0)


def _norm(pair: Factors) -> float:
    """|B A|, from the two Gram matrices."""
    return float(((pair.b.T @ pair.b) * (pair.a @ pair.a.T)).sum().clamp(min=0).sqrt())


def gralora_to_lora(a: Tensor, b: Tensor, scaling: float) -> Factors:
    """The plain pair of rank k*r with exactly GraLoRA's update: every (block pair, rank) gets a rank index of its own.

    Args:
        a: (k, n/k, r)
        b: (k, r, m/k)
        scaling: multiplied into B, so that the pair's own scaling is 1.
    """
    k, columns, r = a.shape
    rows, t = b.shape[2], r // k
    lora_a = a.new_zeros(k, k, t, k, columns)  # (i, j, t | input block, column)
    lora_b = b.new_zeros(k, rows, k, k, t)  # (output block, row | i, j, t)
    lora_a.diagonal(dim1=1, dim2=3).copy_(a.unflatten(2, (k, t)).permute(2, 3, 1, 0))  # (i, t, column, j)
    lora_b.diagonal(dim1=0, dim2=2).copy_(scaling * b.unflatten(1, (k, t)).permute(3, 1, 2, 0))  # (row, j, t, i)
    return Factors(lora_a.reshape(k * r, k * columns), lora_b.reshape(k * rows, k * r))


def stack(*pairs: Factors) -> Factors:
    """One pair whose update is the sum of the pairs' updates; ranks add up."""
    return Factors(torch.cat([pair.a for pair in pairs], dim=0), torch.cat([pair.b for pair in pairs], dim=1))


def pad(pair: Factors, rank: int) -> Factors:
    """The same update at a larger rank, filled with zeros."""
    missing = rank - pair.a.shape[0]
    if missing < 0:
        raise ValueError(f"a pair of rank {pair.a.shape[0]} does not fit into rank {rank}")
    return Factors(torch.nn.functional.pad(pair.a, (0, 0, 0, missing)), torch.nn.functional.pad(pair.b, (0, missing)))


def compress(pair: Factors, rank: int) -> Factors:
    """The closest pair of a smaller rank in the Frobenius norm (Eckart-Young), without forming the (m, n) update.

    QR of both thin factors leaves an (R, R) core, whose SVD is the update's. The singular values are shared evenly
    between the two factors.
    """
    left, left_core = torch.linalg.qr(pair.b)
    right, right_core = torch.linalg.qr(pair.a.T)
    u, s, v = torch.linalg.svd(left_core @ right_core.T)
    rank = min(rank, s.shape[0])
    root = s[:rank].sqrt()
    return Factors((right @ v[:rank].T * root).T.contiguous(), left @ u[:, :rank] * root)


def row_norms_squared(weight: Tensor) -> Tensor:
    """Squared Euclidean norm of every row, (m, n) -> (m,), accumulated in at least float32."""
    wide = weight if weight.dtype == torch.float64 else weight.float()
    return wide.square().sum(dim=1)


def merged_row_norms(weight: Tensor, weight_norms_squared: Tensor, pair: Factors) -> Tensor:
    """Row norms of W + B A without forming it: |W_i|^2 + 2 B_i.(A W_i^T) + B_i (A A^T) B_i^T, all (m,).

    Args:
        weight: W, (m, n), of any floating type.
        weight_norms_squared: :func:`row_norms_squared` of W, computed once since W is frozen.
        pair: A (R, n), B (m, R).
    """
    a, b = pair.a.to(weight_norms_squared.dtype), pair.b.to(weight_norms_squared.dtype)
    cross = ((weight @ a.to(weight.dtype).T).to(b.dtype) * b).sum(dim=1)
    own = ((b @ (a @ a.T)) * b).sum(dim=1)
    return (weight_norms_squared + 2 * cross + own).clamp_min(0).sqrt()
