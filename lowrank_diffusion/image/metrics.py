"""What an adapter does to pictures, in numbers: its run's prompts drawn without it and with it, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from .. import devices
from .encoder import Encoder, likeness
from .generate import Drawn, Hooks, Studio
from .request import AdapterChoice, DrawRequest, drawn_steps


@dataclass(frozen=True)
class Figures:
    """Means over the pictures of one prompt, or of all of them (``prompt`` empty)."""

    prompt: str
    adapted: bool
    references: float
    """Cosine to the references: CLIP-I or DINO of the DreamBooth paper (arXiv 2208.12242)."""
    words: float | None
    """Cosine to the prompt: its CLIP-T; None from an encoder that does not read."""
    step: int | None = None
    """Of the adapter, where several were measured."""


@dataclass(frozen=True)
class Seen:
    """A picture that is measured."""

    prompt: str
    drawn: Drawn
    step: int | None = None
    """Of the adapter, where there are several."""


def measure(
    requests: Sequence[DrawRequest],
    references: Sequence[Image.Image],
    encoder: Path,
    keep: Callable[[Seen], None] = lambda seen: None,
    hooks: Hooks = Hooks(),  # noqa: B008
    checkpoints: Mapping[int, AdapterChoice] | None = None,
) -> list[Figures]:
    """Draw each request with the base alone, once, and with each adapter, from the same noise, and compare.

    The encoder (a folder, see :func:`.encoder.find`) is loaded when the pipeline is gone: a GPU need not hold both.

    Args:
        requests: What to draw.
        references: What the pictures should be like.
        encoder: Its folder.
        keep: Is given each picture as soon as it is drawn.
        hooks: ``progress`` gets the denoising steps done and to do, of all requests.
        checkpoints: Adapters by their steps; None: each request's own.

    Raises:
        ModelError, AdapterError, DeviceError: what cannot be used, and what to do.
        DrawCancelled: ``hooks.cancelled`` said so.
    """
    studio, pictures = Studio(), []
    for seen in _drawn(studio, requests, checkpoints, hooks):
        keep(seen)
        pictures.append(seen)
    studio.release()
    return figures(Encoder(encoder, devices.pick(requests[0].device)), pictures, references)


def _drawn(
    studio: Studio, requests: Sequence[DrawRequest], checkpoints: Mapping[int, AdapterChoice] | None, hooks: Hooks
) -> Iterator[Seen]:
    """The base's pictures, then those of every adapter in turn."""
    bare = [replace(request, adapters=(), compare=False) for request in requests]
    rounds: list[tuple[int | None, list[DrawRequest]]] = [(None, bare)]
    if checkpoints is None:
        rounds.append((None, [replace(request, compare=False) for request in requests]))
    else:
        adapted = ((step, (choice,)) for step, choice in checkpoints.items())
        rounds += [(step, [replace(request, adapters=choices) for request in bare]) for step, choices in adapted]
    every = [(step, request) for step, some in rounds for request in some]
    sizes = [request.count * drawn_steps(request) for _, request in every]
    for number, (step, request) in enumerate(every):

        def tell(done: int, _total: int, before: int = sum(sizes[:number])) -> None:
            if hooks.progress:
                hooks.progress(before + done, sum(sizes))

        for picture in studio.draw(request, tell, hooks.cancelled, hooks.preview):
            yield Seen(request.prompt, picture, step)
        studio.unload_all_but(request.adapters)


def figures(encoder: Encoder, pictures: Sequence[Seen], references: Sequence[Image.Image]) -> list[Figures]:
    """Base and adapted, prompt by prompt, and over all prompts."""
    seen = encoder.embed([picture.drawn.image for picture in pictures])
    like = likeness(seen, encoder.embed(references))
    prompts = list(dict.fromkeys(picture.prompt for picture in pictures))
    of = torch.tensor([prompts.index(picture.prompt) for picture in pictures])
    variants = list(dict.fromkeys((picture.drawn.adapted, picture.step) for picture in pictures))
    variant_of = torch.tensor([variants.index((picture.drawn.adapted, picture.step)) for picture in pictures])
    words = (seen * encoder.read(prompts)[of]).sum(1) if encoder.reads else None
    everything = torch.ones(len(pictures), dtype=torch.bool)
    rows = []
    for prompt, among in [*((prompt, of == k) for k, prompt in enumerate(prompts)), ("", everything)]:
        for number, (adapted, step) in enumerate(variants):
            mine = among & (variant_of == number)
            to_words = None if words is None else float(words[mine].mean())
            rows.append(Figures(prompt, adapted, float(like[mine].mean()), to_words, step))
    return rows
