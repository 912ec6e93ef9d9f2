"""What is to be learnt from pictures: a subject, a face, a style or a concept; and what follows from that for a run.

A purpose is a few settings over a preset: how captions and prompts are worded, and what must not be done to pictures.
A preset names those that it is made for (``purposes``), the first of which it is worded for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Purpose:
    """One of them."""

    title: str
    about: str
    """What pictures it needs, in a sentence."""
    settings: dict[str, Any]
    """Dotted, over the preset's."""


PURPOSES = {
    "subject": Purpose(
        "a subject",
        "An animal, a character or a thing: 4 to 20 pictures of it, from several sides, on different grounds.",
        {
            "data.prompt": "a photo of {word} {subject}",
            "data.trigger": "{word} {subject}",
            "sample.prompts": ("a photo of {word} {subject} wearing a hat", "a photo of {word} {subject} on a beach"),
        },
    ),
    "face": Purpose(
        "a face",
        "One person: 10 to 30 pictures, close and from the waist up, different light; they are never mirrored.",
        {
            "data.prompt": "a photo of {word} {subject}",
            "data.trigger": "{word} {subject}",
            "data.flip": False,
            "sample.prompts": ("a portrait photo of {word} {subject}", "{word} {subject} laughing, side light"),
        },
    ),
    "style": Purpose(
        "a style",
        "A way of drawing: 15 to 50 pictures of different things, each with a caption of what it shows.",
        {
            "data.prompt": "",
            "data.trigger": "{word}",
            "sample.prompts": ("a {word} of a teapot", "a {word} of a lion"),
        },
    ),
    "concept": Purpose(
        "a concept",
        "A pose, a garment, a place: 10 to 40 pictures with captions that say everything else that is to be seen.",
        {
            "data.prompt": "{word}",
            "data.trigger": "{word}",
            "sample.prompts": ("{word}, seen from the side", "{word} on a blue background"),
        },
    ),
}  # fmt: skip
