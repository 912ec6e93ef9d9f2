"""Flat-LoRA's weight noise: the generator against published numbers, its distribution, the Triton kernel."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from lowrank_diffusion import kernels, noise
from lowrank_diffusion.kernels import perturb
from lowrank_diffusion.noise import normals_reference, perturb_reference, perturbed_reference, philox
from lowrank_diffusion.paths import PROJECT
from lowrank_diffusion.plan import NF4_BLOCK
from lowrank_diffusion.quantize import NF4_LEVELS, QuantizedLinear, dequantize

SEED, STEP, LAYER = 0x1234_5678_9ABC_DEF0, 3 + 5 * 2**32, 11
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
CASES = [
    ((1, 1), SINGLE, SINGLE),
    ((3, 5), SINGLE, BRAIN),
    ((37, 77), BRAIN, BRAIN),
    ((5, 640), BRAIN, BRAIN),
    ((9, 1280), HALF, HALF),
    ((2, 3, 2048), BRAIN, SINGLE),
    ((3, 7, 13), HALF, SINGLE),
    ((2, 6, 1000), SINGLE, HALF),
]
"""Shapes of one matrix or a stack, the weight's type and the result's."""
QUANTIZED = [("8bit", (37, 77), SINGLE), ("8bit", (5, 640), BRAIN), ("nf4", (6, 64), SINGLE), ("nf4", (48, 320), HALF)]
"""How a weight is stored, its shape, and the result's type."""
KEYS = {"seed": (SEED + 1, STEP, LAYER), "step": (SEED, STEP + 1, LAYER), "layer": (SEED, STEP, LAYER + 1),
        "high half of seed": (SEED ^ 2**62, STEP, LAYER), "high half of step": (SEED, STEP + 2**32, LAYER)}  # fmt: skip

needs_gpu = pytest.mark.skipif(
    bool(kernels.missing(torch.device("cuda"))), reason=kernels.missing(torch.device("cuda"))
)


@pytest.fixture(scope="module")
def draws() -> Tensor:
    """A million numbers, in float64."""
    return normals_reference((1000, 1024), SEED, STEP, LAYER).double().flatten()


