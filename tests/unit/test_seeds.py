"""Random draws are functions of (seed, step, name): the same everywhere, and different wherever one of them is."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import torch

from lowrank_diffusion import seeds
from lowrank_diffusion.paths import PROJECT


def test_numbers_never_change():
    """A resumed run, of any version on any machine, must draw what the first one drew."""
    assert seeds.number(0, 0, "") == 37690156179941161
    assert seeds.number(7, 100, "noise 0") == 2325400144199570235
    assert seeds.number(2**32 - 1, 10**6, "é 🦊") == 5733337736478034301


def test_numbers_differ_wherever_an_argument_does_and_fit_a_generator():
    names = ["noise 0", "noise 1", "order instance", "flat a.to_q", "/", "0/", ""]
    numbers = [seeds.number(*of) for of in itertools.product((0, 1, 10, 11, 2**32 - 1), (0, 1, 10, 11), names)]
    assert len(set(numbers)) == len(numbers) and all(0 <= number < 2**63 for number in numbers)


def test_numbers_are_spread_evenly():
    high = sum(seeds.number(0, step, "x") >= 2**62 for step in range(2000))
    odd = sum(seeds.number(0, step, "x") % 2 for step in range(2000))
    assert abs(high - 1000) < 150 and abs(odd - 1000) < 150


def test_generators_repeat_and_leave_the_global_one_alone():
    torch.manual_seed(1)
    random.seed(1)
    before, plain = torch.get_rng_state(), random.getstate()
    draw = torch.randn(5, generator=seeds.generator(3, 4, "x"))
    assert torch.equal(draw, torch.randn(5, generator=seeds.generator(3, 4, "x")))
    assert not torch.equal(draw, torch.randn(5, generator=seeds.generator(3, 5, "x")))
    assert not torch.equal(draw, torch.randn(5, generator=seeds.generator(4, 4, "x")))
    assert not torch.equal(draw, torch.randn(5, generator=seeds.generator(3, 4, "y")))
    assert torch.equal(torch.get_rng_state(), before) and random.getstate() == plain


def test_another_process_with_another_hash_seed_draws_the_same():
    code = "from lowrank_diffusion import seeds; print(seeds.number(3, 4, 'x'))"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT, env={"PYTHONHASHSEED": "5"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(shown.stdout) == seeds.number(3, 4, "x")
