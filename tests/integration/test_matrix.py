"""Every adapter kind on every choice of layers of a whole SDXL, in the hands of diffusers alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.full_sdxl import CELLS, TARGETS, write_all

from .conftest import python

_LOAD = """
import json, logging, pathlib, sys, warnings
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

folder = pathlib.Path(sys.argv[1])
kinds = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
models = {name: kind.from_pretrained(folder / name) for name, kind in kinds.items()}
pipe = StableDiffusionXLPipeline(vae=None, tokenizer=None, tokenizer_2=None, scheduler=None, **models)
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
for library in ("diffusers", "transformers", "peft"):
    logging.getLogger(library).addHandler(handler)

said = {}
for deltas in sorted(folder.glob("*/deltas.safetensors")):
    true = load_file(deltas)
    for file in sorted(deltas.parent.glob("*.safetensors")):
        if file == deltas:
            continue
        messages.clear()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            pipe.load_lora_weights(file, adapter_name="trained")
        found = {f"{name}.{path}": layer.get_delta_weight("trained") for name, model in models.items()
                 for path, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
        said[f"{deltas.parent.name}/{file.stem}"] = {
            "layers": len(found), "missing": sorted(true.keys() - found.keys()),
            "error": max(float((found[path] - true[path]).abs().max()) for path in found),
            "messages": [*messages, *(str(warning.message) for warning in warned)],
        }
        pipe.unload_lora_weights()
        assert not any(hasattr(layer, "lora_A") for model in models.values() for layer in model.modules())
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What diffusers made of each file."""
    folder: Path = tmp_path_factory.mktemp("matrix") / "files"
    write_all(folder)
    return python(_LOAD, str(folder))


@pytest.mark.parametrize("form", ["x-diffusers", "x-comfyui-forge"])
@pytest.mark.parametrize(("kind", "targets"), CELLS)
def test_diffusers_reads_every_layer_of_both_files(said: dict[str, dict], kind: str, targets: str, form: str):
    found = said[f"{kind}.{targets}/{form}"]
    assert found["layers"] == TARGETS[targets][1] and not found["missing"]
    assert found["error"] < 1e-5
    # diffusers says of each text encoder that a file leaves alone that it does, whatever the file.
    alone = "adapter.text_encoders" not in TARGETS[targets][0]
    assert [message.split(" found ")[0] for message in found["messages"]] == alone * [
        "No LoRA keys associated to CLIPTextModel", "No LoRA keys associated to CLIPTextModelWithProjection"
    ]  # fmt: skip