def operands(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, the scale of its rows and a step."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(shape, generator=generator).to(device, dtype)
    return weight, torch.rand(shape[:-1], generator=generator).to(device), torch.tensor([STEP], device=device)


def result(kernel, shape: tuple[int, ...], dtype: torch.dtype, out_dtype: torch.dtype, device: str) -> Tensor:
    weight, scale, step = operands(shape, dtype, device)
    out = torch.full(shape, float("nan"), dtype=out_dtype, device=device)
    assert kernel(weight, scale, SEED, step, LAYER, out) is out
    return out


# What every machine can check.


def test_philox_gives_the_known_answers_of_its_authors():
    """``kat_vectors`` of Random123, Salmon et al."""
    known = {
        (0, 10): "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        (-1, 10): "408f276d 41c83b0e a20bc7c6 6d5451fd",
    }
    for (fill, rounds), words in known.items():
        found = philox((torch.tensor([fill]), fill, fill, fill), (fill, fill), rounds)
        assert " ".join(f"{int(word):08x}" for word in found) == words


def test_moments_are_those_of_a_standard_normal(draws: Tensor):
    count = draws.numel()
    assert abs(draws.mean()) < 4 / math.sqrt(count)
    assert abs(draws.var() - 1) < 4 * math.sqrt(2 / count)
    assert abs(draws.pow(3).mean()) < 4 * math.sqrt(15 / count)
    assert abs(draws.pow(4).mean() - 3) < 4 * math.sqrt(96 / count)


def test_tails_are_those_of_a_standard_normal(draws: Tensor):
    for bound in (1, 2, 3, 4):
        share = math.erfc(bound / math.sqrt(2))
        assert abs((draws.abs() > bound).double().mean() - share) < 4 * math.sqrt(share / draws.numel())
    assert 4.3 < draws.abs().max() < 4.86


def test_the_whole_grid_is_centred_and_of_variance_one():
    """The radius takes 2^16 values: over all of them r^2 has mean 2 and r^4 mean 8, for variance 1 and kurtosis 3."""
    square = -2 * torch.log((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    angle = 2 * math.pi * (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    assert abs(square.mean() / 2 - 1) < 1e-5
    assert abs(square.square().mean() * 3 / 8 - 3) < 1e-3
    assert abs(angle.cos().sum()) < 1e-9 and abs(angle.sin().sum()) < 1e-9


@pytest.mark.parametrize("changed", KEYS)
def test_another_seed_step_or_layer_is_independent(draws: Tensor, changed: str):
    other = normals_reference((1000, 1024), *KEYS[changed]).double().flatten()
    assert uncorrelated(draws, other)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 6, 7, 8, 1024])
def test_neighbours_are_independent(draws: Tensor, distance: int):
    assert uncorrelated(draws[:-distance], draws[distance:])


def uncorrelated(x: Tensor, y: Tensor) -> bool:
    """The numbers, and their squares: the two of one Box-Muller pair share a radius."""
    bound = 4 / math.sqrt(x.numel())
    return all(abs(torch.corrcoef(torch.stack(pair))[0, 1]) < bound for pair in ((x, y), (x.square(), y.square())))


def test_an_element_depends_on_its_number_and_not_on_the_shape():
    whole = normals_reference((6, 20), SEED, STEP, LAYER).flatten()
    assert torch.equal(normals_reference((10, 12), SEED, STEP, LAYER).flatten(), whole)
    assert torch.equal(normals_reference((1, 13), SEED, torch.tensor([STEP]), LAYER).flatten(), whole[:13])


@pytest.mark.parametrize("before", [0, 8, 13, 77])
def test_a_lower_part_of_a_matrix_has_the_numbers_of_its_place(before: int):
    whole = normals_reference((1, 200), SEED, STEP, LAYER).flatten()
    assert torch.equal(normals_reference((5, 7), SEED, STEP, LAYER, before=before).flatten(), whole[before:][:35])


@pytest.mark.parametrize("at_once", [1, 16, 50])
def test_large_matrices_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch, at_once: int):
    expected = result(perturb_reference, (2, 7, 11), BRAIN, SINGLE, "cpu")
    monkeypatch.setattr(noise, "at_once", lambda device: at_once)
    assert torch.equal(result(perturb_reference, (2, 7, 11), BRAIN, SINGLE, "cpu"), expected)


def test_many_matrices_at_once_are_what_they_are_one_by_one():
    shapes, places = [(3, 5), (4, 16), (2, 9)], [(7, 0), (2, 24), (7, 15)]
    weights = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    scales = [torch.rand(rows) for rows, _ in shapes]
    step = torch.tensor([STEP])
    found = perturbed_reference(weights, scales, places, SEED, step)
    for weight, scale, (layer, before), one in zip(weights, scales, places, found, strict=True):
        out = perturb_reference(weight, scale, SEED, step, layer, torch.empty_like(weight), before=before)
        assert torch.equal(one, out)


@pytest.mark.parametrize(("shape", "dtype", "out_dtype"), CASES)
def test_reference_is_the_formula_rounded_once(shape: tuple[int, ...], dtype: torch.dtype, out_dtype: torch.dtype):
    weight, scale, _ = operands(shape, dtype, "cpu")
    stack = weight.view(-1, *shape[-2:])
    eps = torch.stack([normals_reference(stack.shape[1:], SEED, STEP, LAYER + i) for i in range(len(stack))])
    exact = weight.double() + scale.double()[..., None] * eps.view(shape).double()
    found = result(perturb_reference, shape, dtype, out_dtype, "cpu")
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(out_dtype).eps / 2 * 1.01, atol=1e-6)
    assert torch.equal(found, result(perturb_reference, shape, dtype, SINGLE, "cpu").to(out_dtype))


def test_reference_keeps_float64():
    weight, scale, step = operands((4, 6), torch.float64, "cpu")
    out = perturb_reference(weight, scale, SEED, step, LAYER, torch.empty_like(weight))
    eps = normals_reference((4, 6), SEED, STEP, LAYER)
    torch.testing.assert_close(out, weight + scale.double()[:, None] * eps.double(), rtol=1e-15, atol=1e-15)


