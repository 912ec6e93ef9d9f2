"""Stable Diffusion 1 and 2, narrow: loaded, trained, exported and drawn, against diffusers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from lowrank_diffusion import adapters, presets, runs
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.errors import AdapterError
from lowrank_diffusion.image.apply import load_adapter, select
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.image.generate import Studio
from lowrank_diffusion.image.load import load_part, load_pipeline
from lowrank_diffusion.image.memory import estimate
from lowrank_diffusion.image.model import draw, prompts
from lowrank_diffusion.image.request import DrawRequest
from lowrank_diffusion.image.source import ModelError, Source, native_side, resolve
from lowrank_diffusion.paths import ASSETS, EXAMPLES, PROJECT
from lowrank_diffusion.plan import any_gpu
from scripts import write_base
from trainers.dreambooth import DreamBooth
from trainers.step import Step

CPU = torch.device("cpu")
NAMES = ("sd1", "sd2")
SAYS = {"sd1": {}, "sd2": {"prediction": "epsilon"}}
"""What has to be said of a checkpoint in one file."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sd")
    for name in NAMES:
        recipe = write_base.Recipe(name, tiny=True, seed=3, dtype=torch.float32)
        write_base.write_folder(root / name / "folder", recipe)
        write_base.write_file(root / name / "file.safetensors", recipe)
    return root


def source(path: Path, **options: str) -> Source:
    return resolve(BaseModelConfig.model_validate({"path": str(path), **options}))


def reference(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)


