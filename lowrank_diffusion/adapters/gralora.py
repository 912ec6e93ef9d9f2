"""GraLoRA (arXiv 2505.20355): a pair for every one of k x k blocks; as a hybrid with a plain pair beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..declare import Problem
from .kind import Placed, Size, View

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from ..factors import Factors
    from .settings import AdapterConfig

MOST_BLOCKS = 16
"""The largest k that there is a setting for."""


class GraLora(Placed):
    """A (k, n/k, r) and B (k, r, m/k), see factors.py; of a hybrid also A (r_h, n) and B (m, r_h)."""

    name, title, about = "gralora", "GraLoRA", "GraLoRA (k x k blocks, rank up to k * rank)"
    fields = ("k", "hybrid_rank")
    parts = ("gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general")
    zeros = ("gralora_B", "gralora_B_general")
    kept = ("peft_type", "r", "alpha", "gralora_k", "hybrid_r", "gralora_dropout")

    def total_rank(self, cfg: AdapterConfig) -> int:
        """r + r_h."""
        return cfg.rank + cfg.hybrid_rank

    def check(self, cfg: AdapterConfig) -> Iterator[Problem]:
        """The rank is cut into k parts."""
        if cfg.rank % cfg.k:
            allowed = [k for k in range(1, MOST_BLOCKS + 1) if cfg.rank % k == 0]
            yield Problem("k", f"must divide adapter.rank={cfg.rank}, got {cfg.k}.", f"Allowed: {allowed}.")

    def check_sides(self, cfg: AdapterConfig, sides: Mapping[str, tuple[int, int]]) -> Iterator[Problem]:
        """So are both sides of every layer."""
        wrong = [path for path, (rows, columns) in sides.items() if rows % cfg.k or columns % cfg.k]
        if wrong:
            common = math.gcd(cfg.rank, *(side for pair in sides.values() for side in pair))
            allowed = [k for k in range(1, MOST_BLOCKS + 1) if common % k == 0]
            rows, columns = sides[wrong[0]]
            rule = f"must divide both sides of every layer, got {cfg.k}; {wrong[0]} is {rows} x {columns}"
            yield Problem("k", f"{rule} ({len(wrong)} such layers).", f"Allowed here: {allowed}.")

    def words(self, cfg: AdapterConfig) -> str:
        """With k, and with the hybrid rank where there is one."""
        return f"{super().words(cfg)} k{cfg.k}" + (f"+{cfg.hybrid_rank}" if cfg.hybrid_rank else "")

    def size(self, cfg: AdapterConfig, m: int, n: int) -> Size:
        """(r + r_h) (m + n) numbers, rank k r + r_h."""
        return Size(self.total_rank(cfg) * (m + n), cfg.k * cfg.rank + cfg.hybrid_rank)

    def config(self, cfg: AdapterConfig, paths: list[str]) -> Any:
        """``peft.GraloraConfig``."""
        import peft

        alpha: Any = cfg.scaling * cfg.total_rank
        return peft.GraloraConfig(
            r=cfg.rank, alpha=alpha, gralora_k=cfg.k, hybrid_r=cfg.hybrid_rank, gralora_dropout=cfg.dropout,
            target_modules=paths,
        )  # fmt: skip

    def layer_class(self) -> type:
        """``GraloraLayer``."""
        from peft.tuners.gralora import GraloraLayer

        return GraloraLayer

    def factors(self, module: Any, name: str) -> Factors:
        """In closed form, of rank k r + r_h."""
        from ..factors import Factors, gralora_to_lora, stack

        a, b, *general = self.trained(module, name).values()
        blocks = gralora_to_lora(a, b, module.scaling[name])
        return stack(blocks, Factors(general[0], general[1] * module.scaling[name])) if general else blocks

    def shape(self, module: Any, name: str) -> tuple[int, ...]:
        """k r + r_h, r, r_h, k."""
        a, _, *general = self.trained(module, name).values()
        k, _, rank = a.shape
        hybrid = general[0].shape[0] if general else 0
        return k * rank + hybrid, rank, hybrid, k

    def views(self, a: Tensor, b: Tensor, stored: list[Tensor], scaling: float) -> Iterator[View]:
        """:func:`lowrank_diffusion.factors.gralora_to_lora` as views.

        GraLoRA's rank index is (i, j, t) of output block i, input block j.
        """
        count, k, columns, rank = stored[0].shape
        rows, t = stored[1].shape[3], rank // k
        # (L, i, j, t, J, c), of which J = j is not zero -> (L, i, t, c, j)
        inside = a[:, : k * rank].unflatten(2, (k, columns)).unflatten(1, (k, k, t)).diagonal(dim1=2, dim2=4)
        yield inside, stored[0].view(count, k, columns, k, t).permute(0, 3, 4, 2, 1), 1.0
        # (L, I, o, i, j, t), of which I = i is not zero -> (L, o, j, t, i)
        inside = b[:, :, : k * rank].unflatten(2, (k, k, t)).unflatten(1, (k, rows)).diagonal(dim1=1, dim2=3)
        yield inside, stored[1].view(count, k, k, t, rows).permute(0, 4, 2, 3, 1), scaling
        if len(stored) > 2:
            yield a[:, k * rank :], stored[2], 1.0
            yield b[:, :, k * rank :], stored[3], scaling
