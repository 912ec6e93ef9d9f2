"""What an adapter file is, told from its name and header alone: no torch, and not one weight is read.

The page asks here when a file is added, and the loader before it reads one, so both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..bases import PICKLES
from ..errors import AdapterError
from . import headers

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT's folder holds."""
DIFFUSERS_DEFAULT = "pytorch_lora_weights.safetensors"
"""What diffusers calls an adapter's file where nobody says otherwise."""
SUFFIXES = (".safetensors", ".gguf", *PICKLES)
"""What a name that is meant as a file ends in."""
_ADVICE = "Give a LoRA of an SDXL model."

# The first that holds names the file: what it is, and what shows it in a tensor's name.
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
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
        ("an adapter of Flux, not of SDXL", r"(double|single)_blocks|single_transformer_blocks"),
        ("an adapter of Stable Diffusion 3, not of SDXL", r"joint_blocks|^transformer\.transformer_blocks\."),
        ("an adapter of Stable Diffusion 1 or 2, not of SDXL", r"^lora_te_"),
        ("an adapter of Stable Cascade, not of SDXL", r"^lora_prior_"),
        (
            "an adapter of a transformer that draws (such as Wan, Qwen-Image or PixArt), not of SDXL",
            r"^(lora_(unet|transformer)_|(model\.)?diffusion_model\.|transformer\.)(transformer_)?(blocks|layers)[._]",
        ),
        (
            "an adapter of a language model",
            r"(?<!encoder)(^|\.)(model\.)?layers\.\d+\.(self_attn|mlp)\.|transformer\.h\.\d|gpt_neox\.|model\.decoder\.layers\.",
        ),
    )
)
_READS_WORDS = re.compile(r"attn2[._]to_[kv]\.(lora_A|lora[._]down)(\.default)?\.weight$")
"""The pairs by which a UNet reads what the text encoders say; their width tells its family."""
_FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "SDXL's refiner", 4096: "another UNet"}
_LAYER = re.compile(
    r"(.+?)[._](lora[._]down|lora_A|gralora_A|lora_linear_layer\.down)(\.default)?(\.weight)?", re.ASCII
)


@dataclass(frozen=True)
class About:
    """A file that looks like a LoRA of SDXL."""

    path: Path
    header: headers.Header

    def line(self) -> str:
        """One line for a person: what it adapts, how large, and the word that calls it."""
        found = [match[1] for name in self.header.shapes if (match := _LAYER.fullmatch(name))]
        counts = {
            "UNet": sum(not _of_text(layer) for layer in found),
            "text encoders": sum(map(_of_text, found)),
        }
        parts = [f"{count} layers of the {name}" for name, count in counts.items() if count]
        trigger = " ".join(self.header.metadata.get("modelspec.trigger_phrase", "").split())
        shown = trigger if len(trigger) <= 100 else f"{trigger[:99]}…"
        return f"{self.path.name}: a LoRA, {' and '.join(parts)}." + (f" Trigger word: {shown}." if shown else "")


def _of_text(layer: str) -> bool:
    return re.match(r"(text_encoder|lora_te\d)", layer) is not None


def other_kind(names: Iterable[str]) -> str:
    """What tensor names show that is not a LoRA of SDXL, as the end of a sentence; empty if nothing does."""
    every = list(names)
    return next((what for what, mark in _KINDS if any(mark.search(name) for name in every)), "")


def _family(header: headers.Header) -> str:
    """The family of another UNet, told from the width of what it reads; empty for SDXL and for what is unknown."""
    widths = {shape[1] for name, shape in header.shapes.items() if _READS_WORDS.search(name) and len(shape) > 1}
    return next((f"an adapter of {_FAMILIES[width]}, not of SDXL" for width in widths if width in _FAMILIES), "")


def check(path: Path) -> About:
    """A file that looks like a LoRA of SDXL.

    Raises:
        AdapterError: naming what else it is.
    """
    suffix = path.suffix.lower()
    if suffix in (*PICKLES, ".pickle"):
        rule = "is a pickle, which can run any code when it is opened"
        raise AdapterError(f"{path.name}: {rule}. Give the .safetensors of the same adapter.")
    if suffix == ".gguf":
        raise AdapterError(f"{path.name}: is a GGUF file, which is for language models. {_ADVICE}")
    if suffix != ".safetensors":
        raise AdapterError(f"{path.name}: is not an adapter file; those end in .safetensors. {_ADVICE}")
    try:
        header = headers.read(path)
    except headers.HeaderError as error:
        raise AdapterError(f"{path.name}: {error}") from None
    if headers.is_adapter(header):
        what = other_kind(header.shapes) or _family(header)
    else:
        what = headers.describe(header)
    if what:
        raise AdapterError(f"{path.name}: is {what}. {_ADVICE}")
    return About(path, header)


def is_folder(path: Path) -> bool:
    """Whether a folder holds an adapter, of PEFT or of diffusers."""
    return any((path / name).is_file() for name in (CONFIG, WEIGHTS, DIFFUSERS_DEFAULT))
