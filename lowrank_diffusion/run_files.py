"""What the files of a run are called, and which of them make an adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FORMS = {
    "image": ("-diffusers.safetensors", "-comfyui-forge.safetensors", "-peft"),
    "text": ("-peft", "-lora-peft"),
}
"""What follows a run's name in the names of its adapter's files: who reads them. No file of ours is called so."""
_OLD_FORMS = {"image": (".safetensors", "-kohya.safetensors", "-peft"), "text": ("-peft",)}
"""The same of runs of earlier versions."""
STATE = "state.safetensors"
"""The file that makes a folder a checkpoint."""


@dataclass(frozen=True)
class Adapter:
    """The files of an adapter, whole."""

    paths: list[Path]
    """In the order of :data:`FORMS`: for diffusers, for ComfyUI and Forge, PEFT's folder; of a language model PEFT's
    folder, and PEFT's folder as plain LoRA."""
    step: int | None
    """After so many steps; None: of the finished run."""
    best: bool = False
    """Whether its validation loss is the run's lowest."""

    @property
    def loaded(self) -> Path:
        """What the app itself loads of them."""
        return self.paths[0]

    @property
    def standing(self) -> str:
        """How far the run had come, for a person."""
        done = "finished" if self.step is None else f"step {self.step}"
        return f"{done}, lowest validation loss" if self.best else done


def step_of(checkpoint: Path) -> int:
    """After how many steps a checkpoint's folder was written."""
    return int(checkpoint.name.removeprefix("step-"))


def stem_of(name: str) -> str:
    """A run directory's name without its time."""
    return re.sub(r"^\d{8}-\d{6}(_\d+)?-", "", name)


def adapter_files(place: Path, stem: str, task: str) -> list[Path]:
    """The adapter's files in a folder; none if one is missing."""
    for form in (FORMS[task], _OLD_FORMS[task]):
        paths = [place / f"{stem}{end}" for end in form]
        if all(path.exists() for path in paths):
            return paths
    return []
