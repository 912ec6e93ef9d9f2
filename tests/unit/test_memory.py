"""What a run will take of a GPU: counted against the real models, and estimated against what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from pydantic.fields import FieldInfo
from safetensors.numpy import save_file
from torch import nn

from benchmarks.memory import Row
from benchmarks.report import RESULTS
from lowrank_diffusion import cli, plan, presets, tensor_files
from lowrank_diffusion.config import TARGET_SETS, Config, fields
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import memory
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.image.families.unet.factors import FACTORS
from lowrank_diffusion.image.families.unet.outline import outline
from lowrank_diffusion.paths import ASSETS, EMBEDDED_BASE

GIB = memory.GIB
FAMILY = FAMILIES["sdxl"]
SDXL = {"base.path": "stabilityai/stable-diffusion-xl-base-1.0", "data.resolution": 1024, "train.precision": "bf16"}


def config(**others: Any) -> Config:
    return presets.build({}, SDXL | {key.replace("__", "."): value for key, value in others.items()})


@pytest.mark.parametrize("folder", [ASSETS / "sdxl", EMBEDDED_BASE], ids=["sdxl", "embedded"])
def test_the_outline_of_a_unet_is_that_of_the_real_one(folder: Path):
    facts = json.loads((folder / "unet" / "config.json").read_text())
    with init_empty_weights():
        unet: Any = UNet2DConditionModel.from_config(facts)
    found = outline(facts)
    assert found.weights == sum(parameter.numel() for parameter in unet.parameters())
    layers = {path: (m.out_features, m.in_features) for path, m in unet.named_modules() if isinstance(m, nn.Linear)}
    assert found.linears == layers
    kinds = [type(module).__name__ for module in unet.modules()]
    for kind, name in (("resnet", "ResnetBlock2D"), ("transformer", "BasicTransformerBlock")):
        assert sum(block.kind == kind for block in found.blocks) == kinds.count(name)


MEASURED = json.loads((RESULTS / "memory.json").read_text(encoding="utf-8"))["rows"]
COMMON = {"data.instance": "x", "prior.weight": 0.0, "sample.prompts": ("a cat",), "train.accumulate": 1}


@pytest.mark.parametrize("row", MEASURED, ids=[row["row"] for row in MEASURED])
def test_jobs_are_estimated_within_a_twentieth_of_what_they_took(row: dict[str, Any]):
    """Of an H100, by the committed results of benchmarks/memory.py: at the peak, and in training steps alone."""
    found = memory.estimate(Row.of(row["row"], COMMON).config(), 79 * GIB)
    assert found.peak / GIB == pytest.approx(row["taken GiB"], rel=0.05)
    steps = float(row["steps"].split(" / ")[1].split()[0])
    assert found.total("steps") / GIB == pytest.approx(steps, rel=0.05)


@pytest.mark.parametrize(("batch", "measured"), [(1, 6.3), (4, 8.3)])
def test_checkpointed_eager_steps_take_what_was_measured(batch: int, measured: float):
    """LoRA of rank 32: peaks of tensors on an H100, PyTorch 2.11, GiB."""
    settings = {"train__batch": batch, "train__checkpointing": True, "train__execution": "eager"}
    found = memory.estimate(config(adapter__kind="lora", adapter__rank=32, **settings))
    assert found.total("steps") / GIB / FACTORS.slack == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("name", ["sdxl-8gb", "sdxl-12gb", "sdxl-24gb"])
def test_presets_fit_what_they_are_named_after(name: str):
    cfg = presets.build(presets.find_preset(name).values)
    size = int(name.removeprefix("sdxl-").removesuffix("gb"))
    assert cfg.train.memory is not None and cfg.train.memory <= size - 0.5
    assert memory.estimate(cfg).peak <= cfg.train.memory * GIB
    assert memory.advice(cfg, size * GIB) == ""


def test_the_largest_stage_is_the_peak_and_stages_hold_what_is_there_then():
    plain, prior = config(), config(prior__weight=1.0, prior__prompt="a dog", sample__prompts=("a dog",))
    assert set(memory.estimate(plain).stages) == {"reading captions", "encoding pictures", "steps"}
    found = memory.estimate(prior)
    assert set(found.stages) == {*memory.estimate(plain).stages, "class pictures", "samples"}
    assert found.peak == max(map(found.total, found.stages)) == found.total(found.stage)
    assert found.stages["reading captions"]["text encoders"] == int(
        FACTORS.slack * 2 * (FAMILY.weights["text_encoder"] + FAMILY.weights["text_encoder_2"])
    )
    assert found.lines()[-1] == f"at most            {found.peak / GIB:6.2f} GiB, in the stage: {found.stage}"


@pytest.mark.parametrize(("kind", "layers"), [("attention", 4 * (11 + 32)), ("attention+mlp", 6 * (11 + 32))])
def test_adapted_text_encoders_stay_and_are_trained(kind: str, layers: int):
    plain, text = memory.estimate(config()), memory.estimate(config(adapter__text_encoders=kind))
    # Of rank 16: 11 of the first encoder's 12 blocks, 32 of the second's.
    sides = 11 * 8 * 768 + 32 * 8 * 1280 + (kind == "attention+mlp") * 2 * 5 * (11 * 768 + 32 * 1280)
    adapted = memory._Job(config(adapter__text_encoders=kind), GIB).layers
    assert sum(layer.path.startswith("text_encoder") for layer in adapted) == layers
    more = text.stages["steps"]["optimizer"] - plain.stages["steps"]["optimizer"]
    assert more == pytest.approx(FACTORS.slack * 8 * 16 * sides, rel=1e-6)
    assert text.stages["steps"]["text encoders"] == plain.stages["reading captions"]["text encoders"]
    assert text.stages["steps"]["activations"] > plain.stages["steps"]["activations"]


@pytest.mark.parametrize(("kind", "bytes_each"), [("none", 2), ("8bit", 1), ("nf4", 4.5 / 8)])
def test_quantised_weights_are_counted_as_they_are_stored(kind: str, bytes_each: float):
    unet = memory.estimate(config(base__quantize=kind)).stages["steps"]["unet"] / FACTORS.slack
    linear = 1_228_800_000 + 955_187_200 + 23_756_800  # feed-forward, attention, ways in and out of the transformers
    assert unet == pytest.approx(2 * (2_567_463_684 - linear) + bytes_each * linear, rel=1e-6)


def test_the_vae_works_in_tiles_where_it_does_not_fit_whole():
    whole = memory.estimate(config(sample__prompts=("x",), train__checkpointing=True))
    tight = config(sample__prompts=("x",), train__checkpointing=True, train__memory=11)
    assert memory.estimate(tight).total("samples") <= 11 * GIB < whole.total("samples")
    assert memory.estimate(tight) == memory.estimate(tight, 11 * GIB) == memory.estimate(tight, 80 * GIB)


def test_another_vae_is_counted_by_its_own_weights_and_width(tmp_path: Path):
    """As a folder, as one file, and of the hub, where nothing is known of it but that it is SDXL's."""
    file = tmp_path / "v.safetensors"
    shapes = {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)}
    save_file({name: np.zeros(shape, "f2") for name, shape in shapes.items()}, file)
    folder = EMBEDDED_BASE / "vae"
    small = tensor_files.read(folder / "diffusion_pytorch_model.safetensors").shapes.values()
    width = json.loads((folder / "config.json").read_text())["block_out_channels"][0]
    counts = {
        "owner/vae": 83_653_863,
        str(folder): sum(map(math.prod, small)),
        str(file): sum(map(math.prod, shapes.values())),
    }
    own = memory.estimate(config(sample__prompts=("x",)))
    for vae, weights in counts.items():
        found = memory.estimate(config(sample__prompts=("x",), base__vae=vae))
        share = width / 128 if vae == str(folder) else 1
        for stage in ("encoding pictures", "samples"):
            assert found.stages[stage]["vae"] == int(FACTORS.slack * 4 * weights)
        work = own.stages["encoding pictures"]["vae at work"]
        assert found.stages["encoding pictures"]["vae at work"] == pytest.approx(share * work, rel=1e-6)
        assert found.stages["steps"] == own.stages["steps"]
    with pytest.raises(UserError, match=r"base\.vae"):
        memory.estimate(config(base__vae="/no/vae"))


