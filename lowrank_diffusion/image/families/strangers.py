"""What files and adapters of other kinds are, by the names of their tensors, so that they are refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..headers import Header, has

UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")
"""What the names of these parts begin with in Stability's original checkpoints."""


_ADAPTER = re.compile(
    r"^(lora_(te\d?|unet|prior|transformer)|lycoris)_|^bundle_emb\."
    r"|[._](gra)?lora_(down|up|mid|linear_layer|embedding|magnitude_vector|[ABE])(?![a-zA-Z])"
    r"|[._]lora\.(down|up)\.|\.(hada_[wt]|lokr_[wt])\d|\.b?oft_|\.ia3_l|\.(on_input|diff|diff_b|dora_scale)$"
    r"|\.(vera|vblora|randlora)_"
)


def is_adapter(header: Header) -> bool:
    """Whether the tensors are a LoRA or one of its relatives."""
    return any(_ADAPTER.search(name) for name in header.shapes)


def describe(header: Header) -> str:
    """What the tensors seem to be, as the end of a sentence."""
    for description, holds in _KINDS:
        if holds(header):
            return description
    sample = ", ".join(name[:80] for name in sorted(header.shapes)[:3]) or "none at all"
    return f"an unknown model (first tensors: {sample})"


def _starts(*prefixes: str) -> Callable[[Header], bool]:
    return lambda header: has(header.shapes, prefixes)


def _contains(*parts: str) -> Callable[[Header], bool]:
    return lambda header: any(part in name for name in header.shapes for part in parts)


def _whole(text_encoder: str) -> Callable[[Header], bool]:
    return lambda header: has(header.shapes, UNET) and has(header.shapes, text_encoder)


# The order matters: the first that holds names the file.
_KINDS: list[tuple[str, Callable[[Header], bool]]] = [
    ("an adapter (LoRA or a relative), not a base model", is_adapter),
    ("a ControlNet", _contains("control_model.", "controlnet_", "input_hint_block.")),
    (
        "a textual inversion embedding",
        lambda header: bool(header.shapes.keys() & {"clip_l", "clip_g", "emb_params"}),
    ),
    ("an SDXL refiner, which cannot start a picture", _starts("conditioner.embedders.0.model.")),
    ("a Stable Diffusion 1 checkpoint, which is a base, not an adapter", _whole("cond_stage_model.transformer.")),
    ("a Stable Diffusion 2 checkpoint, which is a base, not an adapter", _whole("cond_stage_model.model.")),
    ("a Stable Diffusion 3 model, which is not supported", _contains("joint_blocks.")),
    ("a Flux model, which is not supported", _contains("double_blocks.")),
    (
        "a whole SDXL checkpoint, which is a base, not an adapter",
        lambda header: all(
            has(header.shapes, part) for part in (f"{UNET}label_emb.", "conditioner.embedders.1.model.")
        ),
    ),
    ("the UNet of an SDXL alone, without text encoders", _starts(f"{UNET}label_emb.")),
    ("a UNet alone, without text encoders", _starts(UNET)),
    ("the UNet of an SDXL alone, in diffusers' layout", _starts("add_embedding.")),
    ("a UNet alone, in diffusers' layout", _starts("down_blocks.")),
    ("a VAE alone", _starts("encoder.conv_in.", "decoder.conv_in.", *VAE)),
    ("a text encoder alone", _starts("text_model.", "conditioner.", "transformer.resblocks.", "embeddings.")),
    ("a text encoder alone", _starts("cond_stage_model.")),
    ("a language model", _starts("model.layers.", "transformer.h.", "layers.")),
]

# The first that holds names the file: what it is, and what shows it in a tensor's name.
_ADAPTERS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (what, re.compile(marks))
    for what, marks in (
        ("a bundle with a textual inversion embedding", r"^bundle_emb\.|emb_params|string_to_param|^clip_[lg]$"),
        ("a LoHa adapter, not a LoRA", r"hada_w\d"),
        ("a LoKr adapter, not a LoRA", r"lokr_(w|t)\d"),
        ("an OFT or BOFT adapter, not a LoRA", r"(^|[._])b?oft_"),
        ("an IA3 adapter, not a LoRA", r"ia3_l|\.on_input$"),
        ("a GLoRA adapter, not a LoRA", r"\.[ab][12]\.weight$"),
        ("a VeRA, VB-LoRA or RandLoRA adapter, not a LoRA", r"(vera|vblora|randlora)_"),
        ("an AdaLoRA, whose singular values are not supported", r"\.lora_E$"),
        ("a DoRA, whose magnitudes cannot be applied exactly", r"dora_scale|magnitude_vector"),
        ("a LoRA with whole weight differences, biases or norms", r"\.(diff(_b)?|set_weight|[wb]_norm|bias|scalar)$"),
        ("a LoRA of token embeddings", r"lora_embedding_[AB]"),
        ("an adapter of Flux, which is not supported", r"(double|single)_blocks|single_transformer_blocks"),
        (
            "an adapter of Stable Diffusion 3, which is not supported",
            r"joint_blocks|^transformer\.transformer_blocks\.",
        ),
        ("an adapter of Stable Cascade, which is not supported", r"^lora_prior_"),
        (
            "an adapter of a transformer that draws (such as Wan, Qwen-Image or PixArt), which is not supported",
            r"^(lora_(unet|transformer)_|(model\.)?diffusion_model\.|transformer\.)(transformer_)?(blocks|layers)[._]",
        ),
        (
            "an adapter of a language model",
            r"(?<!encoder)(^|\.)(model\.)?layers\.\d+\.(self_attn|mlp)\.|transformer\.h\.\d|gpt_neox\.|model\.decoder\.layers\.",
        ),
    )
)
_READS_WORDS = re.compile(r"attn2[._](processor\.)?to_[kv](_lora)?\.(lora_A|(lora[._])?down)(\.default)?\.weight$")
"""The pairs by which a UNet reads what the text encoders say; their width tells its family."""
_WIDTHS = {1280: "SDXL's refiner", 4096: "another UNet"}


def other_adapter(names: Iterable[str]) -> str:
    """What tensor names show that is not a LoRA of a known family, as the end of a sentence; empty if nothing does."""
    every = list(names)
    return next((what for what, mark in _ADAPTERS if any(mark.search(name) for name in every)), "")


def words_read(header: Header) -> set[int]:
    """The widths of what the adapted cross-attention of a UNet reads."""
    return {shape[1] for name, shape in header.shapes.items() if _READS_WORDS.search(name) and len(shape) > 1}


def other_family(header: Header) -> str:
    """The same as :func:`other_adapter`, told from that width."""
    return next((f"an adapter of {_WIDTHS[w]}, which is not supported" for w in words_read(header) if w in _WIDTHS), "")
