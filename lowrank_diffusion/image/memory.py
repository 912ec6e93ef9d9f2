"""How much GPU memory a run will take, told before it starts: from its settings and config.json, without torch.

Every stage of a job holds something else; the largest stage is the peak. Weights, adapter and optimiser are counted
exactly. What a forward pass leaves for the backward pass, and what the VAE needs, is proportional to the size of the
picture: those factors belong to the family and were measured with benchmarks/memory.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from .. import plan, presets
from ..bases import MODEL_KEY
from ..config import Config
from ..devices import GIB
from ..files import read_object
from ..loading import explained
from ..optimizers import OPTIMIZERS
from ..plan import Machine, Plan
from . import adapted, folders, weights
from .source import Source, locate, resolve

TILE = 512
"""Side of the tiles in which the VAE works when memory is short, pixels. diffusers' own choice is the size the VAE was
made for, which means no tiles at all at that size."""
QUANTIZED = {"none": 0.0, "8bit": 1.0, "nf4": 4.5 / 8}
"""Bytes of a weight that is quantised."""
EASIER = (
    ("flat.keep", False), ("train.checkpointing", True), ("base.quantize", "8bit"), ("train.batch", 1),
    ("data.resolution", 768), ("base.quantize", "nf4"),
)  # fmt: skip
"""What takes less memory, the least loss first."""
_AGAIN = "Download or copy it again."


@dataclass(frozen=True)
class Estimate:
    """Bytes of GPU memory, by stage and what they are for."""

    stages: dict[str, dict[str, int]]
    plan: Plan
    """How the steps run that are counted."""

    @property
    def stage(self) -> str:
        """The stage that takes the most."""
        return max(self.stages, key=self.total)

    @property
    def peak(self) -> int:
        """What it takes."""
        return self.total(self.stage)

    def total(self, stage: str) -> int:
        """The bytes of one stage."""
        return sum(self.stages[stage].values())

    def lines(self) -> list[str]:
        """For a person: a line for each stage, and the peak."""
        lines = []
        for stage, parts in self.stages.items():
            inside = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size >= 0.005 * GIB)
            lines.append(f"{stage:18} {self.total(stage) / GIB:6.2f} GiB: {inside}")
        return [*lines, f"{'at most':18} {self.peak / GIB:6.2f} GiB, in the stage: {self.stage}"]


def estimate(cfg: Config, available: float = float("inf"), machine: Machine | None = None) -> Estimate:
    """What a run takes of a GPU in bytes; CUDA's own context, about half a GiB, comes on top.

    Args:
        cfg: the settings.
        available: bytes that the GPU has. The VAE works in tiles where it would need more.
        machine: that of the GPU; None: one that has all that makes steps fast (:func:`..plan.any_gpu`).

    Raises:
        ModelError: the base does not exist or is broken.
    """
    return _Job(cfg, min(available, (cfg.train.memory or float("inf")) * GIB), machine).estimate()


def advice(cfg: Config, available: float, machine: Machine | None = None) -> str:
    """A warning for a run that needs more than ``available`` bytes, with what would make it fit; empty for others.

    Of language models nothing is said: their need is not estimated.
    """
    available = min(available, (cfg.train.memory or float("inf")) * GIB)
    if math.isinf(available) or cfg.task != "image":
        return ""
    need = estimate(cfg, available, machine)
    if need.peak <= available:
        return ""
    text = f"This run may need {need.peak / GIB:.1f} GiB of GPU memory ({need.stage}); {available / GIB:.1f} are there."
    changes: list[str] = []
    values = cfg.dotted()
    for key, value in EASIER:
        smaller = presets.build({}, values | {key: value})
        saved = estimate(smaller, available, machine)
        if saved.peak >= 0.99 * need.peak:
            continue
        values, need, changes = values | {key: value}, saved, [*changes, f"{key}={str(value).lower()}"]
        if need.peak <= available:
            break
    return f"{text} With {', '.join(changes)} it takes about {need.peak / GIB:.1f}." if changes else text


class _Job:
    """The parts of one run."""

    def __init__(self, cfg: Config, available: float, machine: Machine | None = None):
        self.cfg, self.available = cfg, available
        self.source = resolve(cfg.base)
        self.family = self.source.family
        other = locate(cfg.base.vae, folders.VAE_KEY) if cfg.base.vae else None
        self.other_vae = other if isinstance(other, Source) else None
        base = adapted.architecture(self.source)
        self.outline, self.texts = base.outline, base.encoders
        self.layers = adapted.layers(cfg, self.source, base)
        self.plan = plan.of(cfg, machine or plan.any_gpu(cfg), self.layers)
        with explained(f"{self.source.label}: its configuration", MODEL_KEY, _AGAIN):
            # One file brings no configuration and is loaded with its family's; what a hub id holds is not here.
            folder = self.source.config("vae") if self.other_vae is None else Path(self.other_vae.path)
            places = (folder / "config.json", self.family.config("vae") / "config.json")
            channels = read_object(next(place for place in places if place.is_file()))["block_out_channels"]
            self.scale, self.vae_width = 2 ** (len(channels) - 1), channels[0] / 128
            self.side = cfg.data.resolution or base.denoiser["sample_size"] * self.scale
        self.width = 4 if cfg.train.precision == "fp32" else 2
        self.trained = sum(cfg.adapter.method.size(cfg.adapter, layer.m, layer.n).trained for layer in self.layers)

    def estimate(self) -> Estimate:
        text = {"text encoders": float(self.width * self._count(*self.family.encoders))}
        stages: dict[str, dict[str, float]] = {"reading captions": text}
        stages["encoding pictures"] = self._with_vae({}, self.family.factors.encoded_pixel)
        denoiser = {self.family.denoiser: self._denoiser()}
        if self.cfg.prior.weight and not self.cfg.prior.pictures:
            stages["class pictures"] = self._with_vae(
                denoiser | text, self.family.factors.decoded_pixel, drawing=self._drawing()
            )
        if self.cfg.adapter.text_encoders != "none":
            denoiser |= text
        held = denoiser | {"adapter": self._adapter(), "optimizer": self._optimizer()}
        perturbed, activations = self._perturbed(), self._activations()
        steps = held | {"gradients": 4 * self.trained, "perturbed weights": perturbed, "activations": activations}
        stages["steps"] = steps
        if self.cfg.sample.prompts:
            # A captured graph keeps its memory while samples are drawn.
            still = steps if self.plan.fast else held | {"gradients": steps["gradients"]}
            stages["samples"] = self._with_vae(still, self.family.factors.decoded_pixel, drawing=self._drawing())
        for parts in stages.values():
            parts["workspace"] = self._workspace()
        return Estimate({
            stage: {name: int(self.family.factors.slack * size) for name, size in parts.items()}
            for stage, parts in stages.items()
        }, self.plan)  # fmt: skip

    @property
    def pace(self) -> str:
        """The key of what was measured of such steps."""
        return "fast" if self.plan.fast else "eager"

    def _count(self, *parts: str) -> int:
        return sum(weights.of_part(self.source, part) for part in parts)

    def _denoiser(self) -> float:
        packed = sum(math.prod(self.outline.linears[path]) for path in adapted.quantized(self.cfg, self.outline))
        return self.width * (self.outline.weights - packed) + QUANTIZED[self.cfg.base.quantize] * packed

    def _adapter(self) -> float:
        """Trained numbers, their average, and copies in the precision of the products."""
        copies = self.width if self.width < 4 and not self.plan.fast else 0
        # Working pairs and their gradients, the window's sums in float32, and as much while they are added.
        pairs = self._pairs() * (2 * self.width + 8) if self.plan.fast else 0
        return self.trained * (4 + copies + 4 * bool(self.cfg.train.ema)) + pairs

    def _pairs(self) -> int:
        """Numbers in the working pairs of fused units, the zeros between their blocks included."""
        units = self.plan.units
        return sum(len(unit) * unit[0].rank * (unit[0].n + sum(layer.m for layer in unit)) for unit in units)

    def _workspace(self) -> float:
        quantized = self.family.factors.quantized if self.cfg.base.quantize != "none" else 0
        return self.family.factors.workspace[self.pace] + quantized

    def _optimizer(self) -> float:
        return OPTIMIZERS[self.cfg.optimizer.name].state_bytes * self.trained

    def _perturbed(self) -> float:
        if not self.cfg.flat.sigma:
            return 0
        if self.plan.keep_noise:
            return self.width * sum(layer.m * layer.n for layer in self.layers)
        shapes = {(layer.m, layer.n) for layer in self.layers}
        if not self.plan.fast:
            return 8 * max(m * n for m, n in shapes)
        return self.width * sum(m * n for m, n in shapes)

    def _activations(self) -> float:
        """What lies between forward and backward of one micro-batch; class pictures double it."""
        mode, half = self.pace, self.width / 2
        pictures = self.cfg.train.batch * (2 if self.cfg.prior.weight else 1)
        area, whole, inputs = (self.side // self.scale) ** 2, [], 0.0
        for block in self.outline.blocks:
            elements = area / 4**block.level
            if block.kind == "transformer":
                whole.append(elements * block.outputs * self.family.factors.transformer[mode])
            else:
                whole.append(elements * (block.inputs + block.outputs) * self.family.factors.resnet[mode])
            inputs += elements * block.inputs * self.family.factors.checkpoint[mode]
        left = inputs + max(whole) if self.cfg.train.checkpointing else sum(whole)
        return half * pictures * (left + self._text_activations(self.family.factors.transformer[mode]))

    def _text_activations(self, each: float) -> float:
        """The same of a caption in adapted text encoders, with a transformer block's ``each``: near enough."""
        if self.cfg.adapter.text_encoders == "none":
            return 0
        sizes = (c["max_position_embeddings"] * c["hidden_size"] * c["num_hidden_layers"] for c in self.texts.values())
        return each * sum(sizes)

    def _drawing(self) -> float:
        """A forward pass without gradients for two: with and without the prompt."""
        area, pictures = (self.side // self.scale) ** 2, 2 if self.cfg.sample.guidance > 1 else 1
        largest = max(area / 4**block.level * (block.inputs + block.outputs) for block in self.outline.blocks)
        return pictures * largest * self.width * self.family.factors.drawing / 2

    def _with_vae(self, held: dict[str, float], pixel: float, drawing: float = 0) -> dict[str, float]:
        """``held`` and the VAE at work on a picture, whole if that fits. It starts when ``drawing`` is over."""
        size = 4 * (self._count("vae") if self.other_vae is None else weights.of_vae(self.other_vae, self.family))

        def parts(side: int, share: float = 1.0) -> dict[str, float]:
            return held | {"vae": size, "vae at work": max(drawing, share * pixel * self.vae_width * side**2)}

        whole = parts(self.side)
        room = self.available / self.family.factors.slack - self._workspace()
        if sum(whole.values()) <= room:
            return whole
        tiled = parts(min(self.side, TILE), self.family.factors.tight)
        # It is tried as a whole first, which takes what there is.
        return tiled | {"vae at work": tiled["vae at work"] + max(0.0, room - sum(tiled.values()))}