def pixels(pipe: Any, **call: Any) -> np.ndarray:
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "width": 128, "height": 128}
    return np.asarray(pipe(generator=[torch.Generator().manual_seed(3)], **options, **call).images[0]).astype(int)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_and_a_file_are_the_same_model_and_draw_what_diffusers_draws(tiny: Path, name: str):
    root = tiny / name
    found = [source(root / "folder"), source(root / "file.safetensors", **SAYS[name])]
    assert [s.family.name for s in found] == [name, name]
    folder, file = (load_pipeline(s, torch.float32, config=root / "folder") for s in found)
    for part in ("unet", "vae", "text_encoder"):
        mine, theirs = (getattr(pipe, part).state_dict() for pipe in (file, folder))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine), part
    (picture,) = draw(
        folder, prompts(folder, "a cat", ""), [3], num_inference_steps=3, guidance_scale=5.0, width=128, height=128
    )
    assert np.array_equal(np.asarray(picture).astype(int), pixels(reference(root / "folder"), prompt="a cat"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunks", [1, 3])
def test_prompts_are_read_as_diffusers_reads_them_and_in_chunks_as_the_formula_says(tiny: Path, name: str, chunks: int):
    pipe, network = reference(tiny / name / "folder"), FAMILIES[name].network()
    for prompt in ("a cat", "", "cats " * 200):
        ids = network.tokenise([pipe.tokenizer], [prompt], chunks)[prompt]
        with torch.no_grad():
            tokens = network.read([pipe.text_encoder], ids[None]).tokens
            states = pipe.text_encoder(ids.view(-1, 77))[0]
            expected = torch.cat([states[:1, 0], *states[:, 1:-1], states[-1:, -1]])[None]
            if chunks == 1:
                whole, _ = pipe.encode_prompt(prompt, CPU, 1, do_classifier_free_guidance=False)
                assert (tokens - whole).abs().max() < 1e-5
        assert tokens.shape == (1, 75 * chunks + 2, 16) and (tokens - expected).abs().max() < 1e-5


def begun(folder: Path, base: Path, **settings: Any) -> Step:
    wanted = {"base.path": str(base), "data.instance": str(EXAMPLES / "subject-cat"), "data.resolution": 128}
    wanted |= {"data.prompt": "a cat", "train.steps": 8, "train.batch": 2, "train.device": "cpu", "adapter.rank": 4}
    wanted |= {"optimizer.lr": 2e-2, "validation.holdout": 1, "sample.prompts": ("a cat",), "sample.steps": 2}
    cfg = presets.build({}, wanted | {key.replace("__", "."): value for key, value in settings.items()})
    run = runs.create(cfg, "sd", folder)
    return Step(DreamBooth(run, run.config(), CPU, torch.float32, lambda *_: None), run.config(), CPU, torch.float32)


KINDS: dict[str, dict[str, Any]] = {
    "lora": {"adapter__kind": "lora", "adapter__targets": "all-linear"},
    "gralora": {"adapter__k": 2, "adapter__text_encoders": "attention+mlp", "flat__sigma": 0.05},
    "dropped": {"adapter__kind": "lora", "adapter__text_encoders": "attention", "data__caption_dropout": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_is_what_every_file_says(tiny: Path, tmp_path: Path, name: str, kind: str):
    folder = tiny / name / "folder"
    state = begun(tmp_path, folder, **KINDS[kind])
    task: Any = state.task
    for step in range(4):
        assert state(step).loss > 0
    assert all(p.abs().max() > 0 for key, p in state.parameters.items() if "_B" in key), "every layer learns"
    with state.evaluating():
        assert 0 < task.validate() < 100
        ((_, picture),) = task.sample(4)
        assert picture.is_file()
        diffusers, kohya, _ = task.export(tmp_path / "files", 4, None)
        parts = {"unet": task.denoiser, **getattr(task.model, "encoders", {})}
        wanted = {
            f"{part}.{layer.path.removeprefix('text_model.')}": layer.factors().delta()
            for part, model in parts.items()
            for layer in adapters.adapted_layers(model)
        }
    for path in (diffusers, kohya):
        theirs, ours = reference(folder), load_pipeline(source(folder), torch.float32)
        theirs.load_lora_weights(path)
        load_adapter(ours, path, "a")
        select(ours, {"a": 1.0})
        for pipe in (theirs, ours):
            found = {
                f"{part}.{layer.path.removeprefix('text_model.')}": layer.factors(
                    next(iter(layer.module.scaling))
                ).delta()
                for part in ("unet", "text_encoder")
                for layer in adapters.adapted_layers(getattr(pipe, part))
            }
            assert found.keys() == wanted.keys()
            for layer, delta in wanted.items():
                assert (found[layer] - delta).abs().max() <= 1e-5, layer
    known = re.compile(
        r"lora_unet_(down_blocks_\d|up_blocks_\d|mid_block|time_embedding)_\w+"
        r"|lora_te_text_model_encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"
    )
    assert all(known.fullmatch(key.partition(".")[0]) for key in load_file(kohya))


def test_a_dropped_caption_is_an_empty_prompt(tiny: Path, tmp_path: Path):
    """Stable Diffusion reads "no prompt" as what its text encoder makes of an empty one, where SDXL reads zeros."""
    state = begun(tmp_path, tiny / "sd1" / "folder", data__caption_dropout=0.5)
    task: Any = state.task
    silence, dropped = task.data.silence.tokens, 0
    assert silence.abs().max() > 0
    for step in range(8):
        batch = task.batch(step, 0)
        gone = (batch.tokens == silence).all(2).all(1)
        assert batch.caption_kept is None and batch.pooled is None
        captions = [prompt.tokens for prompt in task.data.prompts.values()]
        assert all(any(torch.equal(tokens, caption) for caption in captions) for tokens in batch.tokens[~gone])
        dropped += int(gone.sum())
    assert 2 <= dropped <= 14


@pytest.mark.parametrize(("name", "folder"), [("sd1", "unet"), ("sd2", "unet"), ("sd2", "unet-768")])
def test_the_outline_counts_what_diffusers_makes(name: str, folder: str):
    config = json.loads((ASSETS / name / folder / "config.json").read_text(encoding="utf-8"))
    with init_empty_weights():
        unet: Any = UNet2DConditionModel.from_config(config)
    found = FAMILIES[name].outline(config)
    linears = {path: module for path, module in unet.named_modules() if isinstance(module, torch.nn.Linear)}
    assert found.weights == sum(parameter.numel() for parameter in unet.parameters())
    assert found.linears == {path: (layer.out_features, layer.in_features) for path, layer in linears.items()}


def test_memory_is_estimated_and_presets_for_small_cards_fit():
    for gib in (6, 8):
        preset = presets.find_preset(f"sd15-{gib}gb")
        cfg = presets.build(preset.values, {"data.instance": "x"})
        assert cfg.base.path.count("/") == 1, "a hub id, of which nothing is here"
        assert cfg.train.memory and cfg.train.memory < gib
        assert 2**30 < estimate(cfg, machine=any_gpu(cfg)).peak < cfg.train.memory * 2**30


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd1"),
        ("runwayml/stable-diffusion-v1-5", "sd1"),
        ("CompVis/stable-diffusion-v1-4", "sd1"),
        ("someone/my-sd15-anime", "sd1"),
        ("stabilityai/stable-diffusion-2-1", "sd2"),
        ("stabilityai/stable-diffusion-2-1-base", "sd2"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("someone/juggernaut", "sdxl"),
        ("segmind/SSD-1B", "sdxl"),
    ],
)
def test_a_hub_ids_name_says_its_family_until_its_index_is_here(name: str, family: str):
    found = source(Path(name))
    assert (found.kind, found.family_name, found.family.name) == ("hub", "", family)


def test_a_text_encoder_of_an_old_file_is_read(tiny: Path, tmp_path: Path):
    """Some files of the first year call its layers without ``text_model``."""
    whole = tiny / "sd1" / "file.safetensors"
    old = {key.replace("transformer.text_model.", "transformer."): value for key, value in load_file(whole).items()}
    save_file(old, tmp_path / "old.safetensors")
    parts = [
        load_part(source(path), "text_encoder", torch.float32, config=tiny / "sd1" / "folder").state_dict()
        for path in (whole, tmp_path / "old.safetensors")
    ]
    assert all(torch.equal(parts[0][key], parts[1][key]) for key in parts[0])


def test_what_a_file_does_not_say_and_what_does_not_fit_is_told(tiny: Path, tmp_path: Path):
    file = tiny / "sd2" / "file.safetensors"
    with pytest.raises(ModelError, match=r"base.prediction: must be given for .*file.safetensors: some Stable Diffu"):
        source(file)
    assert native_side(source(file, prediction="epsilon")) == 512
    assert native_side(source(file, prediction="v_prediction")) == 768
    with pytest.raises(
        ModelError, match=r"base.vae: .*scales latents by 0.13025, not by 0.18215 as Stable Diffusion 1"
    ):
        vae = tmp_path / "vae"
        vae.mkdir()
        (vae / "config.json").write_bytes((ASSETS / "sdxl" / "vae" / "config.json").read_bytes())
        (vae / "diffusion_pytorch_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
        source(tiny / "sd1" / "folder", vae=str(vae))
    state = begun(tmp_path / "run", tiny / "sd1" / "folder", adapter__text_encoders="attention")
    _, kohya, _ = state.task.export(tmp_path / "files", 0, None)
    with pytest.raises(
        AdapterError, match="is an adapter of Stable Diffusion 1 or Stable Diffusion 2, and the base is SDXL"
    ):
        load_adapter(load_pipeline(resolve(BaseModelConfig()), torch.float32), kohya, "a")


def test_train_and_generate_as_commands(tiny: Path, tmp_path: Path):
    env = os.environ | {"LOWRANK_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    base = str(tiny / "sd1" / "folder")

    def command(*words: str) -> str:
        asked = [sys.executable, "-m", "lowrank_diffusion", *words]
        done = subprocess.run(asked, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    settings = [
        f"base.path={base}",
        "data.resolution=64",
        "data.prompt=a cat",
        "sample.prompts=[]",
        "train.steps=2",
        "train.device=cpu",
        "save.every=2",
    ]
    command("train", "smoke", f"data.instance={EXAMPLES / 'subject-cat'}", *settings)
    (run,) = (path for path in (tmp_path / "runs").iterdir() if (path / "config.yaml").is_file())
    (adapter,) = run.glob("*-comfyui-forge.safetensors")
    out = tmp_path / "pictures"
    command(
        "generate",
        "a cat",
        "--adapter",
        str(adapter),
        "--base",
        base,
        "--steps",
        "2",
        "--out",
        str(out),
        "--device",
        "cpu",
    )
    assert list(out.glob("*.png"))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_changed_and_painted_over(tiny: Path, tmp_path: Path, name: str):
    begun, mask = Image.new("RGB", (64, 64), "teal"), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 40))
    for image, file in ((begun, "begun.png"), (mask, "mask.png")):
        image.save(tmp_path / file)
    base, studio = BaseModelConfig(path=str(tiny / name / "folder")), Studio()
    options: dict[str, Any] = {"base": base, "steps": 4, "device": "cpu", "start": str(tmp_path / "begun.png")}
    for sampler in ("", "DPM++ 2M Karras", "Euler a"):
        (changed,) = studio.draw(DrawRequest("a cat", **options, sampler=sampler, change=0.5))
        assert changed.image.size == (64, 64)
        (painted,) = studio.draw(DrawRequest("a cat", **options, sampler=sampler, mask=str(tmp_path / "mask.png")))
        same = (np.asarray(painted.image) == np.asarray(begun)).all(axis=-1)
        assert same[np.asarray(mask) == 0].all()
        assert not same[20:36, 20:44].all()