def test_advice_names_what_to_change_until_it_fits():
    cfg = config(train__batch=4, adapter__kind="lora")
    assert memory.advice(cfg, 80 * GIB) == memory.advice(cfg, float("inf")) == ""
    text = memory.advice(cfg, 11 * GIB)
    assert text.startswith("This run may need ") and "11.0 are there. With train.checkpointing=true it takes" in text
    assert "train.checkpointing=true, base.quantize=8bit, " in memory.advice(cfg, 5 * GIB)


def test_the_command_line_tells_it(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["memory", "sdxl-12gb", "train.batch=2"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("steps run captured")
    assert [line.split(" GiB")[0].rstrip("0123456789.").strip() for line in lines] == [
        "reading captions", "encoding pictures", "steps", "samples", "at most",
    ]  # fmt: skip
    assert cli.main(["memory", "smoke"]) == 0  # the embedded base: its own configuration and files
    assert capsys.readouterr().out.splitlines()[-1].startswith("at most              0.")


def choices(field: FieldInfo) -> list[Any]:
    """The values of a setting that are named in its type; of the named targets, all."""
    kinds = (field.annotation, *get_args(field.annotation))
    literal = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return literal or ([True, False] if field.annotation is bool else [])


CHOICES = [(key, value) for key, field in fields("image").items() if key != "task" for value in choices(field)]


@pytest.mark.parametrize("flat", [0.1, pytest.param(0.0, marks=pytest.mark.slow)])  # the first counts more
@pytest.mark.parametrize(("key", "value"), [*CHOICES, *(("adapter.targets", name) for name in TARGET_SETS)])
def test_every_choice_is_estimated_and_advised_on(key: str, value: Any, flat: float):
    """On a machine with Triton and on one without: nothing of the adapter is forgotten, and nothing is raised."""
    given = {"flat.sigma": flat, "sample.prompts": ["a cat"], "prior.prompt": "a cat"}
    cfg = presets.build({}, SDXL | given | {key: value})
    for no_kernel in ("", "The fused kernel needs the package triton, which is not installed."):
        machine = plan.Machine(plan.any_gpu(cfg).device, cfg.train.precision, no_kernel)
        found = memory.estimate(cfg, machine=machine)
        assert found.stages["steps"]["adapter"] > 0.005 * GIB and found.peak > GIB
        assert "This run may need" in memory.advice(cfg, 2 * GIB, machine)


def test_all_linear_counts_every_linear_layer_of_the_unet():
    wide, narrow = (memory._Job(config(adapter__targets=name), GIB) for name in ("all-linear", "attention+mlp"))
    assert {layer.path: (layer.m, layer.n) for layer in wide.layers} == wide.outline.linears
    assert len(wide.layers) > len(narrow.layers) > 0


@pytest.mark.parametrize(
    ("others", "no_kernel"),
    [
        ({"flat__sigma": 0.1}, "no triton"), ({"train__device": "cpu"}, ""), ({"train__device": "mps"}, ""),
        ({"optimizer__name": "adafactor"}, ""), ({"train__precision": "fp16"}, ""), ({"adapter__dropout": 0.1}, ""),
        ({"train__execution": "eager"}, ""),
    ],
)  # fmt: skip
def test_the_estimate_knows_when_steps_are_eager(others: dict[str, Any], no_kernel: str):
    lacking, cfg = plan.Machine("cuda", "bf16", "no triton"), config(**others)
    assert memory._Job(config(), GIB).plan.fast and memory._Job(config(), GIB, lacking).plan.fast
    assert not memory._Job(cfg, GIB, lacking if no_kernel else None).plan.fast


@pytest.mark.parametrize(("kind", "keep", "quantize", "kept"), [
    ("captured", True, "none", True), ("captured", False, "none", False), ("captured", True, "8bit", False),
    ("eager", True, "none", True), ("eager", False, "none", False), ("eager", True, "8bit", False),
])  # fmt: skip
def test_whether_the_noise_is_kept_is_decided_once(kind: str, keep: bool, quantize: str, kept: bool):
    cfg = config(flat__sigma=0.1, flat__keep=keep, base__quantize=quantize)
    assert plan.keeps_noise(cfg, kind, "none here") == kept
    assert not plan.keeps_noise(cfg, "eager", ""), "made again in one launch"
    assert not plan.keeps_noise(config(flat__keep=keep), "captured", "")
