"""What an adapter file is, told from its name and header alone: no torch, and not one weight is read.

The page asks here when a file is added, and the loader before it reads one, so both say the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..bases import PICKLES
from ..errors import AdapterError
from . import families, headers, peft_config
from .families import Family, strangers

MODELS = families.ADAPTED
"""The parts of pipelines that are adapted, by their names there."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT's folder holds."""
DIFFUSERS_DEFAULT = "pytorch_lora_weights.safetensors"
"""What diffusers calls an adapter's file where nobody says otherwise."""
SUFFIXES = (".safetensors", ".gguf", *PICKLES)
"""What a name that is meant as a file ends in."""
_ADVICE = f"Give a LoRA of {families.titles()}."

_ROLES = {
    "down": r"[._]lora[._]down(\.weight)?|\.lora_A(\.default)?(\.weight)?|\.lora_linear_layer\.down\.weight",
    "up": r"[._]lora[._]up(\.weight)?|\.lora_B(\.default)?(\.weight)?|\.lora_linear_layer\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "gralora_A": r"\.gralora_A",
    "gralora_B": r"\.gralora_B",
    "general_A": r"\.gralora_A_general(\.weight)?",
    "general_B": r"\.gralora_B_general(\.weight)?",
}
_KEY = re.compile("(?P<layer>.+?)(?:" + "|".join(f"(?P<{role}>{form})" for role, form in _ROLES.items()) + ")")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class About:
    """A file that looks like a LoRA of a family that is known here."""

    path: Path
    header: headers.Header

    @property
    def families(self) -> list[Family]:
        """Those that it can be for."""
        return families.of_adapter_names(self.header)

    def line(self) -> str:
        """One line for a person: what it adapts, how large, and the word that calls it."""
        places = filter(None, map(split, self.header.shapes))
        layers = [layer for layer, role in places if role in ("down", "gralora_A")]
        counts = {
            self.families[0].denoiser_title: sum(not _of_text(layer) for layer in layers),
            "text encoders": sum(map(_of_text, layers)),
        }
        parts = [f"{count} layers of the {name}" for name, count in counts.items() if count]
        trigger = " ".join(self.header.metadata.get("modelspec.trigger_phrase", "").split())
        shown = trigger if len(trigger) <= 100 else f"{trigger[:99]}…"
        kind = f"a LoRA of {self.families[0].title}" if len(self.families) == 1 else "a LoRA"
        return f"{self.path.name}: {kind}, {' and '.join(parts)}." + (f" Trigger word: {shown}." if shown else "")


def _of_text(layer: str) -> bool:
    return re.match(r"(text_encoder|lora_te\d?_)", layer) is not None


def split(name: str) -> tuple[str, str] | None:
    """A tensor's layer as the file calls it, and what the tensor is to it; None if it is not part of a LoRA."""
    match = _KEY.fullmatch(name)
    return match and (match["layer"], next(role for role in _ROLES if match[role] is not None))


def _no_pairs(shapes: Mapping[str, Shape]) -> str:
    """What keeps a file's tensors from being pairs, as a sentence without its end; empty if nothing does."""
    layers: dict[str, dict[str, Shape]] = {}
    odd = []
    for name, shape in shapes.items():
        place = split(name)
        if place is None:
            odd.append(name)
            continue
        layer, role = place
        if role in layers.setdefault(layer, {}):
            return f"{name[:200]} is there twice under different names"
        layers[layer][role] = shape
    if odd:
        return f"{len(odd)} of {len(shapes)} tensors are not part of a LoRA, such as {odd[0][:200]}"
    return next((f"the layer {layer[:200]} {why}" for layer, own in layers.items() if (why := _no_pair(own))), "")


def _no_pair(own: Mapping[str, Shape]) -> str:
    """What keeps the tensors of one layer from being a pair; empty if nothing does."""
    blocks, general = {"gralora_A", "gralora_B"}, {"general_A", "general_B"}
    if own.keys() in (blocks, blocks | general):
        return "" if _blocks_agree(**own) else f"has blocks that do not fit each other: {_shown(own)}"
    if not {"down", "up"} <= own.keys() <= {"down", "up", "mid", "alpha"}:
        return f"has {', '.join(sorted(own))}, not a down and an up"
    down, up, rank = own["down"], own["up"], own["down"][:1]
    agree = len(down) > 1 and len(up) > 1 and rank[0] == math.prod(up[1:]) > 0
    agree = agree and ("mid" not in own or (len(own["mid"]) == 4 and own["mid"][:2] == rank * 2))
    if not agree or math.prod(own.get("alpha", ())) != 1:
        return f"has tensors that do not fit each other: {_shown(own)}"
    return ""


def _blocks_agree(gralora_A: Shape, gralora_B: Shape, general_A: Shape = (), general_B: Shape = ()) -> bool:
    """Whether these are GraLoRA's A (k, n/k, r) and B (k, r, m/k), and a plain pair beside them."""
    if not (len(gralora_A) == len(gralora_B) == 3 and gralora_A[0] == gralora_B[0] > 0):
        return False
    (k, columns, rank), rows = gralora_A, gralora_B[2]
    sound = rank == gralora_B[1] and rank > 0 and rank % k == 0
    if not general_A:
        return sound
    return sound and general_A[1:] == (k * columns,) and general_B == (k * rows, general_A[0])


def _shown(own: Mapping[str, Shape]) -> str:
    return ", ".join(f"{role} {shape}" for role, shape in sorted(own.items()))


def check(path: Path, base: Family | None = None) -> About:
    """A file that looks like a LoRA, of ``base`` if that is given.

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
    if strangers.is_adapter(header):
        what = strangers.other_adapter(header.shapes) or strangers.other_family(header)
    else:
        what = strangers.describe(header)
    if what:
        raise AdapterError(f"{path.name}: is {what}. {_ADVICE}")
    problem = _no_pairs(header.shapes)
    if problem:
        raise AdapterError(f"{path.name}: {problem}. Download or export it again.")
    if not (path.parent / CONFIG).is_file() or path.name != WEIGHTS:
        stated(path.name, header)
    about = About(path, header)
    if base and base not in about.families:
        kinds = " or ".join(family.title for family in about.families)
        raise AdapterError(f"{path.name}: is an adapter of {kinds}, and the base is {base.title}. Choose its own base.")
    return about


def stated(label: str, header: headers.Header) -> dict[str, peft_config.Stated]:
    """What a file's header says of the strength of each model's pairs, where no config beside it does.

    Raises:
        AdapterError: it says what no pairs can, or too little.
    """
    if any(name.startswith("base_model.model.") for name in header.shapes):
        return dict.fromkeys(MODELS, peft_config.of_own_header(label, header.metadata))
    return {model: peft_config.of_diffusers_header(label, header.metadata, model) for model in MODELS}


def is_folder(path: Path) -> bool:
    """Whether a folder holds an adapter, of PEFT or of diffusers."""
    return any((path / name).is_file() for name in (CONFIG, WEIGHTS, DIFFUSERS_DEFAULT))