def test_wrong_arguments_are_refused_with_all_reasons():
    weight, scale, step = operands((4, 6), SINGLE, "cpu")
    with pytest.raises(ValueError, match=r"out \(6, 4\).*; scale \(6,\).*; .*contiguous"):
        perturb(weight, scale.new_ones(6), SEED, step, LAYER, weight.T)
    with pytest.raises(ValueError, match=r"float64.*; scale is torch.float64.*; step is not one int64"):
        perturb(weight.double(), scale.double(), SEED, step.float(), LAYER, torch.empty_like(weight))


def test_the_kernel_says_why_it_is_not_available():
    assert "this device is cpu" in kernels.missing(torch.device("cpu"))


def quantized(kernel, kind: str, shape: tuple[int, int], out_dtype: torch.dtype, device: str) -> Tensor:
    weight, scale, step = operands(shape, SINGLE, device)
    layer = nn.Linear(shape[1], shape[0], bias=False)
    layer.weight.data = weight
    packed = QuantizedLinear(layer, kind, torch.device(device))
    out = torch.full(shape, float("nan"), dtype=out_dtype, device=device)
    assert kernel(packed.weight, scale, SEED, step, LAYER, out, packed.scales) is out
    return out


@pytest.mark.parametrize(("kind", "shape", "out_dtype"), QUANTIZED)
def test_reference_adds_to_what_a_quantised_weight_stands_for(
    kind: str, shape: tuple[int, int], out_dtype: torch.dtype
):
    weight, scale, _ = operands(shape, SINGLE, "cpu")
    layer = nn.Linear(shape[1], shape[0], bias=False)
    layer.weight.data = weight
    exact = QuantizedLinear(layer, kind, torch.device("cpu")).dequantized().double()
    exact += scale.double()[:, None] * normals_reference(shape, SEED, STEP, LAYER).double()
    found = quantized(perturb_reference, kind, shape, out_dtype, "cpu").double()
    torch.testing.assert_close(found, exact, rtol=torch.finfo(out_dtype).eps / 2 * 1.01, atol=1e-6)


def test_the_levels_are_bitsandbytes_own():
    codes = torch.arange(16, dtype=torch.uint8).repeat(4).view(-1, 2)
    packed = (codes[:, :1] << 4) | codes[:, 1:]
    found = dequantize(packed, torch.full((1,), 3.0), (1, NF4_BLOCK), SINGLE)
    assert torch.equal(found, 3 * torch.tensor(NF4_LEVELS).repeat(4)[None])


def test_wrong_quantised_arguments_are_refused_with_all_reasons():
    _, scale, step = operands((4, 64), SINGLE, "cpu")
    codes, out = torch.zeros(4, 60, dtype=torch.int8), torch.empty(4, 64)
    with pytest.raises(ValueError, match=r"weight has 240 codes, not 256; scales are 3 of torch.float32, not 4"):
        perturb(codes, scale, SEED, step, LAYER, out, torch.ones(3))


# The kernel itself, in Triton's interpreter or on a GPU.


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernel_in_the_interpreter():
    """In a process of its own: Triton decides when it is imported whether it compiles or interprets."""
    run = [sys.executable, "-c", "from tests.parity import test_kernels; test_kernels.interpreted()"]
    done = subprocess.run(
        run, cwd=PROJECT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(CASES)} cases" in done.stdout


def interpreted() -> None:
    """All that the interpreter can show; called by the test above."""
    assert kernels.tl is None, "Triton was imported before it was needed"
    for shape, dtype, out_dtype in CASES:
        agrees_with_reference(shape, dtype, out_dtype, "cpu")
    for case in QUANTIZED:
        quantized_agrees_with_reference(*case, "cpu")
    stack_equals_its_slices("cpu")
    lower_part_equals_its_rows("cpu")
    tiles_do_not_matter("cpu")
    print(f"{len(CASES)} cases")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(("shape", "dtype", "out_dtype"), [*CASES, ((3, 1280, 2048), BRAIN, BRAIN)])
def test_kernel_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype, out_dtype: torch.dtype):
    agrees_with_reference(shape, dtype, out_dtype, "cuda")


