"""What files of families with a UNet have in common, and what is wrong with those that cannot be used. No torch.

Names are those of Stability's original checkpoints; ``title`` is the family's, for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...headers import PREDICTIONS, SCALES, Header, has, prediction, quantised_problems
from ..family import Part, Wrong
from ..strangers import UNET, VAE, describe, is_adapter

PARTS = {
    "scheduler": Part(()),
    "text_encoder": Part(("CLIPTextModel",), "model"),
    "tokenizer": Part(("CLIPTokenizer", "CLIPTokenizerFast")),
    "unet": Part(("UNet2DConditionModel",), "diffusion_pytorch_model"),
    "vae": Part(("AutoencoderKL",), "diffusion_pytorch_model"),
}
SCALING = 0.18215
"""What Stable Diffusion 1 and 2 multiply latents by, and diffusers where a configuration does not say."""

DDPM_NOISE = tuple(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE",
        "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
        "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
    )
)  # fmt: skip
"""Schedulers that differ in how they draw only: the noise that a model learns from is DDPM's with all of them."""
_OTHER_NOISE = {"use_flow_sigmas": (True,), "timestep_type": ("continuous",)}
"""Settings by which one of these draws from a model of another noise: flow matching, EDM."""


def scheduler_problems(kinds: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Why these scheduler classes and this configuration are not DDPM's noise with epsilon or v."""
    said = [f"is {kind[:60]}" for kind in kinds if kind not in DDPM_NOISE]
    said += [f"has {key}={config[key]}" for key, odd in _OTHER_NOISE.items() if config.get(key) in odd]
    said += [f"has {key}" for key in ("sigma_data",) if config.get(key) is not None]
    predicted = config.get("prediction_type", "epsilon")
    return said + ([f"has prediction_type={str(predicted)[:60]}"] if predicted not in set(PREDICTIONS.values()) else [])


def scheduler_facts(header: Header) -> dict[str, Any]:
    """What a checkpoint says of its noise: the marks v_pred and ztsnr, or modelspec's prediction type."""
    if "v_pred" not in header.shapes and prediction(header) != "v_prediction":
        return {}
    facts: dict[str, Any] = {"prediction_type": "v_prediction"}
    if "ztsnr" in header.shapes:  # trained to zero terminal SNR: sampling has to start from there
        facts |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return facts


def file_problems(header: Header, title: str, needed: Mapping[str, str | tuple[str, ...]]) -> Iterator[Wrong]:
    """What keeps a checkpoint from being a whole text-to-image one; ``needed``: the prefixes of its parts by name."""
    names, plain = header.shapes, f"Give a plain {title}."
    for part, prefix in needed.items():
        if not has(names, prefix):
            what = f"is {_a(title)} checkpoint without its {part}."
            yield Wrong(what, "Give a complete one, or a diffusers folder.")
    channels = names.get(f"{UNET}input_blocks.0.0.weight", (0, 4))[1]
    if channels != 4:
        kind = {7: "upscaling", 5: "depth-to-image", 8: "instruct-pix2pix", 9: "inpainting"}.get(channels, "changed")
        what = f"is {_a(title)} {kind} model ({channels} input channels, not 4)."
        yield Wrong(what, f"Give a text-to-image {title}.")
    if {"edm_mean", "edm_std"} & names.keys():
        yield Wrong("is a Playground v2.5 checkpoint (EDM noise), which is not supported.", plain)
    if any("edm_vpred." in name for name in names):
        yield Wrong("is a CosXL checkpoint (EDM noise), which is not supported.", plain)
    said = prediction(header)
    if said not in PREDICTIONS:
        rule = f"says that it predicts {said[:60]!r}, not epsilon or v_prediction of DDPM's noise"
        yield Wrong(f"{rule}; that is not supported.", plain)
    yield from (Wrong(*problem) for problem in quantised_problems(header))


def vae_problem(config: Mapping[str, Any], title: str, alone: bool, scaled: bool) -> Wrong | None:
    """What is wrong with the configuration of a VAE; ``scaled``: whether the family's own scales as SD 1 and 2 do."""
    advice = f"Give {_a(title)} VAE."
    if config.get("latent_channels", 4) != 4:
        return Wrong(f"makes {config['latent_channels']} latent channels, {title} has 4.", advice)
    scaling = config.get("scaling_factor", SCALING)
    if alone and scaled and scaling != SCALING:
        return Wrong(f"scales latents by {scaling}, not by {SCALING} as {title} does.", advice)
    if alone and not scaled and scaling == SCALING:
        return Wrong(f"scales latents by {scaling}, as Stable Diffusion 1 and 2 do, not {title}.", advice)
    return None


def vae_file_problems(header: Header, title: str, architectures: tuple[str, ...]) -> list[Wrong]:
    """Why these tensors are not a whole VAE that the family can use.

    Stable Diffusion 1's and 2's have the same names and shapes as SDXL's and differ in how far latents are scaled,
    which a file says at most in its modelspec: without that they cannot be told apart.
    """
    names = {name.removeprefix(next((p for p in VAE if name.startswith(p)), "")): name for name in header.shapes}
    advice = f"Give the VAE of {_a(title)}."
    if has(header.shapes, UNET):
        return [Wrong("is a whole checkpoint.", "Give the VAE alone, or the checkpoint as base.path.")]
    if has(names, ("taesd_", "encoder.layers.", "decoder.layers.")):
        return [Wrong("is a TAESD, a small stand-in for previews.", f"Give the whole VAE of {_a(title)}.")]
    first = {part: header.shapes.get(names.get(f"{part}.conv_in.weight", ""), ()) for part in ("encoder", "decoder")}
    if not any(first.values()):
        return [Wrong(f"is {describe(header)}, not a VAE.", advice)]
    problems = [Wrong(*problem) for problem in quantised_problems(header)]
    lacking = [part for part, shape in first.items() if not shape]
    problems += [Wrong(f"is a VAE without its {part}.", "Give a whole one.") for part in lacking]
    family = header.metadata.get("modelspec.architecture", "").lower()
    if family and not family.startswith(architectures):
        problems.append(Wrong(f"says that it is of {family[:60]}, not of {title}.", advice))
    if any(shape and len(shape) != 4 for shape in first.values()):
        return [*problems, Wrong("is a VAE of videos.", advice)]
    channels = first["decoder"][1] if first["decoder"] else 4
    if channels != 4:
        owner = " (as those of Flux and Stable Diffusion 3 do)" if channels == 16 else ""
        problems.append(Wrong(f"makes {channels} latent channels{owner}, {title} has 4.", advice))
    known = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss.", "model_ema.")  # the last of training
    odd = [name for short, name in names.items() if not (short.startswith(known) or SCALES.search(name))]
    if odd:
        rule = f"has {len(odd)} tensors that are not part of a VAE, such as {odd[0][:80]}."
        problems.append(Wrong(rule, f"{advice[:-1]} alone."))
    return problems


def _a(title: str) -> str:
    """The title with its article."""
    return f"{'an' if title.startswith('SD') else 'a'} {title}"


def advice(header: Header) -> str:
    """What to do with a file that is not a checkpoint of a known family."""
    if is_adapter(header):
        return "It goes in the adapter field; give the base model that it was trained on here."
    return "Give a complete SDXL or Stable Diffusion checkpoint, a diffusers folder or a hub id."
