"""Scenes -> what training reads: rendered pictures for autoencoder and encoder, a pool of latents for the UNet."""

from __future__ import annotations

import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import scenes, tokenizer, vae
from .rasterise import Library
from .render import Renderer
from .settings import SIDE

BATCH = 1024  # scenes drawn and encoded together


@dataclass
class Pool:
    """N scenes with K captions each, on the training device."""

    latents: torch.Tensor  # (N, 4, h, w) half
    ids: torch.Tensor  # (N, K, T) int16
    micro: torch.Tensor  # (N, 6) float: original height, width, crop top, left, target height, width


def plan(planner: scenes.Planner, count: int, captions: int, where: tuple[int, int]) -> dict[str, Any]:
    """Plan `count` scenes; where = (seed, processes)."""
    seed, workers = where
    size = min(scenes.CHUNK, count)
    jobs = [(seed, i, min(size, count - i * size), captions) for i in range(math.ceil(count / size))]
    if workers <= 1:
        return scenes.merge([planner.chunk(*job) for job in jobs])
    global _planner
    _planner = planner  # forked workers inherit it: nothing to pickle
    with ProcessPoolExecutor(workers) as pool:
        return scenes.merge(list(pool.map(_chunk, jobs)))


_planner: scenes.Planner | None = None


def _chunk(job: tuple[int, int, int, int]) -> dict[str, Any]:
    assert _planner is not None
    return _planner.chunk(*job)


def draw(library: Library, planned: dict[str, Any], device: torch.device) -> torch.Tensor:
    """Render a plan: (N, 3, H, W) bytes on the device."""
    renderer = Renderer(library, planned, device)
    count = len(planned["size"])
    out = torch.empty((count, 3, SIDE, SIDE), dtype=torch.uint8, device=device)
    for rows in torch.arange(count, device=device).split(BATCH):
        out[rows] = (renderer(rows) * 255).round().to(torch.uint8)
    return out


def encode(library: Library, planned: dict[str, Any], model: nn.Module, words: np.ndarray) -> Pool:
    """Render and encode a plan without keeping its pictures; `words` (N, K, T) are the captions' ids."""
    device = next(model.parameters()).device
    renderer = Renderer(library, planned, device)
    count = len(planned["size"])
    side = SIDE // 8
    latents = torch.empty((count, 4, side, side), dtype=torch.float16, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    begin = time.monotonic()
    for rows in torch.arange(count, device=device).split(BATCH):
        # Through bytes, as a user's picture would come.
        pictures = (renderer(rows) * 255).round()
        with autocast:
            latents[rows] = vae.encode(model, pictures).half()
    print(f"pool: {count} latents in {time.monotonic() - begin:.0f} s", flush=True)
    return Pool(latents, torch.from_numpy(words).to(device), micro(planned).to(device))


def micro(planned: dict[str, Any]) -> torch.Tensor:
    """SDXL's micro-conditioning of a plan, (N, 6)."""
    size, crop = planned["size"].astype(np.float32), planned["crop"]
    target = np.full_like(size, SIDE)
    columns = [size, size, crop[:, 2], crop[:, 1], target, target]
    return torch.from_numpy(np.stack(columns, 1))


def write_plan(planned: dict[str, Any], words: Path, out: Path) -> None:
    """Keep a plan: its arrays, and its captions as ids."""
    flat = [caption for told in planned["captions"] for caption in told]
    ids = tokenizer.encode(tokenizer.load(words), flat)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "words.npy", ids.reshape(len(planned["captions"]), -1, ids.shape[1]))
    np.savez(out / "plan.npz", **{k: v for k, v in planned.items() if k != "captions"})


def build(library: Library, model: nn.Module, out: Path) -> Pool:
    """The pool of the plan in `out`, kept there so that a resumed run need not draw it again."""
    device = next(model.parameters()).device
    if (out / "micro.npy").exists():
        return load(out, device)
    pool = encode(library, dict(np.load(out / "plan.npz")), model, np.load(out / "words.npy"))
    for name in ("latents", "ids", "micro"):
        np.save(out / f"{name}.npy", getattr(pool, name).cpu().numpy())
    return pool


def load(folder: Path, device: torch.device) -> Pool:
    """What `build` kept."""
    arrays = (torch.from_numpy(np.load(folder / f"{n}.npy")).to(device) for n in ("latents", "ids", "micro"))
    return Pool(*arrays)
