"""What training makes of each picture on the page: its size, the part that is seen, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowrank_diffusion import presets
from lowrank_diffusion.config import Config
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import buckets, caption_tools, crops, flags
from lowrank_diffusion.image.buckets import Size
from lowrank_diffusion.image.data import Picture
from lowrank_diffusion.image.source import native_side, resolve

SETTINGS = (
    "base.path", "data.resolution", "data.crop", "data.crops", "data.buckets", "data.bucket_step", "data.max_aspect",
)  # fmt: skip
"""What the size and the crop of a picture depend on."""
MOST_TAGS = 60
WORDS = {"small": "too small", "blurred": "blurred", "duplicate": "duplicate", "border": "border"}
"""What a card calls the kinds of flags."""


def config_of(values: Mapping[str, Any]) -> Config:
    """These settings, whatever the others are. Raises ConfigError."""
    crops_kept = values["data.crops"] if values["data.crop"] == "random" else 1
    overrides = {"task": "image"} | {key: values[key] for key in SETTINGS} | {"data.crops": crops_kept}
    return presets.with_absolute_paths(presets.build(overrides=overrides))


def sizes_of(pictures: Sequence[Picture], config: Config) -> list[Size]:
    """At which size each is trained. Raises UserError where the base's own size is wanted and not known."""
    side = config.data.resolution or native_side(resolve(config.base))
    return buckets.sizes([picture.seen for picture in pictures], config.data, side)


def of(pictures: Sequence[Picture], values: Mapping[str, Any]) -> dict[str, Any]:
    """What the cards show at once: ``pictures``, by path, with their size, part and tags; and ``tags`` with counts."""
    captions = [picture.caption for picture in pictures]
    tags = caption_tools.tag_counts(captions)[:MOST_TAGS]
    place = {tag.casefold(): number for number, (tag, _) in enumerate(tags)}
    shown: dict[str, Any] = {str(picture.path): {"tags": _places(picture.caption, place)} for picture in pictures}
    try:
        config = config_of(values)
        sizes = sizes_of(pictures, config)
    except UserError:  # said at the start
        return {"pictures": shown, "tags": tags}
    for picture, size in zip(pictures, sizes, strict=True):
        shown[str(picture.path)] |= _framed(picture, size, config)
    return {"pictures": shown, "tags": tags}


def _places(caption: str, place: Mapping[str, int]) -> list[int]:
    return sorted({place[tag.casefold()] for tag in caption_tools.tags_of(caption) if tag.casefold() in place})


def _framed(picture: Picture, size: Size, config: Config) -> dict[str, Any]:
    """The size of a picture in words, and the part of it that is seen, if that is always the same."""
    words = f"{picture.seen[0]} x {picture.seen[1]} → {size[0]} x {size[1]}"
    if config.data.crop == "random":
        count = config.data.crops
        return {"size": words, "part": None, "crop": "random crop" if count == 1 else f"{count} random crops"}
    ((crop, *_),) = crops.fit([picture], [size], config.data, seed=0)
    return {"size": words, "part": [round(side, 5) for side in crop.part], "crop": ""}


def flagged(pictures: Sequence[Picture], values: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What is to be looked at in each picture, by path; new pictures take a moment. Raises DataError."""
    try:
        sizes = sizes_of(pictures, config_of(values))
    except UserError:
        sizes = None
    raised: dict[str, list[dict[str, Any]]] = {}
    for flag in flags.flags(pictures, sizes):
        facts = {"word": WORDS[flag.kind], "what": f"{flag.what} {flag.advice}", "frame": flag.frame}
        raised.setdefault(str(flag.picture), []).append(facts)
        for other in flag.others:
            again = {"word": WORDS[flag.kind], "what": f"looks the same as {flag.picture.name}.", "frame": None}
            raised.setdefault(str(other), []).append(again)
    return raised
