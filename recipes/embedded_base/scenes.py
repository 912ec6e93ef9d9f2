"""Planning scenes: which pictures, where, in what colours, on what ground, and the captions that say so.

A plan is a dictionary of numpy arrays with one row per scene (S scenes, up to LAYERS = 3 stacked pictures):

    picture (S, 3) int32   row of the library, -1 for none      background (S,) int32  row of the bank
    box     (S, 3, 3) f32  scale, centre x, centre y in [-1, 1]  effect     (S,) int8   index, -1 for none
    colour  (S, 3) int8    index of the colour word, -1          crop (S, 3) f32  zoom, left, top in px
    size    (S,) int16     px to which detail is reduced         captions: list of lists of text

All of it is a function of (seed, chunk), so a pool can be planned by many processes and again later.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import colours, words
from .backgrounds import COLOUR_ROWS, SCENE_ROWS, SCENERY
from .captions import Story, Thing, describe, tell
from .rasterise import Library
from .settings import LAYERS, SIDE

CHUNK = 4000  # scenes planned together
# Kind of scene -> share of the pool.
KINDS = {
    "plain": 0.42,
    "colour": 0.15,
    "ground": 0.12,
    "pair": 0.10,
    "wear": 0.06,
    "place": 0.05,
    "count": 0.03,
    "effect": 0.07,
}
EFFECTS = tuple(words.EFFECTS)
QUIET_GROUPS = (1, 8)  # people (three genders of everything) and signs: drawn half as often


@dataclass
class Layer:
    """One picture of a scene."""

    picture: int
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0
    colour: int = -1


class Planner:
    """Draws scenes from the pictures that training may see; from all of them if `everything`."""

    def __init__(self, library: Library, heldout: dict[str, Any], everything: bool = False) -> None:
        self.library = library
        self.rows = np.flatnonzero(~library.held | everything)
        groups = np.array([c["group"] for c in library.concepts])[library.concept]
        weight = np.where(np.isin(groups, QUIET_GROUPS), 0.5, 1.0)
        self.weights = (weight[self.rows] / weight[self.rows].sum()).cumsum()
        self.forbidden = {(code, word) for code, word in heldout["colours"]}
        self.by_code: dict[str, dict[int, int]] = {}
        for row in self.rows.tolist():
            code = library.concepts[library.concept[row]]["code"]
            self.by_code.setdefault(code, {})[int(library.style[row])] = row
        self.top = {int(r): _profile(library.pixels[r]) for r in self.rows}
        self.hats = {c: w for c, w in words.HATS.items() if c in self.by_code}
        self.glasses = {c: w for c, w in words.GLASSES.items() if c in self.by_code}

    def chunk(self, seed: int, index: int, count: int, captions: int) -> dict[str, Any]:
        """Plan `count` scenes with `captions` captions each."""
        rng = random.Random(f"{seed}/scenes/{index}")
        plan = empty(count)
        told: list[list[str]] = []
        for s in range(count):
            layers, story, ground, effect = self._scene(rng)
            for k, layer in enumerate(layers[:LAYERS]):
                plan["picture"][s, k], plan["colour"][s, k] = layer.picture, layer.colour
                plan["box"][s, k] = layer.scale, layer.x, layer.y
            plan["background"][s], plan["effect"][s] = ground, effect
            plan["crop"][s], plan["size"][s] = _micro(rng)
            told.append([tell(story, rng) for _ in range(captions)])
        return {**plan, "captions": told}

    def phrases(self, seed: int, count: int) -> list[tuple[str, str]]:
        """(what a scene shows, its style), without a frame around it."""
        rng = random.Random(f"{seed}/phrases")
        stories = (self._scene(rng)[1] for _ in range(count))
        return [(describe(story, rng), story.style) for story in stories]

    def _scene(self, rng: random.Random) -> tuple[list[Layer], Story, int, int]:
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        row = self._pick(rng)
        layer, thing = self._thing(row, rng, painted=kind == "colour" or rng.random() < 0.1)
        style = self.library.styles[self.library.style[row]]
        story = Story(style, thing, dropped=rng.random() < 0.04)
        layers, ground, effect = [layer], 0, -1
        if kind == "plain" and rng.random() < 0.3:
            layer.scale, layer.x, layer.y = rng.uniform(0.8, 1.0), rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08)
        elif kind == "pair":
            layers, story = self._pair(layer, story, rng)
        elif kind == "wear":
            layers, story = self._wear(layer, story, rng)
        elif kind == "place":
            story = _place(layer, story, rng)
        elif kind == "count":
            layers, story = _several(layer, story, rng)
        elif kind == "effect":
            effect = rng.randrange(len(EFFECTS))
            story = replace(story, effect=EFFECTS[effect])
        if kind == "ground" or (kind in ("colour", "pair", "wear", "place", "count") and rng.random() < 0.25):
            if kind == "ground":
                layer.scale, layer.x, layer.y = rng.uniform(0.62, 0.98), rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.12)
            ground, story = _ground(story, rng)
        return layers, story, ground, effect

    def _pick(self, rng: random.Random) -> int:
        return int(self.rows[min(np.searchsorted(self.weights, rng.random()), len(self.rows) - 1)])

    def _thing(self, row: int, rng: random.Random, painted: bool) -> tuple[Layer, Thing]:
        """A layer and how to speak of it; painting skips what is held out or has no clear main colour."""
        concept = self.library.concepts[self.library.concept[row]]
        hue, chroma, luma, share = self.library.main[row].tolist()
        natural = colours.word_of(hue, chroma, luma) if share > 0.5 else None
        if painted and share > 0.3:
            index = rng.randrange(len(colours.WORDS) if rng.random() < 0.5 else len(colours.MEASURED))
            word = colours.WORDS[index]
            if (concept["code"], word) not in self.forbidden:
                return Layer(row, colour=index), Thing(concept, colour=word)
        return Layer(row), Thing(concept, natural=natural)

    def _partner(self, row: int, rng: random.Random) -> int:
        """Another picture, of the same style if a few tries find one."""
        other = row
        for _ in range(12):
            other = self._pick(rng)
            if self.library.style[other] == self.library.style[row] and other != row:
                break
        return other

    def _pair(self, layer: Layer, story: Story, rng: random.Random) -> tuple[list[Layer], Story]:
        second, thing = self._thing(self._partner(layer.picture, rng), rng, painted=rng.random() < 0.25)
        layer.scale, second.scale = rng.uniform(0.46, 0.58), rng.uniform(0.46, 0.58)
        relation = "beside" if rng.random() < 0.7 else "stacked"
        gap, drift = rng.uniform(0.44, 0.5), rng.uniform(-0.15, 0.15)
        if relation == "beside":
            layer.x, second.x, layer.y, second.y = -gap, gap, drift, rng.uniform(-0.15, 0.15)
        else:
            layer.y, second.y, layer.x, second.x = -gap, gap, drift, rng.uniform(-0.15, 0.15)
        return [layer, second], replace(story, second=thing, relation=relation)

    def _wear(self, layer: Layer, story: Story, rng: random.Random) -> tuple[list[Layer], Story]:
        """Put a hat on top of the drawing, or glasses on the upper third of a face or an animal."""
        face = story.first.concept["group"] in (0, 3) and rng.random() < 0.3
        shelf = self.glasses if face and self.glasses else self.hats
        if not shelf:
            return [layer], story
        code = rng.choice(tuple(shelf))
        drawn = self.by_code[code]
        row = drawn.get(int(self.library.style[layer.picture]), rng.choice(tuple(drawn.values())))
        left, right, top = self.top[layer.picture]
        layer.scale = rng.uniform(0.62, 0.74)
        layer.y = 0.26
        wide = (right - left) * layer.scale
        hat = Layer(row, x=(left + right) / 2 * layer.scale)
        hat.scale = min(0.62, max(0.3, wide * (0.3 if shelf is self.glasses else 0.36)))
        reach = 0.55 if shelf is self.glasses else -0.62 * hat.scale
        hat.y = top * layer.scale + layer.y + reach
        return [layer, hat], replace(story, wears=shelf[code])


def empty(count: int) -> dict[str, Any]:
    """Arrays of a plan for `count` scenes: nothing on white."""
    box = np.zeros((count, LAYERS, 3), np.float32)
    box[..., 0] = 1
    return {
        "picture": np.full((count, LAYERS), -1, np.int32),
        "box": box,
        "colour": np.full((count, LAYERS), -1, np.int8),
        "background": np.zeros(count, np.int32),
        "effect": np.full(count, -1, np.int8),
        "crop": np.tile(np.array([1, 0, 0], np.float32), (count, 1)),
        "size": np.full(count, SIDE, np.int16),
    }


def merge(plans: list[dict[str, Any]]) -> dict[str, Any]:
    """Join chunks."""
    joined = {k: np.concatenate([p[k] for p in plans]) for k in plans[0] if k != "captions"}
    return {**joined, "captions": [c for p in plans for c in p["captions"]]}


def _profile(rgba: np.ndarray) -> tuple[float, float, float]:
    """Left and right end of the uppermost quarter of a drawing, and its top, in [-1, 1]."""
    solid = rgba[..., 3] > 100
    rows = np.flatnonzero(solid.any(1))
    if not len(rows):
        return -0.5, 0.5, -0.9
    height = max(2, (rows[-1] - rows[0]) // 4)
    columns = np.flatnonzero(solid[rows[0] : rows[0] + height].any(0))
    scale = 2 / SIDE
    return columns[0] * scale - 1, columns[-1] * scale - 1, rows[0] * scale - 1


def _place(layer: Layer, story: Story, rng: random.Random) -> Story:
    dice = rng.random()
    if dice < 0.3:
        layer.scale = rng.uniform(0.3, 0.5)
        return replace(story, first=replace(story.first, size="small"))
    if dice < 0.5:
        layer.scale = rng.uniform(1.15, 1.5)
        return replace(story, first=replace(story.first, size="large"))
    place = rng.choice(tuple(words.PLACES))
    layer.scale = rng.uniform(0.36, 0.52)
    layer.x, layer.y = place[0] * rng.uniform(0.42, 0.52), place[1] * rng.uniform(0.42, 0.52)
    return replace(story, place=place)


def _several(layer: Layer, story: Story, rng: random.Random) -> tuple[list[Layer], Story]:
    count = rng.choice((2, 3))
    scale = rng.uniform(0.44, 0.52) if count == 2 else rng.uniform(0.42, 0.48)
    spots = [(-0.48, 0), (0.48, 0)] if count == 2 else [(0, -0.46), (-0.5, 0.44), (0.5, 0.44)]
    layers = [replace(layer, scale=scale, x=x, y=y) for x, y in spots]
    return layers, replace(story, count=count)


def _ground(story: Story, rng: random.Random) -> tuple[int, Story]:
    if rng.random() < 0.6:
        word = rng.choice(tuple(COLOUR_ROWS))
        return rng.choice(COLOUR_ROWS[word]), replace(story, colour=word)
    scene = rng.choice(tuple(SCENE_ROWS))
    return rng.choice(SCENE_ROWS[scene]), replace(story, scenery=SCENERY[scene])


def _micro(rng: random.Random) -> tuple[tuple[float, float, float], int]:
    """Crop and size augmentation, told to the model by its micro-conditioning."""
    size = rng.choice((32, 48, 64, 80, 96, 112)) if rng.random() < 0.12 else SIDE
    if rng.random() < 0.88:
        return (1.0, 0.0, 0.0), size
    zoom = rng.uniform(1.1, 1.7)
    slack = int(SIDE * (zoom - 1))
    return (zoom, float(rng.randint(0, slack)), float(rng.randint(0, slack))), size
