"""What kind of model or adapter a .safetensors file is, told from the names and shapes in its header."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..tensor_files import Header as Header
from ..tensor_files import HeaderError as HeaderError
from ..tensor_files import read as read

UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")
TEXT_ENCODER = "conditioner.embedders.0.transformer."
TEXT_ENCODER_2 = "conditioner.embedders.1.model."
_CONV_IN = f"{UNET}input_blocks.0.0.weight"
_DEEPEST = f"{UNET}middle_block.1.transformer_blocks.9.attn2.to_k.weight"
_PREDICTIONS = {
    **dict.fromkeys(("", "epsilon", "eps"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v_pred", "v-prediction"), "v_prediction"),
}


def prediction(header: Header) -> str:
    """What modelspec says that a checkpoint predicts: epsilon, v_prediction, or something else in its own words."""
    said = header.metadata.get("modelspec.prediction_type", "")
    return _PREDICTIONS.get(said.strip().lower(), said)


def sdxl_problems(header: Header, *, vae: bool = True) -> list[tuple[str, str]]:
    """Why these tensors are not a whole text-to-image SDXL checkpoint: (what it is, what to do) each.

    Args:
        header: Of a file in the original layout.
        vae: Whether the file must bring a VAE.
    """
    names = header.shapes
    if not (has(names, UNET) and (has(names, TEXT_ENCODER) or has(names, TEXT_ENCODER_2))):
        return [(f"is {describe(header)}.", _advice(header))]
    needed = {"text encoder": TEXT_ENCODER, "second text encoder": TEXT_ENCODER_2} | ({"VAE": VAE} if vae else {})
    problems = [
        (f"is an SDXL checkpoint without its {part}.", "Give a complete one, or a diffusers folder.")
        for part, prefix in needed.items()
        if not has(names, prefix)
    ]
    channels = names.get(_CONV_IN, (0, 4))[1]
    if channels != 4:
        kind = {8: "instruct-pix2pix", 9: "inpainting"}.get(channels, "changed")
        problems.append((f"is an SDXL {kind} model ({channels} input channels, not 4).", "Give a text-to-image SDXL."))
    if {"edm_mean", "edm_std"} & names.keys():
        problems.append(("is a Playground v2.5 checkpoint (EDM noise), which is not supported.", "Give a plain SDXL."))
    if any("edm_vpred." in name for name in names):
        problems.append(("is a CosXL checkpoint (EDM noise), which is not supported.", "Give a plain SDXL."))
    said = prediction(header)
    if said not in _PREDICTIONS:
        rule = (
            f"says that it predicts {said[:60]!r}, not epsilon or v_prediction of DDPM's noise; that is not supported."
        )
        problems.append((rule, "Give a plain SDXL."))
    problems += quantised_problems(header)
    if _DEEPEST not in names:
        problems.append(
            (
                "is a reduced SDXL (such as SSD-1B), whose layers a single file does not tell.",
                "Give its diffusers folder.",
            )
        )
    return problems


_SCALES = re.compile(
    r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale(_inv)?|scale_input|input_scale|comfy_quant|absmax|quant_map|SCB)$"
    r"|\.quant_state\."
)
"""What programs call the scales of quantised weights, which stand beside them."""


def quantised_problems(header: Header) -> list[tuple[str, str]]:
    """Why weights cannot be read as they are: (what it is, what to do)."""
    if not any(_SCALES.search(name) for name in header.shapes):
        return []
    rule = (
        "is quantised (such as scaled fp8, int8 or nf4): its weights mean nothing without scales, not supported here."
    )
    return [(rule, "Give the fp16 or bf16 weights of the same model; base.quantize makes them small.")]


def vae_problems(header: Header) -> list[tuple[str, str]]:
    """Why these tensors are not a whole VAE that an SDXL can use: (what it is, what to do) each.

    Stable Diffusion 1's and 2's have the same names and shapes and differ in how far latents are scaled, which a file
    says at most in its modelspec: without that they cannot be told from SDXL's.
    """
    names = {name.removeprefix(next((p for p in VAE if name.startswith(p)), "")): name for name in header.shapes}
    if has(header.shapes, UNET):
        return [("is a whole checkpoint.", "Give the VAE alone, or the checkpoint as base.path.")]
    if has(names, ("taesd_", "encoder.layers.", "decoder.layers.")):
        return [("is a TAESD, a small stand-in for previews.", "Give the whole VAE of an SDXL.")]
    first = {part: header.shapes.get(names.get(f"{part}.conv_in.weight", ""), ()) for part in ("encoder", "decoder")}
    if not any(first.values()):
        return [(f"is {describe(header)}, not a VAE.", "Give the VAE of an SDXL.")]
    problems = quantised_problems(header)
    problems += [(f"is a VAE without its {part}.", "Give a whole one.") for part, shape in first.items() if not shape]
    family = header.metadata.get("modelspec.architecture", "").lower()
    if family and not family.startswith("stable-diffusion-xl"):
        problems.append((f"says that it is of {family[:60]}, not of SDXL.", "Give the VAE of an SDXL."))
    if any(shape and len(shape) != 4 for shape in first.values()):
        return [*problems, ("is a VAE of videos.", "Give the VAE of an SDXL.")]
    channels = first["decoder"][1] if first["decoder"] else 4
    if channels != 4:
        owner = " (as those of Flux and Stable Diffusion 3 do)" if channels == 16 else ""
        problems.append((f"makes {channels} latent channels{owner}, SDXL has 4.", "Give the VAE of an SDXL."))
    known = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss.", "model_ema.")  # the last of training
    odd = [name for short, name in names.items() if not (short.startswith(known) or _SCALES.search(name))]
    if odd:
        rule = f"has {len(odd)} tensors that are no part of a VAE, such as {odd[0][:80]}."
        problems.append((rule, "Give the VAE of an SDXL alone."))
    return problems


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
    return f"no model that is known here (first tensors: {sample})"


def _advice(header: Header) -> str:
    if is_adapter(header):
        return "It goes in the adapter field; give the base model that it was trained on here."
    return "Give a complete SDXL checkpoint, a diffusers folder or a hub id."


def has(names: Iterable[str], prefix: str | tuple[str, ...]) -> bool:
    """Whether any name starts with the prefix."""
    return any(name.startswith(prefix) for name in names)


def _starts(*prefixes: str) -> Callable[[Header], bool]:
    return lambda header: has(header.shapes, prefixes)


def _contains(*parts: str) -> Callable[[Header], bool]:
    return lambda header: any(part in name for name in header.shapes for part in parts)


# The order matters: the first that holds names the file.
_KINDS: list[tuple[str, Callable[[Header], bool]]] = [
    ("an adapter (LoRA or a relative), not a base model", is_adapter),
    ("a ControlNet", _contains("control_model.", "controlnet_", "input_hint_block.")),
    (
        "a textual inversion embedding",
        lambda header: bool(header.shapes.keys() & {"clip_l", "clip_g", "emb_params"}),
    ),
    ("an SDXL refiner, which cannot start a picture", _starts("conditioner.embedders.0.model.")),
    ("a Stable Diffusion 1 checkpoint, not SDXL", _starts("cond_stage_model.transformer.")),
    ("a Stable Diffusion 2 checkpoint, not SDXL", _starts("cond_stage_model.model.")),
    ("a Stable Diffusion 3 model, not SDXL", _contains("joint_blocks.")),
    ("a Flux model, not SDXL", _contains("double_blocks.")),
    (
        "a whole SDXL checkpoint, which is a base and no adapter",
        lambda header: all(has(header.shapes, part) for part in (f"{UNET}label_emb.", TEXT_ENCODER_2)),
    ),
    ("the UNet of an SDXL alone, without text encoders", _starts(f"{UNET}label_emb.")),
    ("a UNet alone, without text encoders", _starts(UNET)),
    ("the UNet of an SDXL alone, in diffusers' layout", _starts("add_embedding.")),
    ("a UNet alone, in diffusers' layout", _starts("down_blocks.")),
    ("a VAE alone", _starts("encoder.conv_in.", "decoder.conv_in.", *VAE)),
    ("a text encoder alone", _starts("text_model.", "conditioner.", "transformer.resblocks.", "embeddings.")),
    ("a language model", _starts("model.layers.", "transformer.h.", "layers.")),
]
