"""Every number of the recipe in one place: what a stage needs beyond its input and output folders."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

SIDE = 128  # px, width and height of every picture
LATENT = 16  # px / 8, width and height of a latent
CHANNELS = 4  # latent channels
CONTEXT = 32  # tokens per caption, start and end token included
LAYERS = 3  # pictures that one scene may stack


@dataclass(frozen=True)
class Sizes:
    """Widths and depths of the networks."""

    vocabulary: int = 3072
    unet_channels: tuple[int, ...] = (128, 192, 224)
    unet_layers: int = 1  # residual blocks per resolution
    head: int = 32  # channels per attention head
    groups: int = 16  # of every GroupNorm
    vae_channels: tuple[int, ...] = (32, 64, 96, 128)
    text_widths: tuple[int, int] = (128, 256)
    text_layers: tuple[int, int] = (3, 4)
    judge_width: int = 192  # picture tower of the encoder that measures
    judge_layers: int = 7
    judge_text_width: int = 128
    judge_embedding: int = 128


@dataclass(frozen=True)
class Stage:
    """One optimisation."""

    steps: int
    batch: int
    rate: float  # peak learning rate
    warmup: int  # steps
    decay: float = 0.3  # last fraction of the steps, over which the rate falls linearly to zero
    ema: float = 0.999
    save_every: float = 90.0  # seconds between checkpoints


@dataclass(frozen=True)
class Settings:
    """The recipe. `smoke()` is the same code on a CPU within a minute."""

    seed: int = 20
    scenes: int = 400_000  # pictures in the pool of latents that the UNet is trained on
    captions: int = 4  # per scene
    study_scenes: int = 80_000  # scenes that the autoencoder and the encoder are trained on
    sizes: Sizes = field(default_factory=Sizes)
    vae: Stage = Stage(steps=2800, batch=128, rate=1e-3, warmup=100, ema=0.998)
    judge: Stage = Stage(steps=3000, batch=1024, rate=8e-4, warmup=300)
    base: Stage = Stage(steps=11_800, batch=768, rate=6e-4, warmup=300, decay=0.35, ema=0.9995)
    polish: Stage = Stage(steps=900, batch=48, rate=2e-4, warmup=20, decay=0.6, ema=0.97)
    polish_captions: int = 16_000  # of each kind
    picture_limit: int | None = None  # take only so many concepts (smoke runs)
    compiled: bool = True


def smoke() -> Settings:
    """Tiny networks, a few dozen concepts, a handful of steps: proves that every stage still runs."""
    sizes = Sizes(
        vocabulary=640,
        unet_channels=(32, 64, 64),
        vae_channels=(8, 8, 16, 16),
        text_widths=(32, 32),
        text_layers=(2, 2),
        judge_width=64,
        judge_layers=2,
        judge_text_width=32,
        judge_embedding=32,
    )
    return replace(
        Settings(),
        scenes=96,
        study_scenes=48,
        captions=2,
        sizes=sizes,
        vae=Stage(steps=4, batch=4, rate=1e-3, warmup=2, ema=0.9),
        judge=Stage(steps=4, batch=16, rate=1e-3, warmup=2, ema=0.9),
        base=Stage(steps=6, batch=16, rate=1e-3, warmup=2, ema=0.9),
        polish=Stage(steps=4, batch=16, rate=1e-4, warmup=2, ema=0.9),
        polish_captions=64,
        picture_limit=40,
        compiled=False,
    )


def rate_at(stage: Stage, step: int) -> float:
    """Learning rate of a 0-based step: linear warm-up, plateau, linear fall over the last `decay` of the steps."""
    fall = max(1, int(stage.steps * stage.decay))
    rise = min(1.0, (step + 1) / max(1, stage.warmup))
    return stage.rate * rise * min(1.0, max(0.0, (stage.steps - step) / fall))
