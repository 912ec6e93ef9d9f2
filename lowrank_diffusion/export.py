"""What adapter files of every kind share: their type, PEFT's folder, and being written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from . import adapters
from .config import Config


@dataclass(frozen=True)
class Exported:
    """What was written, and how it differs from what was trained."""

    paths: list[Path]
    dtype: torch.dtype
    rounding: float
    """Largest relative error of a layer's update, by Frobenius norms."""

    @property
    def note(self) -> str:
        """For a person; empty if nothing was rounded."""
        if self.dtype == torch.float32:
            return ""
        kind = {torch.float16: "fp16", torch.bfloat16: "bf16"}[self.dtype]
        return (
            f"The adapter's files are in {kind}, half as large as in fp32: no layer's update differs by more than "
            f"{self.rounding:.2%} from the trained one. export.dtype=fp32 keeps it whole."
        )


def stored_as(cfg: Config, precision: str) -> torch.dtype:
    """In which type an adapter's files hold it; ``precision`` is that of the frozen base, such as "bfloat16".

    ``auto`` is fp16 for whatever was trained in half precision: it rounds eight times more finely than bf16, and the
    numbers of an adapter are far inside its range.
    """
    auto = torch.float32 if precision == "float32" else torch.float16
    return {"auto": auto, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[cfg.export.dtype]


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Put what ``write`` makes in the place of ``path`` in one move, so that no half-written file is ever seen."""
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        write(partial)
        if path.is_dir():
            _remove(path)
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file. Raises OSError (``safetensors.save_file`` hides a full disk in an error of its own)."""
    path.write_bytes(save(tensors, metadata={"format": "pt", **metadata}))


def save_peft(
    model: nn.Module, folder: Path, metadata: dict[str, str], dtype: torch.dtype, about: dict[str, str] | None = None
) -> None:
    """The folder that ``peft.PeftModel.from_pretrained`` reads; ``about`` adds fields to its adapter_config.json."""
    folder.mkdir(parents=True)
    tensors, config = adapters.native(model)
    config |= about or {}
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    write_tensors(rounded, folder / "adapter_model.safetensors", metadata)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