def agrees_with_reference(shape: tuple[int, ...], dtype: torch.dtype, out_dtype: torch.dtype, device: str) -> None:
    """Within 1e-4 of eps and one rounding; and a narrow result is the wide one rounded."""
    found = result(perturb, shape, dtype, out_dtype, device)
    expected = result(perturb_reference, shape, dtype, out_dtype, device)
    torch.testing.assert_close(found, expected, rtol=torch.finfo(out_dtype).eps, atol=1e-4)
    if device != "cpu" or out_dtype != BRAIN:  # the interpreter truncates to bfloat16, a GPU rounds
        assert torch.equal(found, result(perturb, shape, dtype, SINGLE, device).to(out_dtype))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("case", QUANTIZED)
def test_kernel_of_quantised_weights_on_a_gpu(case: tuple[str, tuple[int, int], torch.dtype]):
    quantized_agrees_with_reference(*case, "cuda")


def quantized_agrees_with_reference(kind: str, shape: tuple[int, int], out_dtype: torch.dtype, device: str) -> None:
    found = quantized(perturb, kind, shape, out_dtype, device)
    expected = quantized(perturb_reference, kind, shape, out_dtype, device)
    torch.testing.assert_close(found, expected, rtol=torch.finfo(out_dtype).eps, atol=1e-4)


@needs_gpu
@pytest.mark.gpu
def test_a_stack_equals_its_slices_on_a_gpu():
    stack_equals_its_slices("cuda")


def stack_equals_its_slices(device: str) -> None:
    """Bit for bit; of sizes that leave the second slice unaligned, too."""
    for shape in ((3, 4, 24), (3, 5, 7)):
        whole = result(perturb, shape, BRAIN, BRAIN, device)
        weight, scale, step = operands(shape, BRAIN, device)
        for index in range(3):
            part = torch.empty(shape[1:], dtype=BRAIN, device=device)
            perturb(weight[index], scale[index], SEED, step, LAYER + index, part)
            assert torch.equal(part, whole[index])


@needs_gpu
@pytest.mark.gpu
def test_a_lower_part_is_perturbed_as_in_its_matrix_on_a_gpu():
    lower_part_equals_its_rows("cuda")


def lower_part_equals_its_rows(device: str) -> None:
    whole = result(perturb, (9, 24), BRAIN, BRAIN, device)
    weight, scale, step = operands((9, 24), BRAIN, device)
    part = torch.empty_like(weight[3:])
    perturb(weight[3:], scale[3:], SEED, step, LAYER, part, before=3 * 24)
    assert torch.equal(part, whole[3:])


@needs_gpu
@pytest.mark.gpu
def test_tiles_do_not_matter_on_a_gpu():
    tiles_do_not_matter("cuda")


def tiles_do_not_matter(device: str) -> None:
    """Another tile or number of warps gives the same bits, also where rows are no whole groups."""
    with pytest.MonkeyPatch.context() as patch:
        for shape in ((9, 264), (9, 263)):
            patch.undo()
            expected = result(perturb, shape, BRAIN, SINGLE, device)
            for tile, warps in ((256, 1), (1024, 2)):
                patch.setattr(kernels, "TILE", tile)
                patch.setattr(kernels, "WARPS", warps)
                assert torch.equal(result(perturb, shape, BRAIN, SINGLE, device), expected)


@needs_gpu
@pytest.mark.gpu
def test_a_captured_graph_draws_new_noise_when_the_step_changes():
    weight, scale, step = operands((2, 64, 640), BRAIN, "cuda")
    out, eager = torch.empty_like(weight), torch.empty_like(weight)
    perturb(weight, scale, SEED, step, LAYER, out)  # compiles, which a capture must not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        perturb(weight, scale, SEED, step, LAYER, out)
        step += 1
    seen = []
    for number in range(3):
        graph.replay()
        perturb(weight, scale, SEED, torch.tensor([STEP + number], device="cuda"), LAYER, eager)
        assert torch.equal(out, eager)
        seen.append(out.clone())
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    step.fill_(STEP)
    graph.replay()
    assert torch.equal(out, seen[0])
