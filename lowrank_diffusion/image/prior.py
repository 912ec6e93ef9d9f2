"""Class pictures for DreamBooth's prior preservation (arXiv 2208.12242): given, or drawn by the base itself."""

from __future__ import annotations

from pathlib import Path

from .. import devices
from ..config import Config, PriorConfig
from ..paths import cache_folder
from . import cache
from .data import DataError, Picture, check_picture, scan
from .model import Base, Progress, denoiser, draw
from .notes import given_classes
from .replay import Replay


def pictures(base: Base, cfg: Config, side: int, progress: Progress) -> list[Picture]:
    """``prior.count`` class pictures with ``prior.prompt`` as their caption; none with prior.weight = 0.

    Raises:
        DataError: a given folder has bad or too few pictures.
    """
    prior = cfg.prior
    if prior.weight == 0:
        return []
    given = given_classes(cfg)
    candidates = given.pictures if given else scan(_drawn(base, cfg, side, progress), prior.prompt)
    return [Picture(p.path, prior.prompt, p.width, p.height) for p in candidates[: prior.count]]


def _drawn(base: Base, cfg: Config, side: int, progress: Progress) -> Path:
    """The folder of pictures that this base draws for this prompt; only missing ones are drawn."""
    prior = cfg.prior
    folder = cache_folder() / "class" / class_key(base, prior, side)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in range(prior.count) if not _is_whole(folder / f"{seed:05d}.png")]
    if missing:
        pipeline = base.pipeline()
        replay = Replay(denoiser(pipeline))
        for seed in missing:
            with replay.active():
                (picture,) = draw(
                    pipeline, {"prompt": prior.prompt}, [seed], num_inference_steps=prior.steps,
                    guidance_scale=prior.guidance, width=side, height=side,
                )  # fmt: skip
            partial = folder / f".{seed:05d}.partial"
            picture.save(partial, format="PNG")
            partial.replace(folder / f"{seed:05d}.png")
            progress("Drawing class pictures", prior.count - len(missing) + missing.index(seed) + 1, prior.count)
        del pipeline, replay
        devices.release(base.device)
    return folder


def class_key(base: Base, prior: PriorConfig, side: int) -> str:
    """Under which class pictures of ``side`` pixels are kept."""
    stored = [] if base.quantize == "none" else [base.quantize]
    return cache.key(base.key, base.source.prediction, *prior.of_pixels(), side, *stored)


def _is_whole(path: Path) -> bool:
    """Whether a picture of the cache is there and can be read; another is drawn in its place."""
    try:
        check_picture(path)
    except DataError:
        return False
    return True
