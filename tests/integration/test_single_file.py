"""The same weights as a diffusers folder and as one file in the original layout are the same model, offline."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from lowrank_diffusion import paths
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.image import headers
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.image.load import load_part, load_pipeline
from lowrank_diffusion.image.source import ModelError, Source, resolve
from scripts import write_base

MODELS = ("text_encoder", "text_encoder_2", "unet", "vae")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the narrow SDXL twice: 'folder' and 'file.safetensors'."""
    root = tmp_path_factory.mktemp("tiny")
    arguments = ["write_base", "--tiny", "--dtype", "fp32", "--seed", "3"]
    arguments += ["--folder", str(root / "folder"), "--file", str(root / "file.safetensors")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        write_base.main()
    return root


@pytest.fixture(scope="module")
def both(tiny: Path) -> tuple[StableDiffusionXLPipeline, StableDiffusionXLPipeline]:
    """The pipelines from the folder and from the file."""
    folder = load_pipeline(source(tiny / "folder"), torch.float32)
    return folder, load_pipeline(source(tiny / "file.safetensors"), torch.float32, config=tiny / "folder")


def source(path: Path, **options: str) -> Source:
    """The checked source of a path."""
    return resolve(BaseModelConfig.model_validate({"path": str(path), **options}))


def noise(*shape: int) -> torch.Tensor:
    """The same normal draw each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def changed(tiny: Path, tmp_path: Path, metadata: dict[str, str] | None = None, **tensors: torch.Tensor | None) -> Path:
    """The file with tensors added, or taken out where None; '__' in a name stands for '.'."""
    found = load_file(tiny / "file.safetensors")
    for name, tensor in tensors.items():
        if tensor is None:
            del found[name.replace("__", ".")]
        else:
            found[name.replace("__", ".")] = tensor
    save_file(found, tmp_path / "changed.safetensors", metadata={"format": "pt"} | (metadata or {}))
    return tmp_path / "changed.safetensors"


def test_a_file_and_a_folder_are_the_same_model(both: tuple[StableDiffusionXLPipeline, ...]):
    prompt = "a photo of a cat"
    outputs: list[dict[str, torch.Tensor]] = []
    with torch.no_grad():
        for pipeline in both:
            tokens, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
            sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]])
            conditions = {"text_embeds": pooled, "time_ids": sizes}
            sample = noise(1, 4, 16, 16)
            outputs.append({
                "tokens": tokens,
                "pooled": pooled,
                "unet": pipeline.unet(sample, 500, tokens, added_cond_kwargs=conditions).sample,
                "decoded": pipeline.vae.decode(sample).sample,
                "encoded": pipeline.vae.encode(noise(1, 3, 64, 64)).latent_dist.mean,
            })  # fmt: skip
    for name, tensor in outputs[0].items():
        assert tensor.isfinite().all(), name
        assert tensor.std() > 1e-3, name
        assert torch.equal(tensor, outputs[1][name]), name


def test_both_draw_the_same_picture_as_diffusers_own_loaders(both: tuple[StableDiffusionXLPipeline, ...], tiny: Path):
    upstream = StableDiffusionXLPipeline.from_single_file(
        str(tiny / "file.safetensors"), config=str(tiny / "folder"), torch_dtype=torch.float32
    )
    pictures = []
    for pipeline in (*both, upstream):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 1, "guidance_scale": 1, "generator": generator, "output_type": "pt"}
        pictures.append(pipeline("a cat", **options).images)
    assert pictures[0].shape == (1, 3, 128, 128)
    assert torch.equal(pictures[0], pictures[1])
    assert torch.allclose(pictures[0], pictures[2], rtol=0, atol=1e-5)
    assert both[0].watermark is None


@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_every_part_has_the_dtype_that_was_asked_for(tiny: Path, name: str):
    for part in ("text_encoder", "unet", "vae"):
        model = load_part(source(tiny / name), part, torch.bfloat16, config=tiny / "folder")
        expected = torch.float32 if part == "vae" else torch.bfloat16
        assert {tensor.dtype for tensor in model.parameters()} == {expected}, part
        assert not model.training


def test_a_part_of_a_file_needs_none_of_the_others(tiny: Path, tmp_path: Path):
    whole = load_file(tiny / "file.safetensors")
    path = tmp_path / "part.safetensors"
    save_file({name: tensor for name, tensor in whole.items() if "embedders.1" in name}, path)
    lone = Source("file", str(path), "part")
    model = load_part(lone, "text_encoder_2", torch.float32, config=tiny / "folder")
    assert len(model.state_dict()) == 32 * 16 + 5
    with pytest.raises(ModelError, match=r"^base\.path: part: its text_encoder cannot be loaded: .* is missing; "):
        load_part(lone, "text_encoder", torch.float32, config=tiny / "folder")


def test_the_names_and_sizes_are_those_of_the_real_checkpoint(tiny: Path):
    recipe = write_base.Recipe(v_prediction=True)
    assert recipe.config("scheduler")["prediction_type"] == "v_prediction"
    shapes = {entry.name: entry.shape for entry in write_base.original(recipe)}
    assert shapes.pop("v_pred") == (0,)
    assert shapes.keys() == headers.read(tiny / "file.safetensors").shapes.keys()
    assert len(shapes) == 2515
    assert shapes["model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight"] == (640, 2048)
    assert shapes["model.diffusion_model.output_blocks.2.2.conv.weight"] == (1280, 1280, 3, 3)
    assert shapes["model.diffusion_model.label_emb.0.0.weight"] == (1280, 2816)
    assert shapes["conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"] == (3840, 1280)
    assert shapes["first_stage_model.decoder.up.3.block.0.norm1.weight"] == (512,)
    counted = {
        FAMILIES["sdxl"].file_prefix("unet"): 2_567_463_684,
        FAMILIES["sdxl"].file_prefix("vae"): 83_653_863,
        FAMILIES["sdxl"].file_prefix("text_encoder"): 123_060_480 + 77,  # the positions 0 to 76 are in the file, too
        FAMILIES["sdxl"].file_prefix("text_encoder_2"): 694_659_840 + 1,  # and CLIP's temperature
    }
    for prefix, count in counted.items():
        assert sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix)) == count, prefix


def test_the_seed_decides_the_weights(tiny: Path):
    written = load_file(tiny / "folder" / "vae" / "diffusion_pytorch_model.safetensors")
    for seed in (3, 4):
        entries = write_base.Recipe(tiny=True, seed=seed, dtype=torch.float32).entries("vae")
        assert entries.keys() == written.keys()
        assert all(torch.equal(entry.make(), written[name]) == (seed == 3) for name, entry in entries.items())


def test_tokenizers_have_clips_ids_and_sdxls_padding():
    first, second = (load_part(Source("file", "", ""), name, torch.float32) for name in ("tokenizer", "tokenizer_2"))
    cat = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first("a photo of a cat").input_ids == second("A  photo of a CAT").input_ids == cat
    padded = {"padding": "max_length", "max_length": 77, "truncation": True}
    assert first("a photo of a cat", **padded).input_ids == cat + 70 * [49407]
    assert second("a photo of a cat", **padded).input_ids == cat + 70 * [0]
    assert second.convert_ids_to_tokens(0) == "!"
    assert (first.model_max_length, second.model_max_length) == (77, 77)
    assert (len(first), len(second)) == (49408, 49408)
    assert len(first("word " * 100, **padded).input_ids) == 77


def test_the_vocabulary_follows_from_its_merges():
    folder = (paths.ASSETS / "sdxl") / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    assert names[512:-2] == [merge.replace(" ", "") for merge in merges]
    assert names[256:512] == [f"{name}</w>" for name in names[:256]]
    assert names[-2:] == ["<|startoftext|>", "<|endoftext|>"]
    assert (folder / "merges.txt").read_bytes() == ((paths.ASSETS / "sdxl") / "tokenizer_2" / "merges.txt").read_bytes()


def prediction(path: Path, config: Path, **options: str) -> Any:
    """The scheduler's config."""
    return load_part(source(path, **options), "scheduler", torch.float32, config=config).config


def test_what_a_file_says_of_its_prediction_is_heard(tiny: Path, tmp_path: Path):
    config = tiny / "folder"
    assert prediction(tiny / "file.safetensors", config).prediction_type == "epsilon"
    assert prediction(tiny / "folder", config, prediction="v_prediction").prediction_type == "v_prediction"
    for said in ("v", "v_prediction", "v_pred", "V-Prediction"):
        by_name = changed(tiny, tmp_path, {"modelspec.prediction_type": said})
        assert prediction(by_name, config).prediction_type == "v_prediction"
    assert (
        prediction(changed(tiny, tmp_path, {"modelspec.prediction_type": "EPS"}), config).prediction_type == "epsilon"
    )
    marked = changed(tiny, tmp_path, v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    found = prediction(marked, config)
    assert (found.prediction_type, found.rescale_betas_zero_snr) == ("v_prediction", True)
    assert found.timestep_spacing == "trailing"
    assert prediction(marked, config, prediction="epsilon").prediction_type == "epsilon"


def test_what_other_tools_add_to_a_file_does_no_harm(tiny: Path, tmp_path: Path):
    extra = "conditioner__embedders__0__transformer__text_projection__weight"
    path = changed(tiny, tmp_path, **{extra: torch.zeros(4, 4), "model_ema__decay": torch.zeros(1)})
    model = load_part(source(path), "text_encoder", torch.float32, config=tiny / "folder")
    assert len(model.state_dict()) == 196


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "model__diffusion_model__label_emb__0__0__weight"),
        ("unet", "model__diffusion_model__middle_block__1__transformer_blocks__3__norm1__bias"),
        ("vae", "first_stage_model__decoder__conv_in__bias"),
        ("text_encoder", "conditioner__embedders__0__transformer__text_model__final_layer_norm__bias"),
        ("text_encoder_2", "conditioner__embedders__1__model__text_projection"),
    ],
)
def test_missing_weights_of_a_file_are_an_error(tiny: Path, tmp_path: Path, part: str, name: str):
    path = changed(tiny, tmp_path, **{name: None})
    with pytest.raises(ModelError) as caught:
        load_part(source(path), part, torch.float32, config=tiny / "folder")
    start = f"base.path: changed: its {part} cannot be loaded: "
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith("Is it a plain SDXL? If so, download or copy it again.")
    assert name.split("__")[-1] in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "text_encoder_2"])
