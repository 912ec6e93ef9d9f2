"""What the rest of the project asks of a family of picture models; no torch here.

A family is a folder of this package: what its models consist of and how their files are recognised (torch-free, a
:class:`Family`), and how they read prompts and denoise (a :class:`Network`, imported when one is needed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ...config import LossConfig
from ...tensor_files import Header

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .outline import Factors, Outline


@dataclass(frozen=True)
class Part:
    """A component of the pipeline: the classes it may have, and the stem of its weight files (empty: none)."""

    classes: tuple[str, ...]
    stem: str = ""


class Wrong(NamedTuple):
    """What keeps a file or folder from being used."""

    what: str
    """The end of a sentence whose subject is the file: "is a refiner."."""
    advice: str


class Place(NamedTuple):
    """Where in its model a layer is, for a person."""

    order: int
    """Of the block, from the model's input to its output."""
    block: str
    kind: str
    """What the layer does; the same word in all models."""


@dataclass(frozen=True)
class Embedding:
    """A prompt as the denoiser reads it; or several, with a first dimension B."""

    tokens: Tensor
    """(L, D): hidden states of the text encoders."""
    pooled: Tensor | None = None
    """(P,): one vector for the whole prompt, in families that have it."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All there is of it."""
        return (self.tokens,) if self.pooled is None else (self.tokens, self.pooled)


class Family(Protocol):
    """Facts of a family. Parts are called as in its diffusers pipeline."""

    name: str
    """Its key in ``FAMILIES``."""
    title: str
    """For people."""
    pipeline: str
    """The class that a folder's model_index.json names."""
    hub_names: re.Pattern[str]
    """What shows in the names of its models on the hub, in lower case."""
    parts: Mapping[str, Part]
    """Every part of the pipeline."""
    denoiser: str
    """The part that removes noise, and that adapters go to first."""
    denoiser_title: str
    """For people."""
    encoders: tuple[str, ...]
    """The text encoders, in the order in which they are read."""
    tokenizers: tuple[str, ...]
    """Theirs, in the same order."""
    noise: str
    """What its models learn from, for people."""
    silence_is_zero: bool
    """Whether "no prompt" is zeros in place of an embedding; otherwise it is the embedding of an empty prompt."""
    weights: Mapping[str, int]
    """How many weights the parts have, for a model whose files are not here."""
    factors: Factors
    """What was measured of its memory."""
    prefixes: Mapping[str, tuple[str, ...]]
    """By part, what adapter files of any program put before its layers' names."""
    marks: tuple[str, ...]
    """Those of them that only this family has, or few others do."""
    words_width: int
    """The width D of what the denoiser of the family's real models reads."""
    metadata: Mapping[str, str]
    """The fields of an adapter file's header that name the family."""

    def config(self, part: str, prediction: str | None = None) -> Path:
        """The folder with a part's configuration (or tokenizer), for a model in one file, which brings none.

        ``prediction``: what that model is known to predict; None where the scheduler's configuration is right.
        """
        ...

    def owns_config(self, config: Mapping[str, Any]) -> bool:
        """Whether a model of our pipeline whose denoiser has this configuration is of this family."""
        ...

    def owns_file(self, header: Header) -> bool:
        """Whether a checkpoint in the original layout is of this family, whole or not."""
        ...

    def file_problems(self, header: Header, vae: bool) -> list[Wrong]:
        """What keeps such a checkpoint from being used; ``vae``: whether it must bring a VAE."""
        ...

    def says_prediction(self, header: Header) -> bool:
        """Whether it is known what such a checkpoint predicts; if not, ``base.prediction`` has to say it."""
        ...

    def vae_file_problems(self, header: Header) -> list[Wrong]:
        """What keeps one file from being a VAE for this family."""
        ...

    def config_problem(self, part: str, config: Mapping[str, Any], alone: bool = False) -> Wrong | None:
        """What is wrong with the config.json of a part; ``alone``: of a VAE that replaces the base's own."""
        ...

    def scheduler_problems(self, kinds: Sequence[str], config: Mapping[str, Any]) -> list[str]:
        """Why the noise of these scheduler classes and this configuration is not the family's: "is X", "has y"."""
        ...

    def file_prefix(self, part: str) -> str | tuple[str, ...]:
        """What the names of a part's tensors begin with in a checkpoint in the original layout."""
        ...

    def scheduler_facts(self, header: Header) -> dict[str, Any]:
        """What such a checkpoint says about its noise, as settings of a scheduler."""
        ...

    def outline(self, config: Mapping[str, Any]) -> Outline:
        """The layers of the denoiser that ``config`` describes."""
        ...

    def encoder_layers(self, encoder: str, blocks: int, kind: str) -> tuple[str, ...]:
        """The linear layers of a text encoder with ``blocks`` blocks that ``adapter.text_encoders=kind`` means."""
        ...

    def public_name(self, part: str, path: str) -> str:
        """A layer's name in files for diffusers."""
        ...

    def kohya_name(self, part: str, path: str, layout: Any) -> str:
        """The same in files for ComfyUI, Forge, A1111 and kohya's scripts."""
        ...

    def layer_names(self, part: str, path: str, config: Any) -> list[str]:
        """Every name under which files speak of a layer, without the prefix of its part."""
        ...

    def place(self, part: str, path: str) -> Place:
        """Where a layer is."""
        ...

    def layout(self, config: Any) -> Any:
        """What those names depend on, from the denoiser's configuration; it has ``metadata()``."""
        ...

    def layout_of(self, metadata: Mapping[str, str]) -> Any:
        """The same from an adapter file's header."""
        ...

    def network(self) -> Network:
        """The half that needs torch."""
        ...


