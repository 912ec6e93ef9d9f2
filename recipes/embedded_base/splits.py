"""What is never trained on, drawn once and committed as `heldout.json`.

* `pairs`: per style, one concept in ten; the concept stays in other styles (is a known object drawn in a
  style in which it was never seen?).
* `objects`: concepts left out of every style (what does an adapter make of a new object?). They count
  towards each style's tenth.
* `colours`: (concept, colour word) pairs that recolouring must not produce.
* `templates`, `style_words`: sentences and words that no training caption may use.
* The whole Fluent 3D set, which no stage of the training opens.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from .colours import MEASURED
from .words import GLASSES, HATS

FILE = Path(__file__).with_name("heldout.json")
SHARE = 0.1
OBJECTS = 24
RECOLOURINGS = 50
CONCRETE = (3, 4, 5, 6, 7)  # groups: animals, food, places and vehicles, activities, things

TEMPLATES = (
    "an artwork showing {x}, made with {s}",
    "{s} version of {x}",
    "this is {x} from the {s} set",
    "please show me {x} in {s}",
    "a piece of {s} clipart depicting {x}",
)
NEUTRAL_TEMPLATES = ("an artwork showing {x}", "please show me {x}", "a piece of clipart depicting {x}")
STYLE_WORDS = (
    "claymation", "origami", "gouache", "steampunk", "baroque", "holographic", "crayon", "plasticine",
    "ukiyo-e", "cubist", "mosaic", "embroidered", "voxel", "chalkboard", "art deco", "papercut",
    "lino cut", "cyberpunk", "porcelain", "airbrushed",
)  # fmt: skip


def draw(data: dict[str, Any], natural: dict[str, set[str]], path: Path, seed: int = 2026) -> dict[str, Any]:
    """Choose the lists from the sources and write them. Run once: the committed file rules afterwards.

    `natural` holds, for concepts with one clear main colour, the words for it in the styles that draw them.
    """
    rng = random.Random(seed)
    concepts = {c["code"]: c for c in data["concepts"]}
    styles = list(data["svg"])
    coverage = Counter(code for style in styles for code in data["svg"][style])
    common = [c for c in concepts if _concrete(concepts[c]) and coverage[c] >= min(5, len(styles))]
    objects = sorted(rng.sample(common, min(OBJECTS, len(common) // 10)))
    pairs: dict[str, list[str]] = {}
    lost: Counter[str] = Counter()
    for style in styles:
        codes = sorted(data["svg"][style])
        fixed = [c for c in objects if c in data["svg"][style]]
        # A pair may only go where the concept keeps at least two trained styles.
        free = [c for c in codes if c not in objects and coverage[c] - lost[c] >= 3]
        chosen = rng.sample(free, max(0, round(SHARE * len(codes)) - len(fixed)))
        lost.update(chosen)
        pairs[style] = sorted(chosen)
    plain = [c for c in common if c in natural and c not in objects]
    plain = [c for c in plain if not set(concepts[c]["names"][0].split()) & set(MEASURED)]
    codes = rng.sample(plain, min(RECOLOURINGS, len(plain)))
    colours = [[c, rng.choice([w for w in MEASURED if w not in natural[c]])] for c in codes]
    held = {
        "objects": objects,
        "pairs": pairs,
        "colours": colours,
        "templates": TEMPLATES,
        "neutral_templates": NEUTRAL_TEMPLATES,
        "style_words": STYLE_WORDS,
        "sets": ["@lobehub/fluent-emoji-3d"],
    }
    path.write_text(json.dumps(held, indent=1) + "\n")
    return load(path)


def _concrete(concept: dict[str, Any]) -> bool:
    """A thing with a look of its own: no clock face, and nothing that scenes dress others with."""
    clock = any(word in concept["names"][0] for word in ("oclock", "thirty"))
    return concept["group"] in CONCRETE and not clock and concept["code"] not in {**HATS, **GLASSES}


def load(path: Path = FILE) -> dict[str, Any]:
    """The lists above."""
    return json.loads(path.read_text())


def mask(held: dict[str, Any], rows: list[tuple[str, str]]) -> np.ndarray:
    """(N,) bool for rows of (concept code, style): True where training must not look."""
    objects = set(held["objects"])
    pairs = {(code, style) for style, codes in held["pairs"].items() for code in codes}
    return np.array([code in objects or (code, style) in pairs for code, style in rows])