def test_plain_fp8_is_read_as_the_numbers_it_holds(tiny: Path, tmp_path: Path, part: str):
    """Without scales eight bits are numbers as any others; one file of each kind, the same bits."""
    whole = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(tiny / "file.safetensors").items()}
    save_file(whole, tmp_path / "eight.safetensors")
    save_file({name: tensor.float() for name, tensor in whole.items()}, tmp_path / "wide.safetensors")
    eight, wide = (
        load_part(source(tmp_path / f"{name}.safetensors"), part, torch.bfloat16, config=tiny / "folder").state_dict()
        for name in ("eight", "wide")
    )
    assert all(torch.equal(eight[name], wide[name]) for name in wide)


def test_whole_numbers_are_no_weights(tiny: Path, tmp_path: Path):
    name = "model.diffusion_model.label_emb.0.0.weight"
    numbers = load_file(tiny / "file.safetensors")[name].to(torch.int8)
    path = changed(tiny, tmp_path, **{name: numbers})
    with pytest.raises(ModelError, match=r"its unet cannot be loaded: .* is of whole numbers \(torch.int8\)"):
        load_part(source(path), "unet", torch.float32, config=tiny / "folder")


def test_weights_of_another_width_are_an_error(tiny: Path):
    for part in ("text_encoder", "unet"):
        with pytest.raises(ModelError, match=rf"its {part} cannot be loaded: .* is \(.*\), not \(.*\) and \d+ more"):
            load_part(source(tiny / "file.safetensors"), part, torch.float32)


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_broken_weights_of_a_folder_are_an_error(tiny: Path, tmp_path: Path, part: str):
    folder = tmp_path / "broken"
    shutil.copytree(tiny / "folder", folder)
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    name = sorted(name for name in tensors if name.endswith(".bias"))[0]
    bias = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"^base\.path: broken: its {part} cannot be loaded: 1 weights are missing"):
        load_part(source(folder), part, torch.float32)
    save_file(tensors | {name: torch.zeros(len(bias) + 1)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"^base\.path: broken: its {part} cannot be loaded: .*"):
        load_part(source(folder), part, torch.float32)


def test_a_scheduler_that_diffusers_does_not_have(tiny: Path, tmp_path: Path):
    folder = tmp_path / "x"
    shutil.copytree(tiny / "folder", folder)
    for kind in ("NoSuchScheduler", "UNet2DConditionModel", "utils"):
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": kind}))
        with pytest.raises(ModelError, match=rf"the scheduler is {kind}, not DDPM's noise"):
            load_part(source(folder), "scheduler", torch.float32)


def test_another_vae_takes_the_place_of_the_models(
    tiny: Path, both: tuple[StableDiffusionXLPipeline, ...], tmp_path: Path
):
    other = tmp_path / "vae"
    shutil.copytree(tiny / "folder" / "vae", other)
    path = other / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    for name in ("folder", "file.safetensors"):
        vae = load_part(source(tiny / name, vae=str(other)), "vae", torch.bfloat16, str(other))
        moved = vae.decoder.conv_out.bias - both[0].vae.decoder.conv_out.bias
        assert torch.allclose(moved, torch.ones(3))
        assert vae.dtype == torch.float32
    lacking = tmp_path / "no-vae"
    shutil.copytree(tiny / "folder", lacking, ignore=shutil.ignore_patterns("vae"))
    pipeline = load_pipeline(source(lacking, vae=str(other)), torch.float32, str(other))
    assert torch.equal(pipeline.vae.decoder.conv_out.bias, tensors["decoder.conv_out.bias"])


@pytest.mark.parametrize("form", ["first_stage_model.", "", "vae.", "diffusers"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_vae_of_one_file_is_what_diffusers_reads_from_it(
    tiny: Path, tmp_path: Path, form: str, dtype: torch.dtype, both: tuple[StableDiffusionXLPipeline, ...]
):
    if form == "diffusers":
        tensors = load_file(tiny / "folder" / "vae" / "diffusion_pytorch_model.safetensors")
    else:
        own = {
            name: tensor for name, tensor in load_file(tiny / "file.safetensors").items() if name.startswith("first")
        }
        tensors = {form + name.removeprefix("first_stage_model."): tensor for name, tensor in own.items()}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    file = tmp_path / "sdxl_vae.safetensors"
    save_file(tensors, file)
    vae = load_part(source(tiny / "folder", vae=str(file)), "vae", torch.bfloat16, str(file), config=tiny / "folder")
    upstream = AutoencoderKL.from_single_file(str(file), config=str(tiny / "folder" / "vae"), torch_dtype=torch.float32)
    for name, tensor in both[0].vae.state_dict().items():
        assert torch.equal(vae.state_dict()[name], tensor.to(dtype).float()), name
        assert form == "vae." or torch.equal(vae.state_dict()[name], upstream.state_dict()[name].float()), name
    assert vae.config.scaling_factor == 0.13025 and vae.dtype == torch.float32
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
    with pytest.raises(ModelError, match=r"^base\.vae: "):
        load_part(source(tiny / "folder"), "vae", torch.float32, str(file), config=tiny / "folder")


def test_the_hub_is_asked_only_for_hub_ids(tiny: Path):
    lost = replace(source(tiny / "folder"), kind="hub", path="owner/none", label="owner/none")
    with pytest.raises(ModelError, match=r"^base\.path: owner/none is not in the hub's cache, and the hub cannot be"):
        load_part(lost, "unet", torch.float32)
    with pytest.raises(ModelError, match=r"^base\.vae: owner/none is not in the hub's cache, and the hub cannot be"):
        load_part(source(tiny / "folder"), "vae", torch.float32, "owner/none")


def test_the_embedded_base_loads_part_by_part():
    parts = {name: load_part(resolve(BaseModelConfig()), name, torch.float32) for name in FAMILIES["sdxl"].parts}
    kinds = {name: type(part).__name__ for name, part in parts.items() if name != "scheduler"}
    assert all(kind in FAMILIES["sdxl"].parts[name].classes for name, kind in kinds.items())
    assert all(tensor.isfinite().all() for name in MODELS for tensor in parts[name].parameters())
