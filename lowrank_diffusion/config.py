"""Every parameter of a run, declared once: type, default, help, bounds and unit.

The dotted key of a field (``adapter.rank``) is its name everywhere: in YAML presets, on the command line, on the
widgets of the app, in error messages and in the metadata of the files a run writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args

from pydantic import field_validator
from pydantic.fields import FieldInfo

from .adapters.settings import TARGET_SETS as TARGET_SETS
from .adapters.settings import AdapterConfig as AdapterConfig
from .declare import ConfigError as ConfigError
from .declare import Problem, Section, option, shown
from .paths import too_long
from .sections import ExportConfig, LossConfig, PriorConfig, TextConfig

EMBEDDED = "embedded"
"""The value of ``base.path`` that means the base which ships with the project, whatever folders there are."""

PATHS = ("base.path", "base.vae", "data.instance", "prior.pictures", "text.held_out", "adapter.start")
"""The parameters that name a file or folder."""


class BaseModelConfig(Section):
    """The frozen model that is personalised."""

    path: str = option(
        EMBEDDED,
        "Base model: 'embedded', a model's folder, a hub id (owner/name), or one file (.safetensors for pictures, "
        ".gguf for text).",
        tokens=True,
        min_length=1,
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub id.", tokens=True)
    variant: str | None = option(None, "File variant of a diffusers folder or hub id, for example fp16.", only="image")
    vae: str | None = option(None, "Folder, one file or hub id of another VAE to use with this base.", only="image")
    prediction: Literal["auto", "epsilon", "v_prediction"] = option(
        "auto", "What the base predicts; auto reads it from its scheduler.", only="image"
    )
    quantize: Literal["none", "8bit", "nf4"] = option(
        "none", "Keep the frozen linear layers in 8 or about 4 bits: less memory, more time. Files are not changed."
    )


class DataConfig(Section):
    """What to learn from: pictures and their captions, or texts."""

    only: ClassVar[str] = "image"

    instance: str = option(
        "",
        "What to learn from: a folder with pictures, a saved set (set:NAME), or a .jsonl, .json or .txt file.",
        only="",
    )
    subject: str = option("", "What the pictures show: robot. Fills {subject} in captions and prompts.", max_length=200)
    word: str = option(
        "", "The word that will mean the subject (a rare one: sks) or the style; fills {word} there.", max_length=200
    )
    prompt: str = option("", "Caption of every picture that has none of its own.")
    trigger: str = option("", "Rare word that stands for the subject or style; written into the files' metadata.")
    caption_dropout: float = option(
        0.0, "Share of pictures seen without caption, as guidance does (class pictures keep theirs); 0.05 is usual.",
        ge=0, lt=1,
    )  # fmt: skip
    caption_chunks: int = option(
        1, "Captions and prompts are read in so many chunks of what the base takes at once (75 tokens), as kohya's "
        "scripts do it; what is longer is cut, and named.", ge=1, le=8,
    )  # fmt: skip
    resolution: int | None = option(
        None, "Side of the square training crop; empty: the base's own.", unit="px", ge=64, le=2048, multiple_of=8
    )
    crop: Literal["center", "random"] = option("center", "Where the square crop is taken.")
    crops: int = option(1, "Crops kept of each picture when crop is random.", ge=1, le=64)
    flip: bool = option(False, "Also learn from mirrored pictures (not for faces or lettering).")
    background: str = option("#ffffff", "Colour under transparent pictures.", pixels=True)
    alpha_mask: bool = option(
        False, "Learn only what is opaque of a transparent picture: its alpha is its mask, unless it has a mask file."
    )
    buckets: bool = option(False, "Crop each picture to a shape near its own, of the square's area, not to a square.")
    bucket_step: int = option(
        64, "Buckets: sides are multiples of this; 16 with the embedded base.", unit="px", ge=8, le=512, multiple_of=8
    )
    max_aspect: float = option(2.0, "Buckets: largest ratio of the sides; longer pictures are cropped.", gt=1, le=8)

    def check(self) -> Iterator[Problem]:
        """Crops only multiply where they differ."""
        if self.crops > 1 and self.crop == "center":
            yield Problem("crops", f"must be 1 with data.crop=center, got {self.crops}.", "Set data.crop=random.")
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.background):
            yield Problem("background", f"must look like #ffffff, got {shown(self.background)}.")


class FlatConfig(Section):
    """Flat-LoRA: train at randomly perturbed weights to end in a flat minimum."""

    sigma: float = option(
        0.0, "Perturbation relative to each row's norm at the end of the run; 0 turns it off. Its authors took 0.05 "
        "for language models, 0.1 for pictures; here it mattered from 0.3 on, in runs that overfit (docs/evidence.md).",
        ge=0, le=1,
    )  # fmt: skip
    keep: bool = option(
        True,
        "Keep the perturbed weights from forward to backward: faster than drawing them twice, for as much memory as "
        "the adapted weights take. A quantised base, and the eager step where Triton can draw, always draw twice.",
    )


class OptimizerConfig(Section):
    """How gradients become updates."""

    name: Literal["adamw", "adamw8bit", "prodigy", "adafactor"] = option(
        "adamw", "Optimiser. Prodigy finds its own step size: give it lr=1."
    )
    lr: float = option(1e-4, "Peak learning rate.", gt=0, le=10)
    text_encoder_lr: float | None = option(
        None, "Peak learning rate of the text encoders' adapters; empty: as optimizer.lr.", only="image", gt=0, le=10
    )
    weight_decay: float = option(0.01, "Decoupled weight decay.", ge=0, le=1)
    beta1: float = option(0.9, "Decay of the first moment.", ge=0, lt=1)
    beta2: float = option(0.999, "Decay of the second moment.", ge=0, lt=1)
    schedule: Literal["constant", "cosine", "linear"] = option("constant", "Learning rate after the warm-up.")
    warmup: int = option(0, "Steps over which the learning rate rises to its peak.", unit="steps", ge=0)

    @property
    def lr_of_text_encoders(self) -> float:
        """The peak learning rate that they have."""
        return self.text_encoder_lr or self.lr

    def check(self) -> Iterator[Problem]:
        """Prodigy finds one step size for all."""
        if self.name == "prodigy" and self.text_encoder_lr not in (None, self.lr):
            yield Problem("text_encoder_lr", f"must be empty with Prodigy, got {self.text_encoder_lr}.")


class TrainConfig(Section):
    """The loop: how long, how much at once, on what."""

    steps: int = option(500, "Optimiser steps.", unit="steps", ge=1, le=1_000_000)
    batch: int = option(1, "Examples per forward pass: pictures, or sequences of text.", ge=1, le=256)
    accumulate: int = option(1, "Forward passes per optimiser step.", ge=1, le=1024)
    patience: int = option(
        0, "End early after so many validations in a row without a lower loss than before; 0: never.", ge=0, le=1000
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Arithmetic of the base; adapter weights stay fp32. auto: bf16 on CUDA that has it, else fp32."
    )
    checkpointing: bool = option(False, "Gradient checkpointing: less memory, about a third more time.")
    clip: float = option(1.0, "Largest gradient norm; 0: no clipping.", ge=0)
    ema: float = option(0.0, "Decay of the averaged weights that are exported; 0: off.", ge=0, lt=1)
    execution: Literal["auto", "eager", "compiled", "captured"] = option(
        "auto",
        "How a step runs: captured in CUDA graphs, with compiled blocks, or eager; auto takes the fastest that works.",
    )
    gpus: int = option(
        1, "Processes that train together, one per GPU; each adds train.accumulate batches to a step.", ge=1, le=64
    )
    gpu: int = option(0, "CUDA: number of the first GPU to train on; its queue is its own.", ge=0, le=63)
    memory: float | None = option(None, "CUDA: most memory to take of each GPU; empty: all.", unit="GiB", gt=0, le=1024)
    regroup: bool = option(False, "Resume a run although train.gpus has changed; its draws will then differ.")
    device: Literal["auto", "cuda", "mps", "cpu"] = option("auto", "auto takes CUDA, then Apple's MPS, then the CPU.")


class ValidationConfig(Section):
    """Loss on examples that are not trained on, at fixed draws."""

    holdout: int = option(0, "Examples taken out of the set for validation; 0: none.", ge=0, le=1000)
    every: int = option(50, "Steps between validations.", unit="steps", ge=1)

    def obstacle(self, count: int, what: str) -> str:
        """The rule that ``holdout`` breaks with ``count`` pictures or rows; empty if some are left to train on."""
        return (
            f"must leave some of the {count} {what} to train on, got {self.holdout}." if self.holdout >= count else ""
        )


class SampleConfig(Section):
    """Pictures or answers made during training from fixed prompts and seed."""

    prompts: tuple[str, ...] = option((), "Prompts answered during training; empty: no samples.")
    every: int = option(100, "Steps between samples.", unit="steps", ge=1)
    seed: int = option(0, "Seed of the samples.", ge=0, lt=2**32)
    negative: str = option("", "What the samples should not show.", only="image")
    steps: int = option(20, "Denoising steps of a sample.", only="image", ge=1, le=200)
    guidance: float = option(5.0, "Classifier-free guidance of a sample.", only="image", ge=0, le=30)
    system: str = option("", "System prompt of the samples; empty: none.", only="text")
    tokens: int = option(128, "Longest answer.", unit="tokens", only="text", ge=1, le=8192)
    temperature: float = option(
        0.0, "Randomness of the answers; 0: always the likeliest token.", only="text", ge=0, le=5
    )


class SaveConfig(Section):
    """Checkpoints."""

    every: int = option(250, "Steps between checkpoints.", unit="steps", ge=1)
    keep: int = option(3, "Newest checkpoints to keep.", ge=1, le=1000)
    best: bool = option(True, "With held-out examples, also keep the adapter of the lowest validation loss.")


class Config(Section):
    """A run."""

    task: Literal["image", "text"] = option("image", "What is trained: a picture model or a language model.")
    seed: int = option(0, "Every random draw of the run is a function of this, the step and a name.", ge=0, lt=2**32)
    base: BaseModelConfig = BaseModelConfig()
    data: DataConfig = DataConfig()
    prior: PriorConfig = PriorConfig()
    adapter: AdapterConfig = AdapterConfig()
    flat: FlatConfig = FlatConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    text: TextConfig = TextConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    sample: SampleConfig = SampleConfig()
    save: SaveConfig = SaveConfig()
    export: ExportConfig = ExportConfig()

    @field_validator("task", mode="before")
    @classmethod
    def _dreambooth(cls, value: Any) -> Any:
        """What runs were called that were made before there were language models."""
        return "image" if value == "dreambooth" else value

    def check(self) -> Iterator[Problem]:
        """Rules between sections."""
        values, defaults, declared = self.dotted(), type(self)().dotted(), fields(self.task)
        for key, value in values.items():
            if key not in declared and value != defaults[key]:
                yield Problem(key, f"means nothing with task={self.task}, got {shown(value)}.", "Leave it out.")
        for key in (key for key in PATHS if too_long(values[key])):
            yield Problem(key, f"is not a path: it is too long ({len(values[key]):,} characters).")
        if self.text.held_out and self.validation.holdout:
            yield Problem("validation.holdout", "must be 0 with text.held_out, which is a set of its own.")
        if self.train.patience and not (self.text.held_out or self.validation.holdout):
            hint = "Set validation.holdout." if self.task == "image" else "Set validation.holdout or text.held_out."
            yield Problem("train.patience", f"needs held-out examples, got {self.train.patience}.", hint)
        if self.text.answers and not (self.text.held_out or self.validation.holdout):
            yield Problem("text.answers", "needs held-out rows.", "Set validation.holdout or text.held_out.")
        if self.optimizer.text_encoder_lr and self.adapter.text_encoders == "none":
            rule = f"means nothing with adapter.text_encoders=none, got {self.optimizer.text_encoder_lr}."
            yield Problem("optimizer.text_encoder_lr", rule, "Set adapter.text_encoders, or leave it empty.")
        warmup, steps = self.optimizer.warmup, self.train.steps
        if warmup > steps:
            yield Problem("optimizer.warmup", f"must be at most train.steps={steps}, got {warmup}.")

    def dotted(self) -> dict[str, Any]:
        """All values by dotted key."""
        values = self.model_dump(mode="json")
        return {key: values[key.split(".")[0]][key.split(".")[1]] if "." in key else values[key] for key in fields()}


def sections() -> dict[str, type[Section]]:
    """The section classes by name."""
    kinds = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}


def fields(task: str | None = None) -> dict[str, FieldInfo]:
    """Every parameter's declaration by dotted key, in the order of declaration; of ``task``: only those it has."""
    declared: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        section = sections().get(name)
        declared |= section.of_task(task, f"{name}.") if section else {name: field}
    return declared


def choices(key: str) -> tuple[str, ...]:
    """The words that a parameter may be."""
    return get_args(fields()[key].annotation)
