"""The groups of parameters that only one task has, and of what is written; :mod:`.config` has the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from .declare import Problem, Section, option


class PriorConfig(Section):
    """DreamBooth's prior preservation: keep the class as the base draws it."""

    only: ClassVar[str] = "image"

    weight: float = option(0.0, "Weight of the loss on class pictures; 0 turns it off.", ge=0, le=10)
    prompt: str = option("", "Prompt of the class without the trigger, for example 'a photo of a dog'.", pixels=True)
    pictures: str = option("", "Folder of class pictures; empty: the base draws them.")
    count: int = option(100, "How many class pictures to use.", ge=1, le=10_000)
    guidance: float = option(5.0, "Guidance when the base draws class pictures.", pixels=True, ge=0, le=30)
    steps: int = option(20, "Denoising steps when the base draws class pictures.", pixels=True, ge=1, le=200)

    def check(self) -> Iterator[Problem]:
        """The class needs a prompt."""
        if self.weight > 0 and not self.prompt:
            yield Problem("prompt", "is needed with prior.weight > 0.", "Give the class, such as 'a photo of a dog'.")


class LossConfig(Section):
    """The denoising objective."""

    only: ClassVar[str] = "image"

    min_snr: float = option(5.0, "Min-SNR gamma: caps the weight of low-noise timesteps; 0: off.", ge=0, le=100)
    noise_offset: float = option(
        0.0, "Constant noise per channel, for darker and brighter pictures; 0: off.", ge=0, le=1
    )
    mask_outside: float = option(
        0.0, "Weight of what a picture's mask leaves out; 0: nothing is learnt there; 1: masks change nothing.",
        ge=0, le=1,
    )  # fmt: skip


class TextConfig(Section):
    """How texts become sequences of tokens, and which tokens are learned."""

    only: ClassVar[str] = "text"

    length: int = option(512, "Tokens of a sequence.", unit="tokens", tokens=True, ge=16, le=131_072)
    packing: bool = option(
        True, "Put several rows into one sequence, each seeing only itself; else one, padded.", tokens=True
    )
    loss_on: Literal["assistant", "all"] = option(
        "assistant", "Learn what the assistant says, or every token.", tokens=True
    )
    template: Literal["auto", "plain"] = option(
        "auto", "Chat template: the model's own, or a plain one for a base that has none.", tokens=True
    )
    overlong: Literal["refuse", "cut"] = option(
        "refuse", "Rows longer than a sequence: an error, or cut at the end.", tokens=True
    )
    held_out: str = option("", "File of rows for validation; empty: validation.holdout rows of the set.")
    scored: int = option(
        0, "Held-out rows whose loss is measured at every validation, the first ones; 0: all.", unit="rows", ge=0,
        le=1_000_000,
    )  # fmt: skip
    answers: int = option(0, "Held-out rows answered at every validation; 0: none.", unit="rows", ge=0, le=10_000)


class ExportConfig(Section):
    """The adapter's files for other programs."""

    dtype: Literal["auto", "fp32", "fp16", "bf16"] = option(
        "auto", "Type of their numbers. auto: fp16 if the run trains in half precision; the error is reported."
    )
    captions: bool = option(True, "Write captions, prompts and how often each tag stands into the files' headers.")
