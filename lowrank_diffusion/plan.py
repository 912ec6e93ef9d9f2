"""How the steps of a run are executed: from its settings, the machine and the adapted layers, without torch.

A run has one plan. The trainer obeys it, the memory estimate counts by it, and the run's first event, the command
``memory`` and the page tell it. What decides how steps run is here and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from . import devices
from .config import Config
from .optimizers import OPTIMIZERS
from .targets import SHARED

CAPTURED = [row.name for row in OPTIMIZERS.values() if row.captured]
NF4_BLOCK = 64
"""Weights of a row that share a scale in base.quantize=nf4."""


@dataclass(frozen=True)
class Machine:
    """What is given where a run is to train."""

    device: str
    """"cuda", "mps" or "cpu"."""
    precision: str
    """"fp16" scales its loss on the host; others do not."""
    no_kernel: str = ""
    """Why there is no Triton kernel for Flat-LoRA's noise; empty if there is one."""
    no_compiler: str = ""
    """Why blocks cannot be compiled; empty if they can."""


def here(cfg: Config) -> Machine:
    """This machine, as far as it can be told without torch: a GPU is there if its driver answers."""
    device = devices.likely(cfg.train.device)
    return Machine(device, cfg.train.precision, devices.no_kernel(device), devices.no_compiler())


def any_gpu(cfg: Config) -> Machine:
    """A machine with a GPU and all that makes steps fast, unless the settings ask for another device."""
    return Machine("cuda" if cfg.train.device == "auto" else cfg.train.device, cfg.train.precision)


@dataclass(frozen=True)
class Layer:
    """What matters here of an adapted linear layer; a module says it, and so does the outline of its model."""

    path: str
    m: int
    """Outputs."""
    n: int
    """Inputs."""
    adapter: tuple[Any, ...]
    """The kind of its adapter, the rank of that one's plain pair, and what else adapters of one product share."""
    storage: str = ""
    """How its weight is stored; layers of one product agree in it."""
    quantized: bool = False
    """Whether that is in fewer bits than the base's other weights."""
    apart: bool = False
    """Whether it reads another input than its siblings do, as the queries of cross-attention."""
    other_class: str = ""
    """The class of what is not a plain linear layer; empty for one that is."""

    @property
    def rank(self) -> int:
        """R of its adapter's plain pair."""
        return self.adapter[1]


Unit = tuple[Layer, ...]
"""Layers that read one input and are one product; a single layer, too."""


@dataclass(frozen=True)
class Plan:
    """How steps run."""

    mode: str
    """"captured", "compiled" or "eager"."""
    why_not_faster: str
    """Why not faster, where something hinders it."""
    refused: str
    """Why the mode that ``train.execution`` names cannot be had, in words for a person; empty if it can."""
    keep_noise: bool
    """Whether perturbed weights are kept from forward to backward pass."""
    compile: bool
    """Whether the parts that the model repeats run compiled code."""
    units: tuple[Unit, ...]
    """The layers as the fast step multiplies by them."""

    @property
    def fast(self) -> bool:
        """Whether adapters are fused; else PEFT's layers do the work."""
        return self.mode != "eager"

    def __str__(self) -> str:
        return self.refused or sentence(self.mode, self.why_not_faster)


def sentence(mode: str, why_not_faster: str) -> str:
    """How steps run, for a person."""
    return f"steps run {mode}" + (f": {why_not_faster}" if why_not_faster else "")


