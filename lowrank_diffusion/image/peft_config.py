"""What PEFT says of an adapter beside its tensors: each layer's strength, and what a plain pair cannot say. No torch.

It stands in the adapter_config.json of PEFT's folder, in diffusers' header, and in the header of our own files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import AdapterConfig
from ..errors import AdapterError
from ..files import Unreadable, read_object

_HEADER = "lora_adapter_metadata"
_VARIANTS = (
    "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config",
    "velora_config", "layer_replication", "target_parameters", "lora_bias", "modules_to_save",
    "trainable_token_indices",
)  # fmt: skip
"""PEFT's settings by which its pairs alone are not the whole adapter."""
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that change the base's weights too, so that the pairs alone mean something else."""
_LORA_ALONE = ("use_rslora", "rank_pattern", "alpha_pattern")
"""Settings that PEFT's GraLoRA does not have."""

_PIECE = re.compile(r"\\d\+|(?:\\[.dw]|\[[\w.-]+\]|[\w.])([*+?]?)|\(\?:|[()^$]|(\|)")
"""What an expression for layers is made of here. No repeated groups: matching one can take longer than a life."""
MOST_REPEATS, MOST_CHOICES, MOST_EXPRESSIONS = 2, 5, 16
"""Repeats of an expression, its repeats and alternatives together, and expressions of an adapter: more of any can be
made to take minutes, and people write plain names."""


class Stated:
    """What PEFT says of one model's pairs; obeyed, or refused by name."""

    def __init__(self, label: str, fields: Mapping[str, Any]):
        self.label, self._fields = label, fields
        _refuse(label, fields)
        self._alphas, self._ranks = self._patterns("alpha_pattern"), self._patterns("rank_pattern")

    def scale(self, path: str, rank: int, alpha: float | None) -> float:
        """What a pair's update is multiplied by; ``alpha`` is that of the file's own tensor, which has precedence."""
        if self._fields.get("peft_type") == "GRALORA":
            raise AdapterError(
                f"{self.label}: says that it is a GraLoRA, and {path} has a plain pair. Export it again."
            )
        if alpha is None and self._fields:
            stated = _of(path, self._ranks, self._fields.get("r", rank))
            if stated != rank:
                rule = f"says that {path} is of rank {stated!s:.20}, and its tensors are of rank {rank}"
                raise AdapterError(f"{self.label}: {rule}. Export it again where it was made.")
            alpha = float(_of(path, self._alphas, self._fields.get("lora_alpha", 8)))
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self._fields.get("use_rslora") else rank)

    def block_scale(self, path: str, k: int, rank: int, hybrid: int) -> float:
        """The same of a GraLoRA's layer of ``k`` blocks a side."""
        if self._fields.get("peft_type") == "LORA":
            raise AdapterError(
                f"{self.label}: says that it is a LoRA, and {path} has GraLoRA's blocks. Export it again."
            )
        odd = next((name for name in _LORA_ALONE if self._fields.get(name)), "")
        if odd:
            raise AdapterError(f"{self.label}: has {odd} set, which a GraLoRA does not have. Export it again.")
        for name, own in (("r", rank), ("gralora_k", k), ("hybrid_r", hybrid)):
            stated = self._fields.get(name, 0 if name == "hybrid_r" else None)
            if stated != own:
                rule = f"says {name}={stated!s:.20}, and the tensors of {path} have {own}"
                raise AdapterError(f"{self.label}: {rule}. Export it again where it was made.")
        return float(self._fields["alpha"]) / (rank + hybrid)

    def _patterns(self, field: str) -> list[_Pattern]:
        """PEFT's patterns in its order. Raises AdapterError for what could take too long."""
        patterns: Any = self._fields.get(field) or {}
        if not isinstance(patterns, Mapping):
            raise AdapterError(f"{self.label}: its {field} is not a JSON object.")
        expressions = [pattern for pattern in patterns if not re.fullmatch(r"[\w.]*", pattern)]
        refused = next((pattern for pattern in expressions if not _is_quick(pattern)), "")
        if refused or len(expressions) > MOST_EXPRESSIONS:
            what = f"the expression {refused[:60]!r}" if refused else f"{len(expressions)} expressions"
            rule = f"its {field} has {what}, which is unsound or could take forever"
            raise AdapterError(f"{self.label}: {rule}. Write the names of its layers there.")
        compiled = {pattern: re.compile(rf"(.*\.)?({pattern})$") for pattern in expressions}
        return [(pattern, compiled.get(pattern), value) for pattern, value in patterns.items()]


