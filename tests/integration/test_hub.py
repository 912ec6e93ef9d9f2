"""Hub ids against a real server with the hub's answers: what is fetched, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lowrank_diffusion import paths

from .hub_server import SHA, serving

ASK = """
import json, sys
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.image import hub
from lowrank_diffusion.image.families import FAMILIES
from lowrank_diffusion.image.source import ModelError, resolve
found = []
for base, parts in json.loads(sys.argv[1]):
    try:
        if parts is None:
            found.append(str(hub.fetch_vae(base["path"], FAMILIES["sdxl"])))
        elif parts == "family":
            found.append(hub.identify(resolve(BaseModelConfig.model_validate(base))).name)
        else:
            found.append(str(hub.fetch_pipeline(resolve(BaseModelConfig.model_validate(base)), parts)))
    except ModelError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def ask(cache: Path, *questions: tuple[dict[str, str], list[str] | str | None], **environment: str) -> list[str]:
    """What a process of its own gets for each (base, components); components None: a VAE."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(questions)],
        env=os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(paths.PROJECT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """What the hub serves: the embedded base, parts of it, and models of other kinds."""
    root = tmp_path / "served"
    shutil.copytree(paths.EMBEDDED_BASE, root / "owner" / "sdxl")
    (root / "owner" / "sdxl" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    (root / "owner" / "sdxl" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    shutil.copytree(paths.EMBEDDED_BASE / "vae", root / "owner" / "vae")
    (root / "owner" / "flux").mkdir()
    (root / "owner" / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    for name in ("sd1", "sd2"):
        (root / "owner" / name).mkdir()
        shutil.copy(paths.ASSETS / name / "model_index.json", root / "owner" / name)
        shutil.copytree(paths.ASSETS / name / "unet", root / "owner" / name / "unet")
    (root / "owner" / "file-only").mkdir()
    (root / "owner" / "file-only" / "model.safetensors").write_bytes(b"weights")
    return root


def test_only_the_files_of_the_asked_components_and_variant_are_fetched(models: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    snapshot = cache / "hub" / "models--owner--sdxl" / "snapshots" / SHA
    with serving(models) as hub:
        text, unet, vae = ask(
            cache,
            ({"path": "owner/sdxl"}, ["text_encoder", "tokenizer", "scheduler"]),
            ({"path": "owner/sdxl"}, ["unet"]),
            ({"path": "owner/vae"}, None),
            HF_ENDPOINT=hub.address,
        )
    assert text == unet == str(snapshot)
    assert vae == str(cache / "hub" / "models--owner--vae" / "snapshots" / SHA)
    fetched = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file())
    assert fetched == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    # What is cached is used without the network; what is not, is missed.
    offline = ask(
        cache,
        ({"path": "owner/sdxl"}, ["text_encoder", "unet"]),
        ({"path": "owner/sdxl"}, ["text_encoder_2"]),
        ({"path": "owner/other"}, ["unet"]),
        HF_HUB_OFFLINE="1",
    )
    away = (
        "is not in the hub's cache, and the hub cannot be reached. Check the network, or give a local folder or file."
    )
    assert offline[0] == str(snapshot)
    assert "owner/sdxl/text_encoder_2 is missing." in offline[1] or offline[1] == f"base.path: owner/sdxl {away}"
    assert offline[2] == f"base.path: owner/other {away}"


def test_every_refusal_says_what_to_do(models: Path, tmp_path: Path):
    with serving(models) as hub:
        found = ask(
            tmp_path / "cache",
            ({"path": "owner/none"}, []),
            ({"path": "owner/gated"}, []),
            ({"path": "owner/sdxl", "revision": "v9"}, []),
            ({"path": "owner/sdxl", "variant": "bf16"}, ["unet"]),
            ({"path": "owner/flux"}, ["unet"]),
            ({"path": "owner/file-only"}, []),
            ({"path": "owner/none"}, None),
            ({"path": "owner/file-only"}, None),
            HF_ENDPOINT=hub.address,
        )
        asked = hub.asked
    private = "is neither a local path nor on the hub. Check the spelling; for a private one, 'hf auth login'."
    assert found == [
        f"base.path: owner/none {private}",
        "base.path: owner/gated is gated. Accept its licence on https://huggingface.co/owner/gated, then log in once "
        "with 'hf auth login'.",
        "base.revision: owner/sdxl has no revision 'v9'. See https://huggingface.co/owner/sdxl/tree/main.",
        "base.path: owner/sdxl/unet has no diffusion_pytorch_model.bf16.safetensors. Download or copy the model again.",
        "base.path: owner/flux is of class FluxPipeline, not StableDiffusionXLPipeline or StableDiffusionPipeline. "
        "Give a plain text-to-image model of those.",
        "base.path: owner/file-only has no model_index.json. "
        "Download its .safetensors file and give that, or another id.",
        f"base.vae: owner/none {private}",
        "base.vae: owner/file-only has no config.json. Give a folder that AutoencoderKL.save_pretrained wrote.",
    ]
    assert not [path for path in asked if path.startswith("owner/flux") and not path.endswith("model_index.json")]


@pytest.mark.parametrize("name", ["sdxl", "sd1", "sd2"])
def test_a_hub_id_tells_its_family_before_any_weight_comes(models: Path, tmp_path: Path, name: str):
    with serving(models) as hub:
        assert ask(tmp_path / "cache", ({"path": f"owner/{name}"}, "family"), HF_ENDPOINT=hub.address) == [name]
        assert not [path for path in hub.asked if path.endswith(".safetensors")]
