"""Adapter files in other programs' hands: each is loaded in a clean process that has none of this project."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lowrank_diffusion import adapters
from lowrank_diffusion.export import replace
from lowrank_diffusion.paths import EMBEDDED_BASE
from tests.adapter_kinds import with_every_kind
from trainers import dreambooth
from trainers.step import Step

from .conftest import make_run, python

KINDS = with_every_kind(
    {
        "lora": {"adapter.kind": "lora", "adapter.rank": 4, "adapter.alpha": 6.0},
        "gralora": {"adapter.kind": "gralora", "adapter.rank": 8, "adapter.k": 4},
        "hybrid": {"adapter.rank": 4, "adapter.hybrid_rank": 3, "adapter.targets": "attention+feed_forward"},
        "lokr": {"adapter.kind": "lokr", "adapter.rank": 6, "adapter.factor": 4, "adapter.alpha": 24.0},
    }
)
LAYERS = dict.fromkeys(KINDS, 56) | {"hybrid": 70}
"""Of the embedded base: 7 transformer blocks with 8 attention projections, and 2 feed-forward layers each."""

_LOAD = """
import json, sys, torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file

base, diffusers_file, kohya_file, peft_folder, inputs = sys.argv[1:]
x = {name: tensor.clone() for name, tensor in load_file(inputs).items()}  # into aligned memory


def load(file):
    if file == peft_folder:
        return PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(base, subfolder="unet"), file)
    pipe = StableDiffusionXLPipeline.from_pretrained(base)
    pipe.load_lora_weights(file)
    return pipe.unet


def difference(unet, dtype, expected):
    t = {name: x[name].to(dtype) for name in ("sample", "tokens", "pooled", "time_ids")}
    conditions = {"text_embeds": t["pooled"], "time_ids": t["time_ids"]}
    with torch.no_grad():
        out = unet.to(dtype)(t["sample"], x["timestep"], t["tokens"], added_cond_kwargs=conditions).sample
    return float((out - x[expected]).abs().max())


said = {}
for form, file in (("diffusers", diffusers_file), ("kohya", kohya_file), ("peft", peft_folder)):
    unet = load(file)
    said[form] = {"modules": sum(hasattr(m, "base_layer") and hasattr(m, "scaling") for m in unet.modules()),
                  "float32": difference(unet, torch.float32, "adapted"),
                  "float64": difference(unet, torch.float64, "adapted64")}
said |= {"scale": float(x["adapted"].abs().max()),
         "effect": float((x["adapted"] - x["base"]).abs().max()),
         "rounding": float((x["adapted"] - x["adapted64"]).abs().max())}
print(json.dumps(said))
"""


@pytest.fixture(scope="module", params=KINDS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path
) -> tuple[str, list[Path], Path]:
    """A trained adapter, its files, and what the training process's own UNet says with and without it."""
    os.environ["LOWRANK_HOME"] = str(shared_cache)
    kind = request.param
    settings = {key.replace(".", "__"): value for key, value in KINDS[kind].items()}
    run = make_run("mine", tmp_path_factory.mktemp(kind), data__trigger="sks", flat__sigma=0.05, **settings)
    cpu = torch.device("cpu")
    task = dreambooth.DreamBooth(run, run.config(), cpu, torch.float32, lambda *_: None)
    assert len(task.layers) == LAYERS[kind]
    state = Step(task, run.config(), cpu, torch.float32)
    for step in range(6):
        state(step)
    batch = task.batch(1000, 0)
    inputs = {
        "sample": task.objective.noised(batch.latents, batch.noise, batch.timesteps),
        "tokens": batch.tokens, "pooled": batch.pooled, "time_ids": batch.framing,
    }  # fmt: skip

    def say(dtype: torch.dtype) -> torch.Tensor:
        t = {name: tensor.to(dtype) for name, tensor in inputs.items()}
        conditions = {"text_embeds": t["pooled"], "time_ids": t["time_ids"]}
        return task.model.to(dtype)(t["sample"], batch.timesteps, t["tokens"], added_cond_kwargs=conditions).sample

    with state.evaluating():
        paths = task.export(run.path, 6, None)
        outputs = {"adapted": say(torch.float32)}
        with adapters.disabled(task.model):
            outputs["base"] = say(torch.float32)
        outputs["adapted64"] = say(torch.float64)
    tensors = inputs | outputs | {"timestep": batch.timesteps}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, run.path / "inputs.safetensors")
    return kind, paths, run.path / "inputs.safetensors"


def test_a_clean_process_with_the_files_says_what_the_training_process_said(exported: tuple[str, list[Path], Path]):
    """In float64 the files are exact. In float32 the native form repeats every bit; the plain pairs of GraLoRA add the
    same numbers in another order, which the UNet's own rounding (``rounding``) turns into some 1e-6 of its output."""
    kind, paths, inputs = exported
    said = python(_LOAD, str(EMBEDDED_BASE), *map(str, paths), str(inputs))
    print(kind, said)
    assert said["effect"] > 0.01
    for form in ("diffusers", "kohya", "peft"):
        assert said[form]["modules"] == LAYERS[kind]
        assert said[form]["float64"] <= 1e-8, form  # B times alpha / rank is rounded to float32
        assert said[form]["float32"] <= 1e-5, form
    # LoKr trains by products of its factors, and PEFT's layer makes the update first.
    assert kind == "lokr" or said["peft"]["float32"] == 0


def test_kohya_file_is_uniform_and_complete(exported: tuple[str, list[Path], Path]):
    kind, paths, _ = exported
    tensors = load_file(paths[1])
    ranks = {t.shape[0] for key, t in tensors.items() if key.endswith("lora_down.weight")}
    alphas = {float(t) for key, t in tensors.items() if key.endswith(".alpha")}
    assert len(ranks) == 1 and alphas == {float(ranks.pop())}
    assert all(key.startswith("lora_unet_") and "." not in key.split(".lora_")[0].split(".alpha")[0] for key in tensors)
    assert len([key for key in tensors if key.endswith(".alpha")]) == LAYERS[kind]


def test_headers_say_where_the_adapter_comes_from(exported: tuple[str, list[Path], Path]):
    _, paths, _ = exported
    for path in (*paths[:2], paths[2] / "adapter_model.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        assert metadata["modelspec.sai_model_spec"] == "1.0.1"
        assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert metadata["modelspec.trigger_phrase"] == "sks" and metadata["modelspec.prediction_type"] == "v"
        for key in ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha"):
            assert metadata[key]
        assert '"adapter.kind"' in metadata["lowrank_diffusion.settings"]
    with safe_open(paths[1], framework="pt") as file:
        metadata = file.metadata()
    content = paths[1].read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert "lora_adapter_metadata" not in metadata
    assert metadata["sshs_model_hash"] == hashlib.sha256(tensors).hexdigest(), "which A1111 reads, or makes itself"


def test_export_leaves_the_old_files_where_writing_fails(exported: tuple[str, list[Path], Path], monkeypatch):
    _, paths, _ = exported
    before = paths[0].read_bytes()

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        replace(paths[0], fail)
    assert paths[0].read_bytes() == before
    assert not list(paths[0].parent.glob("*.partial"))