_Pattern = tuple[str, re.Pattern[str] | None, Any]
"""The end of a path, or an expression for it, and what it stands for."""


def _of(path: str, patterns: list[_Pattern], default: Any) -> Any:
    """What the first pattern says that is the end of a layer's path, or an expression for it."""
    names = (path, f"text_model.{path}")
    for end, expression, value in patterns:
        if expression is None and any(name == end or name.endswith(f".{end}") for name in names):
            return value
        if expression is not None and any(map(expression.match, names)):
            return value
    return default


def _is_quick(expression: str) -> bool:
    """Whether an expression is sound and made of so little that it is compared in no time with any path."""
    pieces = list(_PIECE.finditer(expression))
    repeats = sum(bool(piece[1]) for piece in pieces)
    if "".join(piece[0] for piece in pieces) != expression or repeats > MOST_REPEATS:
        return False
    try:
        re.compile(expression)
    except re.error:
        return False
    return repeats + sum(bool(piece[2]) for piece in pieces) <= MOST_CHOICES


def _refuse(label: str, fields: Mapping[str, Any]) -> None:
    """Raises AdapterError for what pairs with one scale cannot say."""
    if fields.get("use_dora"):
        raise AdapterError(f"{label}: is a DoRA, whose magnitudes cannot be applied exactly. Give a LoRA.")
    variant = next((name for name in _VARIANTS if fields.get(name)), "")
    if variant:
        rule = f"has {variant} set, so that its pairs are not the whole adapter; that is not supported"
        raise AdapterError(f"{label}: {rule}. Give a plain LoRA.")
    begun = str(fields.get("init_lora_weights", "")).lower()
    if begun.startswith(_OTHER_BASES):
        rule = f"began as {begun[:20]}, which changes the base too, so that its pairs do not fit the base you have"
        raise AdapterError(f"{label}: {rule}. Convert it to a plain LoRA where it was made.")


def of_folder(path: Path) -> Stated:
    """What an adapter_config.json says. Raises AdapterError."""
    try:
        fields = read_object(path)
    except Unreadable as error:
        raise AdapterError(f"{path}: {error}") from None
    if fields.get("peft_type") not in ("LORA", "GRALORA"):
        raise AdapterError(f"{path}: is of the type {str(fields.get('peft_type'))[:40]!r}, not LORA or GRALORA.")
    return Stated(str(path), fields)


def of_own_header(label: str, metadata: Mapping[str, str]) -> Stated:
    """The same of a file of PEFT's without its folder, which our own headers say. Raises AdapterError."""
    try:
        settings = json.loads(metadata["lowrank_diffusion.settings"])
        own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("adapter.")}
        adapter = AdapterConfig(**own)
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError):
        rule = "is PEFT's file, whose strength stands in the adapter_config.json beside it"
        raise AdapterError(f"{label}: {rule}. Give the folder to generate --adapter, or another form of it.") from None
    if adapter.text_encoders != "none":
        rule = "is a part of PEFT's folder: the text encoders are in others"
        raise AdapterError(f"{label}: {rule}. Give the folder, or the run's file for diffusers.")
    alpha, k = adapter.scaling * adapter.total_rank, adapter.k
    return Stated(
        label, {"r": adapter.rank, "alpha": alpha, "lora_alpha": alpha, "hybrid_r": adapter.hybrid_rank, "gralora_k": k}
    )


def of_diffusers_header(label: str, metadata: Mapping[str, str], model: str) -> Stated:
    """What diffusers' header says of a model's pairs; nothing in most files. Raises AdapterError."""
    try:
        fields = json.loads(metadata.get(_HEADER, "{}"))
        own = {key.partition(".")[2]: value for key, value in fields.items() if key.startswith(f"{model}.")}
    except (ValueError, AttributeError, RecursionError):
        raise AdapterError(f"{label}: its {_HEADER} is not a JSON object.") from None
    return Stated(label, own)
