"""Which linear layers get adapters, and which are quantised, by name alone: no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "gate_proj", "up_proj", "down_proj")
_NAMED = {"attention": ATTENTION, "attention+feed_forward": ATTENTION + FEED_FORWARD}

UNQUANTIZED = r"(^|\.)(time_embedding|time_emb_proj|add_embedding|lm_head)(\.|$)"
"""In the paths of linear layers that ``base.quantize`` leaves as they are: what is small and feeds everything (time),
and what turns into logits. Norms, convolutions and embeddings are no linear layers, and so stay too."""


def matching(paths: Iterable[str], targets: str | tuple[str, ...]) -> tuple[set[str], list[str]]:
    """(paths that are meant, targets that mean none of them)."""
    paths = list(paths)
    if isinstance(targets, str) and targets not in _NAMED:
        found = {path for path in paths if re.fullmatch(targets, path)}
        return found, [] if found else [targets]
    names = _NAMED[targets] if isinstance(targets, str) else targets
    hits = {name: {path for path in paths if path == name or path.endswith(f".{name}")} for name in names}
    found = set().union(*hits.values())
    # A group of names is for models of several kinds: it is enough that some of it is there.
    return found, [name for name in names if not hits[name] and (not found or not isinstance(targets, str))]
