"""Definitions of WordNet 3.0 with their lexicographer files, read from its database (Debian: wordnet-base).

The formats are wndb(5WN) and lexnames(5WN).
"""

from __future__ import annotations

import functools
from pathlib import Path

from lowrank_diffusion.errors import DataError

NAMES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()
"""Lexicographer files by their number."""
FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
LONGEST = 200
"""Letters; the few longer definitions are left out."""


@functools.cache
def definitions(folder: Path) -> tuple[tuple[str, str], ...]:
    """(definition, name of its file), each definition once, in the order of the database; without the examples.

    Definitions that stand in several files are left out: nothing tells which is meant.

    Raises:
        DataError: files are missing.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise DataError([f"--wordnet: {folder} has no {', '.join(missing)}. Give the folder of WordNet's database."])
    found: dict[str, set[str]] = {}
    for file in FILES:
        for line in (folder / file).read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            facts, _, gloss = line.partition(" | ")
            said = gloss.partition(";")[0].strip()
            if said and len(said) <= LONGEST:
                found.setdefault(said, set()).add(NAMES[int(facts.split(" ", 2)[1])])
    return tuple((said, min(names)) for said, names in found.items() if len(names) == 1)