def of(cfg: Config, machine: Machine, layers: Sequence[Layer] = ()) -> Plan:
    """The plan of a run.

    Args:
        cfg: The settings.
        machine: Where it trains.
        layers: What is adapted, in the order of the model; none where that is not known, as of language models before
            they are loaded: what layers can hinder then hinders nothing yet.
    """
    wanted = cfg.train.execution
    obstacle = next(chain(_of_settings(cfg, machine), _of_layers(cfg, layers)), "")
    lacking = obstacle or (machine.no_compiler if wanted == "compiled" else "")
    refused = ""
    if wanted in ("compiled", "captured") and lacking:
        refused = f"train.execution: {wanted} cannot be had: {lacking}. Take train.execution=auto."
    if wanted == "eager" or obstacle or refused:
        mode, why = "eager", obstacle or lacking
    else:
        mode = "captured" if wanted == "auto" else wanted
        why = f"blocks run uncompiled: {machine.no_compiler}" if machine.no_compiler else ""
    compiles = mode != "eager" and not machine.no_compiler
    return Plan(mode, why, refused, keeps_noise(cfg, mode, machine.no_kernel), compiles, tuple(units_of(layers)))


def forced(cfg: Config, mode: str, no_kernel: str = "") -> Plan:
    """A plan that runs ``mode`` whatever hinders it, for tests and benchmarks; no blocks are compiled."""
    return Plan(mode, "", "", keeps_noise(cfg, mode, no_kernel), False, ())


def _of_settings(cfg: Config, machine: Machine) -> Iterator[str]:
    """Why steps have to be eager, whatever the layers."""
    optimizer = OPTIMIZERS[cfg.optimizer.name]
    if machine.device != "cuda":
        yield f"the device is {machine.device}, and only CUDA captures steps"
    if machine.precision == "fp16":
        yield "fp16 scales its loss; bf16 and fp32 do not"
    if not optimizer.captured:
        yield f"optimizer.name={optimizer.name} cannot be captured, {', '.join(CAPTURED)} can"
    if cfg.adapter.dropout:
        yield "adapter.dropout draws a mask at every layer"
    if cfg.adapter.method.obstacle:
        yield cfg.adapter.method.obstacle
    if cfg.flat.sigma and machine.no_kernel:
        yield machine.no_kernel


def _of_layers(cfg: Config, layers: Sequence[Layer]) -> Iterator[str]:
    """Why steps have to be eager because of the layers."""
    for layer in layers:
        if cfg.base.quantize == "nf4" and layer.quantized and layer.n % NF4_BLOCK:
            yield f"the rows of {layer.path} are {layer.n} long, no multiple of nf4's {NF4_BLOCK}"
    for layer in layers:
        if layer.other_class:
            yield f"{layer.path} is a {layer.other_class}, not a plain linear layer"


def keeps_noise(cfg: Config, mode: str, no_kernel: str) -> bool:
    """Whether perturbed weights are kept from forward to backward pass, for the memory of the adapted weights.

    Those of a quantised base would take the memory that it saves. The eager step keeps what it has no kernel to make
    again in one launch.
    """
    wanted = bool(cfg.flat.sigma) and cfg.flat.keep and cfg.base.quantize == "none"
    return wanted and (mode != "eager" or bool(no_kernel))


def units_of(layers: Sequence[Layer]) -> list[Unit]:
    """``layers`` in units, by their names: siblings of :data:`.targets.SHARED` of one width, adapter and storage."""
    units: dict[Any, list[Layer]] = defaultdict(list)
    for layer in layers:
        parent, _, name = layer.path.rpartition(".")
        siblings = next((names for names in SHARED if name in names), None)
        if siblings is None or layer.apart:
            units[layer.path].append(layer)
        else:
            units[parent, siblings, layer.n, layer.storage, layer.adapter].append(layer)
    for key, unit in units.items():
        if isinstance(key, tuple):
            unit.sort(key=lambda layer, names=key[1]: names.index(layer.path.rpartition(".")[2]))
    return [tuple(unit) for unit in units.values()]


def groups_of(layers: Sequence[Layer]) -> list[list[Unit]]:
    """Units of one shape together. Their order numbers the units, and so decides how each is perturbed."""
    groups: dict[Any, list[Unit]] = defaultdict(list)
    for unit in units_of(layers):
        sides = tuple((layer.m, layer.n) for layer in unit)
        groups[sides, unit[0].storage, unit[0].adapter].append(unit)
    return list(groups.values())
