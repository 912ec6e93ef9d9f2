"""Personalise diffusion models with GraLoRA and LoRA, trained flat."""

__version__ = "0.1.0"
