"""LoKr (arXiv 2309.14859): the Kronecker product of a small whole matrix and a low-rank one.

dW = s w1 (x) (w2_a w2_b) with w1 (p, q), w2_a (m/p, r) and w2_b (r, n/q). It is the plain pair B = s w1 (x) w2_a and
A = I_q (x) w2_b of rank q r, because (X (x) Y) (Z (x) V) = X Z (x) Y V. PEFT's other forms are left out: w1 decomposed
too, w2 whole (its pair would have rank n), convolutions, and dropout of whole layers or rows.

How large a learning rate it needs: the first step of Adam sets every number of w1 to +-lr, and those of w2 have a
standard deviation of 1 / (3 sqrt(n/q)), so the update's is lr / (3 sqrt(n/q)). LoRA's is lr sqrt(r / 3n), which makes
LoKr's sqrt(q / 3r) times as large at the same rank and scaling.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from ..declare import Problem
from .kind import Kind, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from ..factors import Factors
    from .settings import AdapterConfig


def split(side: int, factor: int | None) -> tuple[int, int]:
    """The sides of w1 and w2 whose product is that of a layer, as LyCORIS and PEFT choose them (``factorization``).

    A ``factor`` that divides ``side`` is the side of w1. Otherwise w1 gets the largest divisor of ``side`` that is at
    most ``factor`` and leaves w2 at least as long; without a factor that is the nearly square split.
    """
    if factor and side % factor == 0:
        return factor, side // factor
    most = factor or side
    first = next(d for d in range(min(most, math.isqrt(side)), 0, -1) if side % d == 0)
    return first, side // first


class LoKr(Kind):
    """Trains w1, w2_a and w2_b; w1 begins at zero."""

    name, title, about = "lokr", "LoKr", "LoKr (Kronecker product of two small matrices: the fewest parameters)"
    fields = ("factor",)
    parts, zeros = ("lokr_w1", "lokr_w2_a", "lokr_w2_b"), ("lokr_w1",)
    kept = ("peft_type", "r", "alpha", "decompose_factor")

    def check(self, cfg: AdapterConfig) -> Iterator[Problem]:
        """PEFT's LoKr has no dropout of inputs."""
        if cfg.dropout:
            rule = f"must be 0 with adapter.kind=lokr, which has no dropout of inputs, got {cfg.dropout}."
            yield Problem("dropout", rule)

    def check_sides(self, cfg: AdapterConfig, sides: Mapping[str, tuple[int, int]]) -> Iterator[Problem]:
        """From half of the longer side of w2 on, PEFT keeps w2 whole, whose pair would be as large as the layer."""
        largest = {path: (max(self._w2(cfg, *pair)) - 1) // 2 for path, pair in sides.items()}
        wrong = [path for path, most in largest.items() if cfg.rank > most]
        if wrong:
            path = min(wrong, key=lambda path: largest[path])
            (rows, columns), (m, n) = self._w2(cfg, *sides[path]), sides[path]
            rule = (
                f"must be below half the longer side of w2, got {cfg.rank}; {path} is {m} x {n}, its w2 {rows} x "
                f"{columns} ({len(wrong)} such layers)."
            )
            smaller = "a smaller adapter.factor" if cfg.factor else "an adapter.factor, such as 4,"
            hint = f"Allowed here: up to {largest[path]}." if largest[path] else "No rank is allowed here."
            yield Problem("rank", rule, f"{hint} With {smaller} w2 is larger." if cfg.factor != 1 else hint)

    def _w2(self, cfg: AdapterConfig, m: int, n: int) -> tuple[int, int]:
        return split(m, cfg.factor)[1], split(n, cfg.factor)[1]

    def words(self, cfg: AdapterConfig) -> str:
        """With the factor where there is one."""
        return super().words(cfg) + (f" f{cfg.factor}" if cfg.factor else "")

    def size(self, cfg: AdapterConfig, m: int, n: int) -> Size:
        """p q + r (m/p + n/q) numbers, rank q r."""
        (p, rows), (q, columns) = split(m, cfg.factor), split(n, cfg.factor)
        return Size(p * q + cfg.rank * (rows + columns), q * cfg.rank)

    def config(self, cfg: AdapterConfig, paths: list[str]) -> Any:
        """``peft.LoKrConfig``."""
        import peft

        alpha: Any = cfg.scaling * cfg.rank
        return peft.LoKrConfig(r=cfg.rank, alpha=alpha, decompose_factor=cfg.factor or -1, target_modules=paths)

    def layer_class(self) -> type:
        """``LoKrLayer``."""
        from peft.tuners.lokr import LoKrLayer

        return LoKrLayer

    def adopt(self, module: Any, name: str) -> None:
        """Multiply by the factors instead of making the update."""
        plain, ours = _layers()
        if type(module) is plain and not self.obstacle_to_factors(module, name, ""):
            module.__class__ = ours  # PEFT makes layers itself, of classes that it does not let one choose

    def factors(self, module: Any, name: str) -> Factors:
        """In closed form, of rank q r."""
        import torch

        from ..factors import Factors

        w1, w2_a, w2_b = self.trained(module, name).values()
        one = torch.eye(w1.shape[1], dtype=w1.dtype, device=w1.device)
        return Factors(torch.kron(one, w2_b), torch.kron(w1, w2_a) * module.scaling[name])

    def obstacle_to_factors(self, module: Any, name: str, path: str) -> str:
        """PEFT's other forms."""
        whole = len(self.trained(module, name)) == len(self.parts) and name not in module.lokr_t2
        return "" if whole else f"the LoKr of {path} is not a whole w1 and a low-rank w2"

    def shape(self, module: Any, name: str) -> tuple[int, ...]:
        """q r, r."""
        rank = module.lokr_w2_a[name].shape[1]
        return module.lokr_w1[name].shape[1] * rank, rank

    def refresh(self, a: Tensor, b: Tensor, stored: list[Tensor], scaling: float) -> None:
        """B[(i,o),(j,t)] = s w1[i,j] w2_a[o,t] and A[(j,t),(j,c)] = w2_b[t,c]."""
        import torch

        w1, w2_a, w2_b = stored
        of_a, of_b = _inside(a, b, w1)
        of_a.copy_(w2_b[:, :, :, None].expand_as(of_a))
        torch.mul((w1 * scaling)[:, :, None, :, None], w2_a[:, None, :, None, :], out=of_b)

    def collect(self, a: Tensor, b: Tensor, stored: list[Tensor], grads: list[Tensor], scaling: float) -> None:
        """The chain rule for :meth:`refresh`: what each number went into, summed."""
        import torch

        w1, w2_a, _ = stored
        of_a, of_b = _inside(a, b, w1)
        grads[0].copy_(torch.einsum("liojt,lot->lij", of_b, w2_a) * scaling)
        grads[1].copy_(torch.einsum("liojt,lij->lot", of_b, w1) * scaling)
        grads[2].copy_(of_a.sum(dim=3))


def _inside(a: Tensor, b: Tensor, w1: Tensor) -> tuple[Tensor, Tensor]:
    """A's blocks on the diagonal as (L, t, c, j), and B as (L, i, o, j, t)."""
    _, p, q = w1.shape
    blocks = a.unflatten(2, (q, -1)).unflatten(1, (q, -1)).diagonal(dim1=1, dim2=3)
    return blocks, b.unflatten(2, (q, -1)).unflatten(1, (p, -1))


@functools.cache
def _layers() -> tuple[type, type]:
    """PEFT's linear layer and ours, made when PEFT is first needed.

    PEFT's makes the update (m, n) in every forward pass and keeps it for the backward pass, takes its shape from the
    base's weight, which quantised layers pack, and draws a number from torch's global generator for its dropout even
    where there is none.
    """
    import torch
    import torch.nn.functional as F
    from peft.tuners.lokr.layer import Linear

    class LowRankLinear(Linear):
        """y = x W^T + b + s vec(w1 X w2_b^T w2_a^T) with X (q, n/q) the input as a matrix, by rows."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            """(..., n) -> (..., m)."""
            if self.disable_adapters or self.merged:
                return super().forward(x, *args, **kwargs)
            y = self.base_layer(x, *args, **kwargs)
            kind = y.dtype
            for name in (name for name in self.active_adapters if name in self.lokr_w1):
                w1, w2_a, w2_b = self.lokr_w1[name], self.lokr_w2_a[name], self.lokr_w2_b[name]
                low = F.linear(self._cast_input_dtype(x, w1.dtype).unflatten(-1, (w1.shape[1], -1)), w2_b)
                y = y + F.linear(torch.matmul(w1, low), w2_a).flatten(-2) * self.scaling[name]
            return y.to(kind)

    return Linear, LowRankLinear
