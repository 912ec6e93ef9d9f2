"""What kind of model or adapter a .safetensors file is, told from the names and shapes in its header."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..tensor_files import Header as Header
from ..tensor_files import HeaderError as HeaderError
from ..tensor_files import read as read

PREDICTIONS = {
    **dict.fromkeys(("", "epsilon", "eps"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v_pred", "v-prediction"), "v_prediction"),
}
"""What modelspec calls the predictions that are known here."""


def prediction(header: Header) -> str:
    """What modelspec says that a checkpoint predicts: epsilon, v_prediction, or something else in its own words."""
    said = header.metadata.get("modelspec.prediction_type", "")
    return PREDICTIONS.get(said.strip().lower(), said)


SCALES = re.compile(
    r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale(_inv)?|scale_input|input_scale|comfy_quant|absmax|quant_map|SCB)$"
    r"|\.quant_state\."
)
"""What programs call the scales of quantised weights, which stand beside them."""


def quantised_problems(header: Header) -> list[tuple[str, str]]:
    """Why weights cannot be read as they are: (what it is, what to do)."""
    if not any(SCALES.search(name) for name in header.shapes):
        return []
    rule = (
        "is quantised (such as scaled fp8, int8 or nf4): its weights mean nothing without scales, not supported here."
    )
    return [(rule, "Give the fp16 or bf16 weights of the same model; base.quantize makes them small.")]


def has(names: Iterable[str], prefix: str | tuple[str, ...]) -> bool:
    """Whether any name starts with the prefix."""
    return any(name.startswith(prefix) for name in names)
