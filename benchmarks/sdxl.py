"""A UNet of real size with random weights, and one training step on it: ours, and the way others take it.

SDXL's where nothing else is said; those of Stable Diffusion 1 and 2 as well.

Time, memory and FLOPs of a step do not depend on what the weights hold, so nothing has to be downloaded.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import peft
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lowrank_diffusion import adapters
from lowrank_diffusion.config import Config
from lowrank_diffusion.flat import sigma_at
from lowrank_diffusion.image.batches import Batches
from lowrank_diffusion.image.dataset import Example
from lowrank_diffusion.image.families import FAMILIES, Embedding, Family
from lowrank_diffusion.paths import ASSETS
from trainers import fast
from trainers.dreambooth import DreamBooth

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TINY = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "attention_head_dim": [2, 4],
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
"""Differences from the true configuration that leave its parts and make it run anywhere in milliseconds."""
_ADDED = ("addition_", "projection_")


def build(
    device: torch.device, dtype: torch.dtype, tiny: bool = False, family: str = "sdxl"
) -> UNet2DConditionModel:  # fmt: skip
    """The UNet with torch's own initialisation, made where and as it is used, in training mode."""
    config = json.loads((FAMILIES[family].config("unet") / "config.json").read_text(encoding="utf-8"))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            unet: Any = UNet2DConditionModel.from_config(config | (_tiny(config) if tiny else {}))
    finally:
        torch.set_default_dtype(before)
    return unet.train()


def _tiny(config: dict[str, Any]) -> dict[str, Any]:
    """What differs for a toy UNet; only SDXL's reads a framing."""
    return TINY if "addition_time_embed_dim" in config else {k: v for k, v in TINY.items() if not k.startswith(_ADDED)}


def _family(unet: Any) -> Family:
    """Whose UNet it is, by what it reads."""
    config = unet.config
    name = "sdxl" if config.addition_embed_type else "sd2" if config.use_linear_projection else "sd1"
    return FAMILIES[name]


def schedule() -> DDPMScheduler:
    """The noise schedule for training, the same in all these families."""
    return DDPMScheduler.from_config(DDPMScheduler.load_config(ASSETS / "sdxl" / "scheduler"))  # type: ignore[return-value]


class Pristine:
    """A model's modules as they are now.

    :meth:`restore` takes out whatever training put in: adapter layers, compiled code, replaced methods and
    classes, hooks, gradients and other memory formats. Values of parameters are not kept.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._kept = [(module, type(module), _attributes(module)) for module in model.modules()]

    def restore(self) -> None:
        for module, kind, attributes in self._kept:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(_copied(attributes))
        self._model.requires_grad_(False)
        for parameter in self._model.parameters():
            parameter.grad = None
            parameter.data = parameter.data.contiguous()


def _attributes(module: nn.Module) -> dict[str, Any]:
    return _copied(module.__dict__)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """One level deep: a module's tables of children, parameters and hooks are changed in place."""
    return {key: copy.copy(v) if type(v) in (dict, OrderedDict) else v for key, v in attributes.items()}


@dataclass(frozen=True)
class Inputs:
    """What is computed once before training, here random: B latents and embeddings on the device."""

    latents: Tensor
    """(B, 4, side / 8, side / 8)"""
    tokens: Tensor
    """(B, 77, D)"""
    pooled: Tensor | None
    """(B, P), of SDXL"""
    time_ids: Tensor
    """(B, 6): original size, crop and target size in pixels."""


def inputs(unet: UNet2DConditionModel, batch: int, side: int) -> Inputs:
    """Inputs of ``side`` x ``side`` pixels in the UNet's dtype, on its device."""
    config: Any = unet.config
    to: Any = {"device": unet.device, "dtype": unet.dtype}
    pooled = None
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return Inputs(
        latents=torch.randn(batch, config.in_channels, side // 8, side // 8, **to),
        tokens=torch.randn(batch, 77, config.cross_attention_dim, **to),
        pooled=None if pooled is None else torch.randn(batch, pooled, **to),
        time_ids=torch.tensor([[side, side, 0, 0, side, side]] * batch, **to),
    )


def forward_flops(unet: UNet2DConditionModel, side: int) -> int:
    """Floating-point operations of one forward pass of the bare UNet for one picture, adapters not counted."""
    one = inputs(unet, 1, side)
    timesteps = torch.zeros(1, dtype=torch.int64, device=unet.device)
    added = {"text_embeds": one.pooled, "time_ids": one.time_ids} if one.pooled is not None else None
    # attention as plain products: the counter does not know the fused kernels of every device
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(one.latents, timesteps, one.tokens, added_cond_kwargs=added)
    return counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 20) -> float:
    """FLOP/s of a square product of ``size``: what the device reaches, not what its data sheet says."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        torch.mm(a, b)
    synchronise(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, b)
    synchronise(device)
    return 2 * size**3 * repeats / (time.perf_counter() - begin)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Given:
    """Examples as a dataset has them."""

    instances: list[list[Example]]
    classes: dict[Any, Any] = field(default_factory=dict)
    sizes: tuple[Any, ...] = ()
    silence = None
    held_out: tuple[Any, ...] = ()


class CachedDreamBooth(DreamBooth):
    """The trainer's own task, its batches and its loss, with given latents and embeddings in place of pictures."""

    def __init__(self, unet: Any, cfg: Config, data: Inputs):
        self.cfg, self.device, self.dtype = cfg, unet.device, unet.dtype
        self.network = _family(unet).network()
        self.objective = self.network.objective(schedule(), cfg.loss, self.device)
        self.data: Any = Given([[self._example(data, index)] for index in range(data.latents.shape[0])])
        self.batches = Batches(self.data, cfg, self.objective, self.device, self.dtype)
        self.model = self.denoiser = unet
        self.network.prepare(unet, unet.device)
        self.layers = adapters.attach(unet, cfg.adapter, cfg.seed)
        if cfg.train.checkpointing:
            unet.enable_gradient_checkpointing()

    def _example(self, data: Inputs, index: int) -> Example:
        mean = data.latents[index].float().cpu()
        ids = tuple(data.time_ids[index].int().tolist())
        pooled = None if data.pooled is None else data.pooled[index]
        return Example(mean, torch.zeros_like(mean), Embedding(data.tokens[index], pooled), ids)


