"""LoRA (arXiv 2106.09685): a plain pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .kind import Placed, Size, View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ..factors import Factors
    from .settings import AdapterConfig


class Lora(Placed):
    """dW = s B A with A (r, n) and B (m, r)."""

    name, title, about = "lora", "LoRA", "LoRA"
    parts, zeros = ("lora_A", "lora_B"), ("lora_B",)
    kept = ("peft_type", "r", "lora_alpha", "lora_dropout")

    def size(self, cfg: AdapterConfig, m: int, n: int) -> Size:
        """r (m + n) numbers, rank r."""
        return Size(cfg.rank * (m + n), cfg.rank)

    def config(self, cfg: AdapterConfig, paths: list[str]) -> Any:
        """``peft.LoraConfig``."""
        import peft

        alpha: Any = cfg.scaling * cfg.rank
        return peft.LoraConfig(r=cfg.rank, lora_alpha=alpha, lora_dropout=cfg.dropout, target_modules=paths)

    def layer_class(self) -> type:
        """``LoraLayer``."""
        from peft.tuners.lora import LoraLayer

        return LoraLayer

    def factors(self, module: Any, name: str) -> Factors:
        """The pair itself. A convolution's A, (R, n, height, width), comes as (R, n * height * width)."""
        from ..factors import Factors

        a, b = self.trained(module, name).values()
        return Factors(a.flatten(1), b.flatten(1) * module.scaling[name])

    def obstacle_to_factors(self, module: Any, name: str, path: str) -> str:
        """PEFT's variants, such as DoRA, and biases are."""
        if name in module.lora_variant:
            return f"{path} has an adapter of another kind ({type(module.lora_variant[name]).__name__})"
        return f"the adapter of {path} has a bias" if module.lora_B[name].bias is not None else ""

    def shape(self, module: Any, name: str) -> tuple[int, ...]:
        """r."""
        return (module.lora_A[name].weight.shape[0],)

    def views(self, a: Tensor, b: Tensor, stored: list[Tensor], scaling: float) -> Iterable[View]:
        """All of A and all of B."""
        return (a, stored[0], 1.0), (b, stored[1], scaling)
