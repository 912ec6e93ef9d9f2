"""Which pictures, captions and prompts a run will not learn as they are, reported before it starts, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..config import Config
from ..marks import listed
from . import buckets, flags
from .data import DataError, Picture, Survey, content_key, survey
from .source import Source, native_side
from .words import Reader

MOST_COMPARED = 300
"""Pictures up to which a set is searched for those that look nearly the same, which decodes all once more."""
SEEN = 0.9
"""Share of a picture that is seen in training; less is worth a note."""


def notes(cfg: Config, instance: Survey, classes: Survey | None, source: Source) -> list[str]:
    """Everything that is cut, left out, enlarged or replaced by something else; one sentence or two each.

    Args:
        cfg: The run's settings.
        instance: The pictures of ``data.instance``.
        classes: Those of ``prior.pictures``, if they are given.
        source: The base.
    """
    reader = Reader(source, cfg.data.caption_chunks)
    side = cfg.data.resolution or native_side(source)
    lines = [
        *instance.notes,
        *_duplicates(instance.pictures),
        *_captions(instance.pictures, reader),
        *_prompts(cfg, reader),
    ]
    lines += [
        *_without_effect(cfg, instance.pictures),
        *_masks(cfg, instance.pictures),
        *_sizes(cfg, instance.pictures, side),
        *_unseen(cfg, instance.pictures),
    ]
    if classes is not None:
        lines += [f"Class pictures: {note}" for note in classes.notes]
        lines += _classes(cfg, classes.pictures)
    return lines


def _duplicates(pictures: list[Picture]) -> Iterator[str]:
    same: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        same[content_key(picture.path)].append(picture)
    copies = [[picture.path.name for picture in alike] for alike in same.values() if len(alike) > 1]
    if len(copies) == 1:
        yield f"{listed(copies[0])} are the same picture, which is learnt {len(copies[0])} times as much."
    elif copies:
        which = listed([" = ".join(names) for names in copies], 3)
        yield f"{len(copies)} pictures are there several times, and learnt so much more: {which}."
    distinct = [alike[0] for alike in same.values()]
    raised = flags.duplicates(distinct) if len(pictures) <= MOST_COMPARED else ()
    alike = [" and ".join([flag.picture.name, *(path.name for path in flag.others)]) for flag in raised]
    if alike:
        yield f"Pictures that look nearly the same are learnt so much more: {listed(alike, 3)}."


def _captions(pictures: list[Picture], reader: Reader) -> Iterator[str]:
    cuts = [(picture.path.name, picture.caption, reader.cut(picture.caption)) for picture in pictures]
    cut = [(name, caption, excess) for name, caption, excess in cuts if excess]
    if len(cut) == len(pictures) > 1 and len({caption for _, caption, _ in cut}) == 1:
        cut = cut[:1]
        count = "The caption that the pictures share is"
    else:
        count = f"{len(cut)} of {len(pictures)} captions are"
    if cut:
        longest = max(excess.tokens for _, _, excess in cut)
        places = listed(
            [f"{name} ({excess.tokens} tokens) from {_begin(excess.lost)} on" for name, _, excess in cut], 3
        )
        yield f"{count} longer than the {reader.room} tokens that are read, and cut: {places}. {_more(reader, longest)}"


def _prompts(cfg: Config, reader: Reader) -> Iterator[str]:
    said = [(f"sample.prompts[{number}]", prompt) for number, prompt in enumerate(cfg.sample.prompts)]
    said += [("sample.negative", cfg.sample.negative)] if cfg.sample.prompts else []
    said += [("prior.prompt", cfg.prior.prompt)] if cfg.prior.weight else []
    for key, prompt in said:
        excess = reader.cut(prompt)
        if excess:
            place = f"from {_begin(excess.lost)} on"
            cut = f"{key} has {excess.tokens} tokens; {reader.room} are read, and it is cut {place}."
            yield f"{cut} {_more(reader, excess.tokens)}"


def _more(reader: Reader, tokens: int) -> str:
    """How to have prompts read whole."""
    chunks = -(-tokens // reader.chunk)
    advice = f"data.caption_chunks={chunks} reads them whole."
    return advice if chunks <= 8 else "Shorten them, or raise data.caption_chunks (8 at most)."


def _begin(text: str) -> str:
    return f"'{text[:40]}{'...' if len(text) > 40 else ''}'"


def _without_effect(cfg: Config, pictures: list[Picture]) -> Iterator[str]:
    """Settings of captions and triggers that have no effect."""
    trigger = cfg.data.trigger.strip().lower()
    lacking = [picture.path.name for picture in pictures if trigger not in picture.caption.lower()]
    if trigger and lacking:
        count = "none" if len(lacking) == len(pictures) else f"only {len(pictures) - len(lacking)}"
        yield (
            f"data.trigger {cfg.data.trigger!r} stands in {count} of {len(pictures)} captions; it is a name for other "
            "programs and is not put into them. `datasets edit NAME --trigger WORD` puts one into those of a saved set."
        )
    prompt = " ".join(cfg.data.prompt.split())
    own = [picture for picture in pictures if picture.caption != prompt]
    if prompt and len(own) == len(pictures):
        yield "data.prompt is not used: every picture has a caption of its own."


def _sizes(cfg: Config, pictures: list[Picture], side: int) -> Iterator[str]:
    sizes = buckets.sizes([picture.seen for picture in pictures], cfg.data, side)
    factors = {p.path.name: flags.enlarged(p, size) for p, size in zip(pictures, sizes, strict=True)}
    small = [name for name, factor in factors.items() if factor > 1]
    if small:
        most = f"up to {max(factors.values()):.1f} times"
        yield f"{len(small)} of {len(pictures)} pictures are enlarged, {most}: {listed(small)}."
    if cfg.data.buckets or cfg.data.crop != "center":
        return
    shares = [(min(p.seen) / max(p.seen), p) for p in pictures]
    cut = [(share, picture) for share, picture in shares if share < SEEN]
    if cut:
        share, worst = min(cut, key=lambda pair: pair[0])
        yield (
            f"{len(cut)} of {len(pictures)} pictures are cut to a square: of {worst.path.name} ({worst.seen[0]} x "
            f"{worst.seen[1]} px) {share:.0%} is seen. data.buckets=true keeps their shape."
        )


def _unseen(cfg: Config, pictures: list[Picture]) -> Iterator[str]:
    train, there = cfg.train, len(pictures) - cfg.validation.holdout
    seen = train.steps * train.batch * train.accumulate * train.gpus
    epoch = sum(picture.repeats for picture in pictures)
    if 0 < seen < there and epoch == len(pictures):
        yield f"{there - seen} of {there} pictures are never seen: train.steps={train.steps} sees {seen}."
    elif 0 < seen < epoch and not cfg.validation.holdout:
        yield f"An epoch has {epoch} examples with repeats, and train.steps={train.steps} sees only {seen} of them."


def _masks(cfg: Config, pictures: list[Picture]) -> Iterator[str]:
    if cfg.loss.mask_outside == 1 and (masked := [p.path.name for p in pictures if p.mask]):
        yield f"loss.mask_outside=1 leaves masks without effect: {listed(masked)}."


def _classes(cfg: Config, pictures: Iterable[Picture]) -> Iterator[str]:
    there = list(pictures)
    if len(there) > cfg.prior.count:
        yield f"prior.count={cfg.prior.count} of {len(there)} class pictures are used, the first by name."
    captioned = [p.path.name for p in there if p.caption != " ".join(cfg.prior.prompt.split())]
    if captioned:
        yield f"Captions of class pictures are not used, prior.prompt is: {listed(captioned)}."
    used = [p.path.name for p in there if p.repeats != 1 or p.weight != 1 or p.frame or p.mask]
    if used:
        yield f"Repeats, weights, frames and masks of class pictures are not used: {listed(used)}."


def given_classes(cfg: Config) -> Survey | None:
    """The class pictures that a person gives; None where none are used or the base draws them.

    Raises:
        DataError: the folder has bad or too few pictures.
    """
    if not cfg.prior.weight or not cfg.prior.pictures:
        return None
    given = survey(Path(cfg.prior.pictures), cfg.prior.prompt)
    there = len(given.pictures)
    if there < cfg.prior.count:
        rule = f"has {there} class pictures, and prior.count={cfg.prior.count} asks for more"
        advice = f"Add some, set prior.count={there}, or leave prior.pictures empty and the base draws them."
        raise DataError([f"{cfg.prior.pictures}: {rule}. {advice}"])
    return given
