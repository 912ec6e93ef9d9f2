"""Scene -> sentences. One scene is told in several ways, so that the model hears words, not templates."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from . import colours, words


@dataclass(frozen=True)
class Thing:
    """One object of a scene, as a sentence needs it."""

    concept: dict[str, Any]
    colour: str | None = None  # painted in this colour
    natural: str | None = None  # the word for its own main colour
    size: str = ""  # "small", "large" or nothing


@dataclass(frozen=True)
class Story:
    """What a scene shows."""

    style: str
    first: Thing
    second: Thing | None = None
    relation: str = ""  # "beside" or "stacked" where there is a second thing
    count: int = 1
    wears: tuple[str, ...] = ()  # words for what the first thing wears
    place: tuple[int, int] = (0, 0)
    colour: str | None = None  # of the background
    scenery: tuple[str, ...] = ()  # phrases for the background, "in the snow"
    effect: str | None = None
    dropped: bool = field(default=False)  # told with an empty caption


def tell(story: Story, rng: random.Random) -> str:
    """One caption out of many that are true of the story."""
    if story.dropped:
        return ""
    scene = describe(story, rng)
    if story.effect:
        style = rng.choice(words.EFFECTS[story.effect])
        return _fill(rng.choice(words.STYLED), rng, scene, style)
    dice = rng.random()
    if dice < 0.42:
        return _fill(rng.choice(words.STYLED), rng, scene, rng.choice(words.STYLES[story.style]))
    if dice < 0.66:
        return _fill(rng.choice(words.STYLED), rng, scene, unknown(rng))
    plain = not (story.colour or story.scenery) and rng.random() < 0.1
    caption = _fill(rng.choice(words.ON_WHITE if plain else words.NEUTRAL), rng, scene, "")
    if rng.random() < 0.06:
        return f"{caption}, {_fill(rng.choice(('{s}', '{s} style', '{s} {n}')), rng, '', unknown(rng))}"
    return caption


def unknown(rng: random.Random) -> str:
    """A style word without a meaning: a real word half of the time, else an invented one, at times two."""
    first = rng.choice(words.UNKNOWN) if rng.random() < 0.55 else invented(rng)
    if rng.random() < 0.15:
        second = rng.choice(words.UNKNOWN) if rng.random() < 0.5 else invented(rng)
        return f"{first} {second}"
    return first


def invented(rng: random.Random) -> str:
    """A pronounceable word that no dictionary has, or a plain string of letters and digits."""
    if rng.random() < 0.2:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randint(2, 7)))
    return "".join(rng.choice(words.SYLLABLES) for _ in range(rng.randint(1, 4))) + rng.choice(words.ENDINGS)


def bare(name: str) -> str:
    """A name without the colour words in it ("red apple" -> "apple"), if anything is left."""
    kept = [w for w in name.split() if w not in colours.COLOURS]
    return " ".join(kept) if kept else name


def noun(thing: Thing, rng: random.Random, article: bool = True) -> str:
    """ "a small blue apple": size, colour and name, in one of the usual forms."""
    names = thing.concept["names"]
    name = names[0] if len(names) == 1 or rng.random() < 0.7 else rng.choice(names[1:])
    after = ""
    if thing.colour:
        name = bare(name)
        form = rng.random()
        name, after = (f"{thing.colour} {name}", "") if form < 0.8 else (name, f" in {thing.colour}")
    elif thing.natural and rng.random() < 0.2 and not set(name.split()) & set(colours.COLOURS):
        name = f"{thing.natural} {name}"
    if rng.random() < 0.04:
        name = f"{rng.choice(words.PLACEHOLDERS)} {name}"
    elif rng.random() < 0.02:
        name = f"{invented(rng)} {name}"
    if thing.size:
        name = f"{rng.choice(words.SMALL if thing.size == 'small' else words.LARGE)} {name}"
    return (_article(name, rng) if article else name) + after


def plural(thing: Thing, rng: random.Random) -> str:
    """ "blue apples"."""
    name = noun(thing, rng, article=False)
    if re.search(r"(s|x|z|ch|sh)$", name):
        return name if name.endswith("s") else name + "es"
    return name[:-1] + "ies" if re.search(r"[^aeiou]y$", name) else name + "s"


def _article(name: str, rng: random.Random) -> str:
    dice = rng.random()
    if dice < 0.3 or name.split()[0] in ("two", "three", "men", "women", "people"):
        return name
    if dice < 0.36:
        return f"the {name}"
    return ("an " if name[0] in "aeiou" else "a ") + name


def describe(story: Story, rng: random.Random) -> str:
    """What a scene shows, as a phrase: "a small blue cat in the snow"."""
    text = noun(story.first, rng)
    if story.count > 1:
        text = rng.choice(words.COUNTS[story.count]).format(p=plural(story.first, rng))
    if story.wears:
        worn = rng.choice(story.wears)
        worn = worn if worn.endswith(("glasses", "phones")) else f"a {worn}"
        text = rng.choice(words.WEARING).format(x=text, h=worn)
    if story.second:
        forms = words.BESIDE if story.relation == "beside" else words.STACKED
        text = rng.choice(forms).format(a=text, b=noun(story.second, rng))
    if story.place != (0, 0):
        text = f"{text} {rng.choice(words.PLACES[story.place])}"
    if story.colour:
        return rng.choice(words.BACKDROPS).format(x=text, c=story.colour)
    if story.scenery:
        return rng.choice(words.PLACED).format(x=text, p=rng.choice(story.scenery))
    if rng.random() < 0.04 and story.first.concept["tags"]:
        text = f"{text}, {rng.choice(story.first.concept['tags'])}"
    return text


def _fill(form: str, rng: random.Random, scene: str, style: str) -> str:
    text = form.format(x=scene, s=style, n=rng.choice(words.NOUNS))
    text = re.sub(r"\b(a|my|the|one) (a|an|the) ", r"\2 ", text)
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return text.strip()