class Objective(Protocol):
    """What a denoiser learns; B examples with latents (C, h, w)."""

    @property
    def prediction(self) -> str:
        """What the denoiser says, by diffusers' name of it."""
        ...

    def plain(self) -> Objective:
        """The same without our weighting of timesteps, for validation; masks count."""
        ...

    def drawn_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps of ``count`` examples of a step, on the CPU."""
        ...

    def spaced_timesteps(self, count: int) -> Tensor:
        """Timesteps that stand for all of them, the same every time, on the CPU."""
        ...

    def shifted(self, noise: Tensor, offset: Tensor) -> Tensor:
        """``noise`` (B, C, h, w) with what the settings add to it; ``offset`` is drawn for it, (B, C, 1, 1)."""
        ...

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is given, (B, C, h, w)."""
        ...

    def loss(
        self, predicted: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of each example, (B,), its mean weighted by ``mask`` (B, 1, h, w) and ``loss.mask_outside``."""
        ...


class Network(Protocol):
    """How the models of a family are made, read prompts and denoise.

    Shapes: B examples, E text encoders, L tokens, D and P the widths of an :class:`Embedding`, (C, h, w) a latent.
    """

    classes: Mapping[str, Any]
    """The class of every part that has weights."""

    def objective(self, scheduler: Any, settings: LossConfig, device: torch.device) -> Objective:
        """What the denoiser learns, from the base's scheduler and the settings ``loss.*``. Raises ConfigError."""
        ...

    def pipeline(self, parts: Mapping[str, Any], index: Mapping[str, Any]) -> Any:
        """A diffusers pipeline of ``parts``, which may lack some; ``index`` is its model_index.json."""
        ...

    def from_picture(self, pipeline: Any, masked: bool) -> Any:
        """The diffusers pipeline of the same parts that changes a picture; ``masked``: only inside of a mask."""
        ...

    def converted(self, part: str, model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors of one part under the names that ``model`` has for them."""
        ...

    def prepare(self, denoiser: nn.Module, device: torch.device) -> str:
        """Let a denoiser that is to be trained run faster kernels, where the device has them.

        Returns what was installed for that and cannot be used, for a person to read.
        """
        ...

    def tokenise(self, tokenizers: Sequence[Any], prompts: Sequence[str], chunks: int) -> dict[str, Tensor]:
        """Token ids of each prompt, (E, L) int64, or (E, chunks, L)."""
        ...

    def encode(self, pipeline: Any, prompt: str, chunks: int) -> Embedding:
        """A prompt through a pipeline's text encoders, B = 1, on their device."""
        ...

    def read(self, encoders: Sequence[nn.Module], ids: Tensor) -> Embedding:
        """The same of token ids (B, E, L) or (B, E, chunks, L), in operations that a CUDA graph can hold."""
        ...

    def predict(
        self, denoiser: Any, noised: Tensor, timesteps: Tensor, embedding: Embedding, framing: Tensor
    ) -> Tensor:
        """What the denoiser says of ``noised`` (B, C, h, w) at ``timesteps`` (B,).

        ``framing`` (B, 6): original height and width, top and left of the crop, height and width of the crop.
        """
        ...

    def arguments(self, positive: Embedding, negative: Embedding) -> dict[str, Tensor]:
        """What a pipeline is given for two embeddings, B = 1 each."""
        ...
