"""Examples of every kind of adapter, for tests that hold for all of them. A kind that has none here is given one, so
that a new row of ``KINDS`` is tested by being there."""

from __future__ import annotations

from typing import Any

from lowrank_diffusion import presets
from lowrank_diffusion.adapters.kinds import KINDS
from lowrank_diffusion.config import AdapterConfig

Settings = dict[str, Any]


def with_every_kind(own: dict[str, Settings]) -> dict[str, Settings]:
    """``own`` examples, settings by dotted keys, and one of each kind that none of them is of."""
    there = {settings.get("adapter.kind", "gralora") for settings in own.values()}
    return own | {name: {"adapter.kind": name, "adapter.rank": 4} for name in KINDS if name not in there}


EXAMPLES = with_every_kind(
    {
        "lora": {"adapter.kind": "lora", "adapter.rank": 4},
        "lora-alpha": {"adapter.kind": "lora", "adapter.rank": 4, "adapter.alpha": 6.0},
        "gralora": {"adapter.kind": "gralora", "adapter.rank": 4, "adapter.k": 2},
        "gralora-k4": {"adapter.kind": "gralora", "adapter.rank": 8, "adapter.k": 4, "adapter.alpha": 4.0},
        "gralora-k1": {"adapter.kind": "gralora", "adapter.rank": 4, "adapter.k": 1},
        "hybrid": {
            "adapter.kind": "gralora", "adapter.rank": 4, "adapter.k": 2, "adapter.hybrid_rank": 3,
            "adapter.alpha": 14.0,
        },
        "lokr": {"adapter.kind": "lokr", "adapter.rank": 3, "adapter.factor": 3, "adapter.alpha": 6.0},
        "lokr-square": {"adapter.kind": "lokr", "adapter.rank": 1},
    }
)  # fmt: skip
"""For layers with sides of 16, 24 and multiples of 32."""


def adapter(settings: Settings) -> AdapterConfig:
    """The section of one example."""
    return presets.build({}, settings).adapter
