"""What an adapter does to pictures, in numbers: its run's prompts drawn without it and with it, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from .. import devices
from .encoder import Encoder, likeness
from .generate import Drawn, Studio
from .request import DrawRequest


@dataclass(frozen=True)
class Figures:
    """Means over the pictures of one prompt, or of all of them (``prompt`` empty)."""

    prompt: str
    adapted: bool
    references: float
    """Cosine to the references: CLIP-I or DINO of the DreamBooth paper (arXiv 2208.12242)."""
    words: float | None
    """Cosine to the prompt: its CLIP-T; None from an encoder that does not read."""


def measure(
    requests: Sequence[DrawRequest],
    references: Sequence[Image.Image],
    encoder: Path,
    keep: Callable[[str, Drawn], None] = lambda prompt, drawn: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Figures]:
    """Draw each request with the base alone and adapted, from the same noise, and compare.

    The encoder (a folder, see :func:`.encoder.find`) is loaded when the pipeline is gone: a GPU need not hold both.

    Args:
        requests: What to draw, each with an adapter.
        references: What the pictures should be like.
        encoder: Its folder.
        keep: Is given each picture with its prompt as soon as it is drawn.
        progress: Denoising steps done and to do, of all requests.

    Raises:
        ModelError, AdapterError, DeviceError: what cannot be used, and what to do.
    """
    studio, drawn = Studio(), []
    for index, request in enumerate(requests):

        def step(done: int, total: int, index: int = index) -> None:
            progress(index * total + done, len(requests) * total)

        for picture in studio.draw(replace(request, compare=True), step):
            keep(request.prompt, picture)
            drawn.append((request.prompt, picture))
    studio.release()
    return figures(Encoder(encoder, devices.pick(requests[0].device)), drawn, references)


def figures(encoder: Encoder, drawn: Sequence[tuple[str, Drawn]], references: Sequence[Image.Image]) -> list[Figures]:
    """Base and adapted, prompt by prompt, and over all prompts."""
    seen = encoder.embed([picture.image for _, picture in drawn])
    like = likeness(seen, encoder.embed(references))
    prompts = list(dict.fromkeys(prompt for prompt, _ in drawn))
    of = torch.tensor([prompts.index(prompt) for prompt, _ in drawn])
    adapted = torch.tensor([picture.adapted for _, picture in drawn])
    words = (seen * encoder.read(prompts)[of]).sum(1) if encoder.reads else None
    everything = torch.ones_like(adapted)
    rows = []
    for prompt, among in [*((prompt, of == k) for k, prompt in enumerate(prompts)), ("", everything)]:
        for variant in (False, True):
            mine = among & (adapted == variant)
            to_words = None if words is None else float(words[mine].mean())
            rows.append(Figures(prompt, variant, float(like[mine].mean()), to_words))
    return rows
