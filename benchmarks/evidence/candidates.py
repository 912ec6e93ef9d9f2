"""Ways of training that might be better than those of the project, each an arm of an experiment and none a promise.

Others need no code here, because settings say them: a constant or falling strength, the scaling of a GraLoRA's blocks
by their own rank r/k (``adapter.alpha`` = k r), other shares of a hybrid, the checkpoint that validation chooses.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowrank_diffusion import adapters, seeds
from lowrank_diffusion.adapters import layers as attaching
from lowrank_diffusion.flat import Flat
from lowrank_diffusion.fused import Group
from trainers.fast import FastStep
from trainers.step import Step
from trainers.task import Task

from .design import BY_WIDTH

SMALLEST_BLOCK = 56


class AutoSigma:
    """Flat-LoRA's sigma, chosen so that the noise raises the loss of what is learnt by 1 %.

    Before step 0 and every 20 steps the loss of the coming micro-batch is measured without noise, and under four draws
    of it at the present sigma: two fixed draws of eps, each added and subtracted, so that what is linear in eps cancels
    out. The mean rise grows with sigma squared, so sigma is multiplied by sqrt(wanted rise / measured rise), by at most
    2 and at least 1/2 at a time, and kept between 0.05 and 2.
    """

    EVERY, SHARE = 20, 0.01
    LOWEST, HIGHEST = 0.05, 2.0

    def __init__(self, state: Step):
        self.state, self.sigma = state, 0.0
        seed = seeds.number(state.cfg.seed, 0, "sigma auto")
        # At the last of its steps Flat-LoRA has its whole sigma: step n of n is draw n of a constant one.
        self.draws = [Flat(state.task.model, state.task.layers, 0.0, number, seed) for number in (1, 2)]

    def __call__(self, sigma: float, step: int, _steps: int) -> float:
        """Sigma at ``step``; ``sigma`` is the one to begin with."""
        if step == 0:
            self.sigma = sigma
        if step % self.EVERY == 0:
            self.sigma = self.scaled(self.sigma, *self.rise(self.sigma, step))
        return self.sigma

    @torch.no_grad()
    def rise(self, sigma: float, step: int) -> tuple[float, float]:
        """The mean rise of the loss under noise on the micro-batch of ``step``, and the loss without noise."""
        batch = self.state.task.batch(step, 0)
        plain = self._loss(batch)
        noisy = []
        for draw in self.draws:
            for signed in (sigma, -sigma):
                draw.sigma = signed
                with draw.perturbed(draw.steps):
                    noisy.append(self._loss(batch))
        return sum(noisy) / len(noisy) - plain, plain

    def _loss(self, batch: Any) -> float:
        with self.state.autocast():
            contributions, count = self.state.task.loss(batch)
        return float(contributions.double().sum()) / float(count)

    @classmethod
    def scaled(cls, sigma: float, rise: float, loss: float) -> float:
        """The next sigma."""
        factor = math.sqrt(cls.SHARE * loss / rise) if rise > 0 else 2.0
        return min(max(sigma * min(max(factor, 0.5), 2.0), cls.LOWEST), cls.HIGHEST)


class Ascent(FastStep):
    """Sharpness-aware minimisation (arXiv 2010.01412) of the adapter's own factors, for the price of one gradient.

    The gradient is taken at theta + rho g / |g| and moves theta, which are all trained numbers of all layers together;
    g is the gradient of the step before, as it was taken there, so that no second pass is needed. Step 0 has none and
    is not perturbed. Bi-LoRA (arXiv 2508.19564) ascends in a second adapter beside the first, EFlat-LoRA (arXiv
    2508.00522) along an average of gradients; both are said to cost no second pass either. Bi-LoRA's authors expect
    less of an ascent in the adapter's own factors, which is what this is.
    """

    def __init__(self, *args: Any, rho: float):
        super().__init__(*args)
        self.rho = rho
        self.before = [torch.zeros_like(master) for master in self.fused.masters()]

    @torch.no_grad()
    def _begin(self) -> None:
        masters = self.fused.masters()
        kept = [master.clone() for master in masters]
        size = torch.stack([grad.norm() for grad in self.before]).norm()  # () of all stacks together
        share = self.rho / size.clamp_min(torch.finfo(size.dtype).tiny)
        torch._foreach_add_(masters, torch._foreach_mul(self.before, share))
        super()._begin()  # makes the working pairs of what is perturbed
        torch._foreach_copy_(masters, kept)

    @torch.no_grad()
    def _end(self) -> None:
        super()._end()
        torch._foreach_copy_(self.before, self.fused.grads())

    def _changing(self) -> list[Tensor]:
        return [*super()._changing(), *self.before]


class HalfOfLayers(FastStep):
    """Flat-LoRA whose noise is only in the half of the layers that have changed the most, |B A| / |W|, at this step."""

    def _begin(self) -> None:
        self.total.zero_()
        for group in self.fused.groups:
            group.grad_a.zero_()
            group.grad_b.zero_()
            group.refresh()
        for group, chosen in zip(self.fused.groups, most_changed(self.fused.groups), strict=True):
            group.perturb(self.sigma * chosen)  # (L, M)


@torch.no_grad()
def most_changed(groups: Sequence[Group]) -> list[Tensor]:
    """For each group, 1 in the rows (L, M) of layers that are among the half with the largest |B A| / |W|, else 0.

    The half is rounded up; ties with its last layer are in it, so at the start, where no layer has changed, all are.
    """
    changes = [_changes(group) for group in groups]
    every = torch.cat([change.flatten() for change in changes]).sort(descending=True).values
    least = every[(len(every) + 1) // 2 - 1]
    chosen = []
    for group, change in zip(groups, changes, strict=True):
        parts = [(part >= least).to(group.scale.dtype) for part in change.unbind(1)]  # P of (L,)
        rows = [part[:, None].expand(-1, height) for part, height in zip(parts, group.heights, strict=True)]
        chosen.append(torch.cat(rows, dim=1))
    return chosen


def _changes(group: Group) -> Tensor:
    """|B A|^2 / |W|^2 of every layer, (L, P), by Frobenius norms."""
    ratios = []
    for rows, columns in group._parts():
        a, b = group.a[:, columns].to(group.norms.dtype), group.b[:, rows, columns].to(group.norms.dtype)
        squares = ((b.mT @ b) * (a @ a.mT)).sum(dim=(1, 2))  # (L, R, R) twice -> (L,)
        ratios.append(squares / group.norms[:, rows].sum(dim=1))
    return torch.stack(ratios, dim=1)


def k_of(m: int, n: int, rank: int) -> int:
    """GraLoRA's k for a layer (m, n): the largest power of two that divides all three and leaves blocks large enough.

    That is a geometric mean of their sides, sqrt(m n) / k, of at least :data:`SMALLEST_BLOCK`. In the embedded base k
    is 2 for layers of 192 x 192, and 4 for all that are wider.
    """
    k = 1
    while not any(side % (2 * k) for side in (m, n, rank)) and math.sqrt(m * n) >= 2 * k * SMALLEST_BLOCK:
        k *= 2
    return k


def cut_by_width(task: Task, seed: int) -> None:
    """Give every layer of a GraLoRA the k of :func:`k_of`, with new factors: A drawn as ever, B zero.

    The parameters stay as many, since a layer has r (m + n) whatever k is.
    """
    model: Any = task.model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for layer in task.layers:
        module: Any = layer.module
        config, rank = copy.copy(model.peft_config[adapters.NAME]), module.r[adapters.NAME]
        config.gralora_k = k_of(layer.base.out_features, layer.base.in_features, rank)
        before = layer.kind.trained(module, adapters.NAME)
        module.update_layer(adapters.NAME, module.module_name, rank, config=config)
        for part, parameter in layer.kind.trained(module, adapters.NAME).items():
            parameter.data = parameter.data.to(before[part].device, before[part].dtype)
            if part in layer.kind.zeros:
                parameter.data.zero_()
            else:
                attaching._draw(names[id(before[part])], parameter, seed)


STEPS: dict[str, Callable[..., FastStep]] = {
    "": FastStep,
    BY_WIDTH: FastStep,
    **{f"ascent {rho}": functools.partial(Ascent, rho=rho) for rho in (0.2, 0.5)},
    "half of the layers": HalfOfLayers,
}
"""How the steps of every candidate run, by its name; without one, as the trainer's do."""
