"""Text encoders whose adapters are trained with the denoiser's: the models as one, and their adapters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from .. import adapters
from ..config import AdapterConfig
from .families import Family
from .families.clip import inner


class WithTextEncoders(nn.Module):
    """A denoiser and its text encoders as one model, each under its name in a pipeline.

    Args:
        family: theirs.
        parts: the models by name.
    """

    def __init__(self, family: Family, parts: Mapping[str, nn.Module]):
        super().__init__()
        self.family = family
        for name in (family.denoiser, *family.encoders):
            self.add_module(name, parts[name])
        self._repeated_blocks = [*getattr(self.denoiser, "_repeated_blocks", ()), "CLIPEncoderLayer"]

    @property
    def denoiser(self) -> nn.Module:
        """The model that removes noise."""
        return self.get_submodule(self.family.denoiser)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The text encoders by name, in the order in which they are read."""
        return {name: self.get_submodule(name) for name in self.family.encoders}

    def enable_gradient_checkpointing(self) -> None:
        """Of the denoiser only: a text encoder leaves little for backward."""
        self.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]


def targets(family: Family, name: str, encoder: nn.Module, kind: str) -> tuple[str, ...]:
    """Paths of the layers in the encoder called ``name`` that ``adapter.text_encoders=kind`` adapts."""
    prefix = "text_model." if hasattr(encoder, "text_model") else ""
    return tuple(prefix + path for path in family.encoder_layers(name, len(inner(encoder).encoder.layers), kind))


def attach(family: Family, encoders: Mapping[str, nn.Module], cfg: AdapterConfig, seed: int) -> None:
    """Adapters on all encoders. Raises ConfigError."""
    for name, encoder in encoders.items():
        paths = targets(family, name, encoder, cfg.text_encoders)
        adapters.attach(encoder, cfg.model_copy(update={"targets": paths}), seed, f"{name}.")