class Ours:
    """The trainer's step on that task, in the mode that ``train.execution`` asks for."""

    def __init__(self, unet: Any, cfg: Config, data: Inputs):
        self.state = fast.build(CachedDreamBooth(unet, cfg, data), cfg, unet.device, unet.dtype)
        self.mode, self.reason = self.state.plan.mode, self.state.plan.why_not_faster

    def __call__(self, step: int) -> list[float]:
        return [result.loss for result in self.state.advance(step)]

    def drain(self) -> list[float]:
        return [result.loss for result in self.state.drain()]


class Peer:
    """One step as diffusers' examples/dreambooth/train_dreambooth_lora_sdxl.py takes it, inputs cached.

    ``sigma`` above 0 adds Flat-LoRA as its authors' code does it, see :class:`InPlaceNoise`. ``compiled`` is what
    somebody does who wants it fast: the UNet compiled, "whole" or by its repeated "blocks", convolutions in
    channels-last, AdamW as one kernel, and the losses read when all steps are done.
    """

    reason = ""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        config: peft.PeftConfig,
        data: Inputs,
        steps: int,
        sigma: float = 0.0,
        compiled: str = "",
    ):
        unet.requires_grad_(False)
        unet.add_adapter(config)
        cast_training_params(unet, dtype=torch.float32)
        self.unet, self.data, self.scheduler = unet, data, schedule()
        self.mode = f"compiled {compiled}" if compiled else "eager"
        self.parameters = [p for p in unet.parameters() if p.requires_grad]
        fused = {"fused": True} if compiled else {}
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-4, **fused)
        self.noise = InPlaceNoise(unet, sigma, steps) if sigma else None
        self.waiting: list[Tensor] = []
        if compiled:
            unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            unet.compile() if compiled == "whole" else unet.compile_repeated_blocks()

    def __call__(self, step: int) -> list[float]:
        """The step's loss, where it is read at once."""
        if self.noise is not None:
            self.noise.add(step)
        error = self._loss()
        error.backward()
        if self.noise is not None:
            self.noise.subtract()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.mode != "eager":
            self.waiting.append(error.detach())
            return []
        return [error.detach().item()]  # the example logs it at every step

    def drain(self) -> list[float]:
        losses, self.waiting = [float(loss) for loss in self.waiting], []
        return losses

    def _loss(self) -> Tensor:
        clean = self.data.latents
        noise = torch.randn_like(clean)
        count = int(self.scheduler.config["num_train_timesteps"])
        timesteps = torch.randint(0, count, (clean.shape[0],), device=clean.device)
        noised: Any = self.scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]
        added = {"time_ids": self.data.time_ids, "text_embeds": self.data.pooled}
        added = added if self.data.pooled is not None else None
        with _autocast(clean):
            predicted = self.unet(noised, timesteps, self.data.tokens, added_cond_kwargs=added).sample
        return F.mse_loss(predicted.float(), noise.float(), reduction="mean")


def _autocast(like: Tensor) -> AbstractContextManager:
    return nullcontext() if like.dtype == torch.float32 else torch.autocast(like.device.type, like.dtype)


class InPlaceNoise:
    """Flat-LoRA's noise in the stored weights: added before forward, drawn again and subtracted after backward.

    Reseeds torch's global generator and keeps a seed and row scales only, as the authors' code does.
    """

    def __init__(self, unet: nn.Module, sigma: float, steps: int):
        self.layers, self.sigma, self.steps = adapters.adapted_layers(unet), sigma, steps
        self.seed, self.scales = 0, list[Tensor]()

    @torch.no_grad()
    def add(self, step: int) -> None:
        self.seed, self.scales = step, []
        torch.manual_seed(self.seed)
        for layer in self.layers:
            weight, pair = layer.base_weight(), layer.factors()
            merged = weight + pair.delta()
            factor = sigma_at(self.sigma, step, self.steps) / math.sqrt(weight.shape[1])
            scale = factor * merged.norm(dim=1, keepdim=True)
            self.scales.append(scale)
            weight.add_(_noise(scale, weight))

    @torch.no_grad()
    def subtract(self) -> None:
        torch.manual_seed(self.seed)
        for layer, scale in zip(self.layers, self.scales, strict=True):
            weight = layer.base_weight()
            weight.sub_(_noise(scale, weight))


def _noise(scale: Tensor, weight: Tensor) -> Tensor:
    """Normal values with a deviation for each row. torch.normal would make the host wait for every layer."""
    return torch.randn(weight.shape, dtype=scale.dtype, device=weight.device).mul_(scale)
