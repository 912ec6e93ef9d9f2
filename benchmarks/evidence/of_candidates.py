"""What is asked of ways of training that might be better. Committed before the runs are made.

Every arm has runs of its own and is judged at the checkpoint that validation chooses, the baseline too: nobody who
holds pictures out takes a later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .design import AUTO, BY_WIDTH, Arm, Experiment, flat
from .of_pictures import OUTSIDE, Pictures

GRALORA: dict[str, Any] = {"adapter.kind": "gralora", "adapter.k": 2}
HYBRIDS: dict[str, dict[str, Any]] = {
    f"hybrid {16 - plain} + {plain}": {"adapter.rank": 16 - plain, "adapter.hybrid_rank": plain} for plain in (4, 12)
}
"""A quarter and three quarters of rank 16 in the plain pair; a half was an arm of gralora_rate."""


def _recipes() -> Iterator[tuple[str, Arm]]:
    """Ours first, then one change at a time. Sigma 0.3 with the half cosine is that of the preset for a style."""
    flat_gralora = replace(flat(0.3), settings={**GRALORA, "flat.sigma": 0.3})
    yield "Flat-GraLoRA", flat_gralora
    yield "sigma 0.6 constant", replace(flat_gralora, settings={**GRALORA, "flat.sigma": 0.6}, strength="constant")
    yield "sigma auto", replace(flat_gralora, strength=AUTO)
    yield "alpha k r", replace(flat_gralora, settings={**flat_gralora.settings, "adapter.alpha": 32.0})
    for name, hybrid in HYBRIDS.items():
        yield name, replace(flat_gralora, settings={**flat_gralora.settings, **hybrid})
    yield BY_WIDTH, replace(flat_gralora, candidate=BY_WIDTH)


def _chosen(arms: dict[str, Arm]) -> dict[str, Arm]:
    """Each at its best checkpoint."""
    return {name: replace(arm, chosen=True) for name, arm in arms.items()}


EXPERIMENTS: dict[str, Experiment] = {
    "recipe": Experiment(
        question="Learning a style from 20 pictures, each arm at its own best learning rate and at the checkpoint that "
        "validation chooses: is a recipe of ours, Flat-LoRA on GraLoRA, better than plain LoRA by at least 3 % of the "
        "base's loss?",
        baseline="LoRA",
        arms={**_chosen({"LoRA": Arm(), **dict(_recipes())}), "LoRA, last checkpoint": Arm(like="LoRA")},
        settings={
            "adapter.kind": "lora", "adapter.rank": 16, "flat.sigma": 0.0, "optimizer.schedule": "cosine",
            "optimizer.warmup": 10,
        },
        data=Pictures(20, outside=True),
        seeds=tuple(range(1000, 1016)),
        margin=0.03,
        beyond=True,
        measured=(40, 80, 120, 160),
        grid=(5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3),
        tuning=(32, 33, 34, 35),
        also=OUTSIDE,
    ),
    "flat_candidates": Experiment(
        question="Five pictures, a constant rate, and the checkpoint that validation chooses: is any way of training "
        "flat better than plain LoRA?",
        baseline="LoRA",
        arms=_chosen({
            "LoRA": Arm(),
            "flat 0.6": flat(0.6),
            "flat 0.6 constant": flat(0.6, "constant"),
            "flat 0.6 falling": flat(0.6, "falling"),
            "flat 1.0 constant": flat(1.0, "constant"),
            "flat auto": flat(0.3, AUTO),
            "flat 0.6 constant, half of the layers": replace(flat(0.6, "constant"), candidate="half of the layers"),
            "ascent 0.2": Arm(candidate="ascent 0.2"),
            "ascent 0.5": Arm(candidate="ascent 0.5"),
        }),
        settings={
            "adapter.kind": "lora", "adapter.rank": 8, "flat.sigma": 0.0, "optimizer.lr": 1e-3,
            "optimizer.schedule": "constant", "optimizer.warmup": 0,
        },
        data=Pictures(5, outside=True),
        seeds=tuple(range(1020, 1032)),
        margin=0.01,
        measured=(20, 40, 60, 90, 125, 250, 500),
        also=OUTSIDE,
    ),
}  # fmt: skip
"""Primary measure: mean denoising loss on the scoring pictures at the chosen checkpoint, as a share of the base's;
decided as in :mod:`.of_pictures`. The recipe reaches its goal only where its whole interval lies beyond the
margin. In flat_candidates one rate serves all arms, so it has none that changes the size of a step; those are in
recipe, where each has its own. On one H200 with 15 processes about 400 s each (288 and 108 runs), by what runs of the
same length took there: 15 s of 160 steps, of which 0.1 s are one measure; one out of domain is six, and its pictures
take some 4 s to make."""
