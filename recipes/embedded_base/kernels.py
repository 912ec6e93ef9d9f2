"""Compiled kernels in one file, so that a second machine of the same kind need not compile again."""

from __future__ import annotations

from pathlib import Path

import torch


def restore(path: Path | None) -> None:
    """Load kernels that `store` wrote, if they fit this machine; torch ignores those that do not."""
    if path is not None and path.exists():
        torch.compiler.load_cache_artifacts(path.read_bytes())


def store(path: Path | None) -> None:
    """Keep everything that was compiled in this process."""
    if path is None or path.exists():
        return
    found = torch.compiler.save_cache_artifacts()
    if found is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found[0])
