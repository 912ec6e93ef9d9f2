"""Pictures that a run draws of its sample prompts while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .. import devices, requests
from ..config import SampleConfig
from .families import Embedding
from .model import Base, arguments, draw
from .replay import Replay


class Samples:
    """Draws with a model as it is.

    Args:
        base: its VAE is loaded for as long as it draws.
        denoiser: that of the training, with its adapters.
        scheduler: the base's.
        cfg: prompts, seed, steps and guidance.
        side: of the pictures, pixels.
    """

    def __init__(self, base: Base, denoiser: nn.Module, scheduler: Any, cfg: SampleConfig, side: int):
        self.base, self.denoiser, self.scheduler, self.cfg, self.side = base, denoiser, scheduler, cfg, side

    def draw(
        self,
        step: int,
        folder: Path,
        embedding: Callable[[str], Embedding],
        prompts: Sequence[str] = (),
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[tuple[str, Path]]:
        """A picture of each of ``prompts``, or of the settings' own, in ``folder``: (prompt, path).

        ``embedding`` reads a prompt, without a batch.
        """
        cfg, family = self.cfg, self.base.family
        wanted = prompts or cfg.prompts
        if not wanted:
            return []
        devices.release(self.base.device)  # of a step's memory, which comes in other sizes
        parts = {"vae": self.base.part("vae"), family.denoiser: self.denoiser, "scheduler": self.scheduler}
        pipeline = family.network().pipeline(parts, {})
        pipeline.set_progress_bar_config(disable=True)
        folder.mkdir(exist_ok=True)
        drawn = []
        # Its graphs go with it: between samples their memory is the training's.
        replay = Replay(self.denoiser)
        for number, prompt in enumerate(wanted):
            progress(number, len(wanted))
            read = [_alone(embedding(text)) for text in (prompt, cfg.negative)]
            with replay.active():
                (picture,) = draw(
                    pipeline, arguments(family, *read, silent=not cfg.negative), [cfg.seed],
                    num_inference_steps=cfg.steps, guidance_scale=cfg.guidance, width=self.side, height=self.side,
                )  # fmt: skip
            path = folder / requests.file_name(step, prompt, None if prompts else number, ".png")
            picture.save(path)
            drawn.append((prompt, path))
        del parts, pipeline
        devices.release(self.base.device)
        return drawn


def _alone(embedding: Embedding) -> Embedding:
    """The same as a batch of one."""
    return Embedding(*(tensor[None] for tensor in embedding.tensors))
