"""Every way in which a base model can be wrong has a message that says what it is and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lowrank_diffusion import paths
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.image import source
from lowrank_diffusion.image.source import ModelError, fingerprint, resolve

WHOLE = {
    "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight": (2, 2),
    "model.diffusion_model.label_emb.0.0.weight": (2, 2),
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (2, 2),
    "conditioner.embedders.1.model.positional_embedding": (2, 2),
    "first_stage_model.decoder.conv_in.weight": (2, 2),
}


def weights(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> Path:
    """A sound safetensors file of zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.zeros(shape, np.float16) for name, shape in (shapes or {"w": (2,)}).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A diffusers folder that passes every check, with next to no weights."""
    root = tmp_path / "my-sdxl"
    shutil.copytree((paths.ASSETS / "sdxl"), root)
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        weights(root / part / f"{name}.safetensors")
    for part in ("text_encoder", "text_encoder_2"):
        weights(root / part / "model.safetensors")
    return root


def problems(path: Path | str, **options: str) -> list[str]:
    """The lines of the error that this base gives."""
    with pytest.raises(ModelError) as caught:
        resolve(BaseModelConfig.model_validate({"path": str(path), **options}))
    assert len(caught.value.problems) == len(str(caught.value).splitlines())
    return str(caught.value).splitlines()


def edit(path: Path, **changes: object) -> None:
    """Change a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What is accepted


def test_the_embedded_base_is_a_sound_model():
    found = resolve(BaseModelConfig())
    assert (found.kind, found.label, found.path) == ("folder", "embedded", str(paths.EMBEDDED_BASE))


def test_a_folder_a_file_and_a_hub_id_are_told_apart(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = weights(tmp_path / "juggernaut xl.v9.safetensors", WHOLE)
    assert resolve(BaseModelConfig(path=str(folder))) == source.Source(
        "folder", str(folder), "my-sdxl", family_name="sdxl"
    )
    wanted = source.Source("file", str(file), "juggernaut xl.v9", family_name="sdxl")
    assert resolve(BaseModelConfig(path=str(file))) == wanted
    hub = resolve(BaseModelConfig(path="owner/name-1.0", revision="main", variant="fp16", prediction="v_prediction"))
    assert hub == source.Source("hub", "owner/name-1.0", "owner/name-1.0", "main", "fp16", "v_prediction")
    (tmp_path / "owner").mkdir()
    shutil.copytree(folder, tmp_path / "owner" / "name-1.0")
    monkeypatch.chdir(tmp_path)
    assert resolve(BaseModelConfig(path="owner/name-1.0")).kind == "folder"  # what exists wins
    assert resolve(BaseModelConfig(path="my-sdxl")).path == str(folder)


def test_a_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve(BaseModelConfig(path="~/my-sdxl")).path == str(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_are_found(folder: Path, variant: str | None):
    middle = f".{variant}" if variant else ""
    names = [f"diffusion_pytorch_model{middle}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for name in names:
        weights(folder / "unet" / name)
    index = folder / "unet" / f"diffusion_pytorch_model.safetensors.index{middle}.json"
    index.write_text(json.dumps({"weight_map": {"a": names[0], "b": names[1]}}))
    if variant:
        for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model"), ("text_encoder_2", "model")):
            (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.{variant}.safetensors")
    assert resolve(BaseModelConfig(path=str(folder), variant=variant)).variant == variant
    (folder / "unet" / names[1]).unlink()
    assert problems(folder, **({"variant": variant} if variant else {})) == [
        f"base.path: {folder}/unet/{names[1]} is missing; {index.name} names it. Download it again."
    ]


def test_looking_at_a_model_imports_no_torch(folder: Path):
    code = (
        "import sys\nfrom lowrank_diffusion.config import BaseModelConfig\n"
        "from lowrank_diffusion.image.source import fingerprint, resolve\n"
        f"fingerprint(resolve(BaseModelConfig(path={str(folder)!r})))\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.PROJECT)
    assert done.stdout.strip() == "[]"


# Names that lead nowhere


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sdxl", "'sdxl' is neither a path that exists nor a hub id. Give 'embedded', a diffusers folder, one .safet"),
        ("x" * 5000, f"'{'x' * 80}' is not a path that can be read: File name too long. Give 'embedded'"),
        ("~nobody-of-this-name/x", "'~nobody-of-this-name/x' is not a path that can be read: Could not determine home"),
        ("own er/name", "'own er/name' is neither a path that exists nor a hub id. Give 'embedded'"),
        ("-owner/name", "'-owner/name' is neither a path that exists nor a hub id."),
        ("owner/na--me", "'owner/na--me' is neither a path that exists nor a hub id."),
        ("/no/such/folder", "'/no/such/folder' does not exist. Check the spelling."),
        ("./owner/name", f"'./owner/name' does not exist in {os.getcwd()}. Check the spelling."),
        ("a/b/c", f"'a/b/c' does not exist in {os.getcwd()}. Check the spelling."),
        ("models/my.safetensors", f"'models/my.safetensors' does not exist in {os.getcwd()}. Check the spelling."),
        ("https://huggingface.co/owner/name/tree/main", "is a web address. Give the hub id: owner/name"),
    ],
)
def test_a_name_that_leads_nowhere(name: str, message: str):
    (line,) = problems(name)
    assert line.startswith("base.path: ")
    assert message in line


# Folders


def test_folders_that_are_no_pipeline(tmp_path: Path):
    root = tmp_path / "x"
    root.mkdir()
    start = f"base.path: {root} "
    assert problems(root) == [start + "is empty. Give a diffusers folder or a .safetensors file."]
    (root / "notes.txt").write_text("hello")
    assert problems(root)[0].startswith(
        start + "has no model_index.json. Give a folder that save_pretrained of StableDiffusionXLPipe"
    )
    (root / "model.ckpt").write_bytes(b"x")
    assert problems(root)[0].startswith(start + "holds only pickle checkpoints (model.ckpt), which could run any code.")
    weights(root / "a.safetensors")
    assert problems(root) == [start + f"is not a diffusers folder. Give the file in it: {root}/a.safetensors"]
    weights(root / "b.safetensors")
    assert problems(root) == [start + "holds 2 .safetensors files (a.safetensors, b.safetensors). Give one of them."]
    (root / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert problems(root)[0].startswith(start + "is one component (UNet2DConditionModel), not a whole pipeline. Give")
    (root / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert "is one component (LlamaForCausalLM), not a whole pipeline." in problems(root)[0]
    (root / "config.json").write_text("not JSON")
    assert "has no model_index.json, and its config.json is not valid JSON." in problems(root)[0]
    (root / "snapshots").mkdir()
    assert "is an entry of the hub's cache. Give the hub id, or the folder inside its snapshots." in problems(root)[0]
    (root / "adapter_config.json").write_text("{}")
    assert problems(root) == [
        start + "holds an adapter, not a base model. Give it in the adapter field, and its base here."
    ]


def test_a_pipeline_of_another_class_is_named(folder: Path):
    for kind in ("FluxPipeline", "StableDiffusionXLInpaintPipeline"):
        edit(folder / "model_index.json", _class_name=kind)
        assert problems(folder) == [
            f"base.path: {folder} is of class {kind}, not StableDiffusionXLPipeline or StableDiffusionPipeline. "
            "Give a plain text-to-image model of those."
        ]
    (folder / "model_index.json").write_text("{")
    assert problems(folder) == [f"base.path: {folder}/model_index.json is not valid JSON. Download it again."]
    (folder / "model_index.json").write_text("[]")
    assert problems(folder)[0].endswith("model_index.json does not hold a JSON object. Download it again.")


def test_everything_that_is_wrong_with_a_folder_comes_at_once(folder: Path):
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer_2" / "merges.txt").unlink()
    (folder / "scheduler" / "scheduler_config.json").unlink()
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "pytorch_model.bin")
    (folder / "text_encoder_2" / "config.json").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    edit(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    again = "Download or copy the model again."
    assert problems(folder, revision="main") == [
        "base.revision: belongs to a hub id; my-sdxl is a local folder. Leave it empty.",
        f"base.path: {folder}/scheduler/scheduler_config.json is missing. {again}",
        f"base.path: {folder}/text_encoder/pytorch_model.bin is a pickle, which could run any code: refused. "
        "Save the model again in diffusers with save_pretrained(folder, safe_serialization=True).",
        f"base.path: {folder}/text_encoder_2/config.json does not exist. Check the path; "
        f"a link may point to something that has gone. {again}",
        f"base.path: {folder}/tokenizer is missing. {again}",
        f"base.path: {folder}/tokenizer_2/merges.txt is missing. {again}",
        f"base.path: {folder}/unet has no diffusion_pytorch_model.safetensors. {again}",
        f"base.path: {folder}/vae is of class AutoencoderTiny, not AutoencoderKL. Give a plain SDXL.",
    ]


def test_a_component_that_the_index_lacks_or_names_code_for(folder: Path):
    edit(folder / "model_index.json", text_encoder_2=[None, None], unet=["my_unet", "MyUNet"])
    assert problems(folder) == [
        f"base.path: {folder} has no text_encoder_2 in its model_index.json. Give a complete SDXL.",
        f"base.path: {folder}/unet is of class MyUNet, not UNet2DConditionModel. Give a plain SDXL.",
    ]


def test_components_of_another_architecture(folder: Path):
    edit(folder / "unet" / "config.json", in_channels=9)
    edit(folder / "vae" / "config.json", latent_channels=16)
    edit(folder / "text_encoder" / "config.json", architectures=["T5EncoderModel"])
    assert problems(folder) == [
        f"base.path: {folder}/text_encoder is of class T5EncoderModel, not CLIPTextModel. Give a plain SDXL's.",
        f"base.path: {folder}/unet is not the UNet of a text-to-image SDXL "
        "(in_channels=9, addition_embed_type=text_time). Give a plain SDXL.",
        f"base.path: {folder}/vae makes 16 latent channels, SDXL has 4. Give an SDXL VAE.",
    ]


def test_variants_that_are_not_there(folder: Path):
    rule = "has no diffusion_pytorch_model.fp16.safetensors, only weights without a variant."
    found = problems(folder, variant="fp16")
    assert f"base.variant: {folder}/unet {rule} Leave base.variant empty." in found
    assert len(found) == 4
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    )
    assert problems(folder) == [
        f"base.variant: {folder}/vae has no diffusion_pytorch_model.safetensors, only the variant fp16. "
        "Set base.variant=fp16."
    ]
    assert problems(folder, variant="../fp16") == ["base.variant: must be a word such as fp16, got '../fp16'."]


def test_an_index_that_leads_out_of_its_folder(folder: Path):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    assert problems(folder) == [
        f"base.path: {index} names '../../secret.safetensors', which is not a .safetensors file beside it. "
        "Download or copy the model again."
    ]
    index.write_text("[]")
    assert problems(folder) == [f"base.path: {index} is not an index of weights. Download or copy the model again."]


def test_truncated_weights_in_a_folder(folder: Path):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert problems(folder) == [
        f"base.path: {path} is truncated: 3 of 4 bytes of weights are there. Download or copy it again."
    ]


def test_a_folder_may_lack_the_vae_that_another_replaces(folder: Path, tmp_path: Path):
    other = tmp_path / "vae"
    shutil.move(folder / "vae", other)
    assert problems(folder) == [f"base.path: {folder}/vae is missing. Download or copy the model again."]
    assert resolve(BaseModelConfig(path=str(folder), vae=str(other))).kind == "folder"


# Files


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
def test_pickles_are_refused(tmp_path: Path, suffix: str):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"PK\x03\x04")
    assert problems(path) == [
        f"base.path: {path} is a pickle checkpoint; loading it could run any code in it, so it is refused. "
        "Take the .safetensors of the same model, or convert it where you trust it."
    ]


def test_other_files_are_refused(tmp_path: Path, folder: Path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    assert "is a GGUF file, which is not supported. Give the .safetensors" in problems(tmp_path / "model.gguf")[0]
    assert "cat.png is not a model file. Give 'embedded', a diffusers folder" in problems(tmp_path / "cat.png")[0]
    assert problems(folder / "model_index.json") == [
        f"base.path: {folder}/model_index.json is the index of a diffusers folder. Give the folder: {folder}"
    ]


SDXL = "Give a complete SDXL or Stable Diffusion checkpoint, a diffusers folder or a hub id."
FIELD = "It goes in the adapter field; give the base model that it was trained on here."


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["lora_unet_down_blocks_1.lora_down.weight"],
            f"is an adapter (LoRA or a relative), not a base model. {FIELD}",
        ),
        (["unet.down_blocks.1.to_q.lora_A.weight"], f"is an adapter (LoRA or a relative), not a base model. {FIELD}"),
        (
            ["base_model.model.down_blocks.1.gralora_A"],
            f"is an adapter (LoRA or a relative), not a base model. {FIELD}",
        ),
        (["lycoris_x.hada_w1_a"], f"is an adapter (LoRA or a relative), not a base model. {FIELD}"),
        (["control_model.input_hint_block.0.weight"], f"is a ControlNet. {SDXL}"),
        (["clip_l", "clip_g"], f"is a textual inversion embedding. {SDXL}"),
        (
            ["model.diffusion_model.out.0.bias", "conditioner.embedders.0.model.ln_final.bias"],
            f"is an SDXL refiner, which cannot start a picture. {SDXL}",
        ),
        (
            ["model.diffusion_model.out.0.bias", "cond_stage_model.transformer.text_model.x"],
            "is a Stable Diffusion 1 checkpoint without its VAE. Give a complete one",
        ),
        (["cond_stage_model.model.ln_final.bias"], f"is a text encoder alone. {SDXL}"),
        (["model.diffusion_model.joint_blocks.0.x"], f"is a Stable Diffusion 3 model, which is not supported. {SDXL}"),
        (["double_blocks.0.img_attn.norm.key_norm.scale"], f"is a Flux model, which is not supported. {SDXL}"),
        (["model.diffusion_model.label_emb.0.0.bias"], f"is the UNet of an SDXL alone, without text encoders. {SDXL}"),
        (["model.diffusion_model.out.0.bias"], f"is a UNet alone, without text encoders. {SDXL}"),
        (["down_blocks.0.x", "add_embedding.linear_1.bias"], "is the UNet of an SDXL alone, in diffusers' layout."),
        (["down_blocks.0.x", "conv_in.bias"], "is a UNet alone, in diffusers' layout."),
        (["encoder.conv_in.bias", "decoder.conv_in.bias"], f"is a VAE alone. {SDXL}"),
        (["text_model.embeddings.token_embedding.weight"], f"is a text encoder alone. {SDXL}"),
        (["model.layers.0.mlp.up_proj.weight"], f"is a language model. {SDXL}"),
        (["b", "a", "d", "c"], f"is an unknown model (first tensors: a, b, c). {SDXL}"),
    ],
)
def test_tensors_of_something_else_are_named(tmp_path: Path, names: list[str], message: str):
    path = weights(tmp_path / "x.safetensors", dict.fromkeys(names, (1,)))
    (line,) = problems(path)
    assert line.startswith(f"base.path: {path} {message}")


def test_an_incomplete_or_altered_sdxl_says_all_that_is_wrong(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    kept = {name: shape for name, shape in WHOLE.items() if "first_stage" not in name and "embedders.1" not in name}
    del kept["model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight"]
    weights(path, kept | {"model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3), "edm_mean": (1,)})
    assert problems(path, revision="main", variant="fp16") == [
        "base.revision: belongs to a hub id; x is a local file. Leave it empty.",
        "base.variant: belongs to a folder or a hub id, not to one file. Leave it empty.",
        f"base.path: {path} is an SDXL checkpoint without its second text encoder. "
        "Give a complete one, or a diffusers folder.",
        f"base.path: {path} is an SDXL checkpoint without its VAE. Give a complete one, or a diffusers folder.",
        f"base.path: {path} is an SDXL inpainting model (9 input channels, not 4). Give a text-to-image SDXL.",
        f"base.path: {path} is a Playground v2.5 checkpoint (EDM noise), which is not supported. Give a plain SDXL.",
        f"base.path: {path} is a reduced SDXL (such as SSD-1B), whose layers a single file does not tell. "
        "Give its diffusers folder.",
    ]


def test_a_file_may_lack_the_vae_that_another_replaces(tmp_path: Path):
    path = weights(tmp_path / "x.safetensors", {n: s for n, s in WHOLE.items() if "first_stage" not in n})
    assert "without its VAE" in problems(path)[0]
    assert resolve(BaseModelConfig(path=str(path), vae="owner/vae")).kind == "file"


def test_a_component_picked_out_of_a_folder_points_to_the_folder(folder: Path):
    path = weights(folder / "unet" / "diffusion_pytorch_model.safetensors", {"add_embedding.linear_1.bias": (1,)})
    assert problems(path)[0].endswith(f"in diffusers' layout. Give the folder around it: {folder}")


def test_broken_files(tmp_path: Path):
    path = weights(tmp_path / "x.safetensors", WHOLE)
    sound = path.read_bytes()
    header = 8 + int.from_bytes(sound[:8], "little")
    again = "Download or copy it again."
    cases = {
        b"": f"is empty. {again}",
        sound[
            :-1
        ]: f"is truncated: {len(sound) - header - 1} of {len(sound) - header} bytes of weights are there. {again}",
        sound[:100]: f"is truncated: 100 bytes are there, its header alone is longer. {again}",
        sound + b"xy": "is corrupt: 2 bytes follow its last weight. Download it again.",
        sound[:8] + b"{" + b"?" * (header - 9): "is corrupt: its header is not that of a safetensors file. Download",
        sound[:8] + b'{"a":{"shape":1}}'.ljust(header): "is corrupt: its header is not that of a safetensors file.",
        b"noise" * 9: "is not a safetensors file, or is corrupt from its first byte. Download it again.",
        b"abc": "is not a safetensors file, or is corrupt from its first byte. Download it again.",
        b"PK\x03\x04" + bytes(99): "is a pickle checkpoint under another name; loading it could run any code.",
        b"\x80\x02}q" + bytes(99): "is a pickle checkpoint under another name; loading it could run any code.",
        b"GGUF" + bytes(99): "is a GGUF file under another name, which is not supported. Give a .safetensors file.",
        b"<!DOCTYPE html><html>": "is a web page saved under this name. Download the file itself.",
        b"version https://git-lfs.github.com/spec/v1\noid": "is a Git LFS pointer, not the weights. Run 'git lfs pull'",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        (line,) = problems(path)
        assert line.startswith(f"base.path: {path} {message}"), content[:20]


# Another VAE


def test_the_vae_option(folder: Path, tmp_path: Path):
    base = {"path": str(folder)}
    for vae in (str(folder / "vae"), "owner/vae"):
        assert resolve(BaseModelConfig.model_validate(base | {"vae": vae})).kind == "folder"
    file = weights(tmp_path / "v.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    half = tmp_path / "half"
    shutil.copytree(folder / "vae", half)
    (half / "diffusion_pytorch_model.safetensors").rename(half / "diffusion_pytorch_model.fp16.safetensors")
    expected = {
        str(file): f"base.vae: {file} is an unknown model (first tensors: w), not a VAE. Give the VAE of",
        str(folder): f"base.vae: {folder} is a whole pipeline. Give the VAE alone, such as {folder}/vae.",
        str(empty): f"base.vae: {empty} has no config.json. Give a folder that AutoencoderKL.save_pretrained wrote.",
        str(
            folder / "unet"
        ): f"base.vae: {folder}/unet is of class UNet2DConditionModel, not AutoencoderKL. Give a plain",
        str(half): f"base.vae: {half} has no diffusion_pytorch_model.safetensors, only the variant fp16. Rename the",
        "/no/vae": "base.vae: '/no/vae' does not exist. Check the spelling.",
        "embedded": "base.vae: 'embedded' is neither a path that exists nor a hub id.",
    }
    for vae, message in expected.items():
        assert problems(folder, vae=vae)[0].startswith(message)
    both = problems("/no/model", vae="/no/vae")
    assert [line.split(":")[0] for line in both] == ["base.path", "base.vae"]


VAE = {
    "encoder.conv_in.weight": (8, 3, 3, 3),
    "decoder.conv_in.weight": (8, 4, 3, 3),
    "encoder.down.0.block.0.conv1.weight": (8, 8, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
    "post_quant_conv.weight": (4, 4, 1, 1),
}


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_vae_in_one_file(folder: Path, tmp_path: Path, prefix: str):
    file = weights(tmp_path / "v.SAFETENSORS", {prefix + name: shape for name, shape in VAE.items()})
    found = resolve(BaseModelConfig(path=str(folder), vae=str(file)))
    before = fingerprint(found, str(file))
    assert before == fingerprint(found, str(file)) != fingerprint(found)
    os.utime(file, ns=(1, 1))
    assert fingerprint(found, str(file)) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder.conv_in.weight": (8, 16, 3, 3)}, "makes 16 latent channels (as those of Flux and Stable"),
        ({"decoder.conv_in.weight": (8, 8, 3, 3)}, "makes 8 latent channels, SDXL has 4."),
        ({"decoder.conv_in.weight": (8, 4, 3, 3, 3)}, "is a VAE of videos."),
        ({"decoder.layers.0.weight": (8, 4, 3, 3)}, "is a TAESD"),
        ({"taesd_decoder.1.weight": (8, 4, 3, 3)}, "is a TAESD"),
        ({"encoder.conv_in.weight": None}, "is a VAE without its encoder."),
        ({"decoder.conv_in.weight": None}, "is a VAE without its decoder."),
        ({"model.diffusion_model.out.0.bias": (1,)}, "is a whole checkpoint."),
        ({"lora_unet_x.lora_down.weight": (1, 1)}, "has 1 tensors that are not part of a VAE, such as lora_unet_x"),
    ],
)
def test_a_file_that_is_no_vae_of_sdxl_is_named(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str):
    shapes = {name: shape for name, shape in (VAE | changes).items() if shape}
    file = weights(tmp_path / "v.safetensors", shapes)
    assert f"base.vae: {file} {message}" in problems(folder, vae=str(file))[0]


def test_a_vae_that_says_it_is_of_another_family(folder: Path, tmp_path: Path):
    file = tmp_path / "v.safetensors"
    save_file({n: np.zeros(s, "f2") for n, s in VAE.items()}, file, {"modelspec.architecture": "stable-diffusion-v1"})
    assert "says that it is of stable-diffusion-v1, not of SDXL." in problems(folder, vae=str(file))[0]
    pickle = tmp_path / "v.pt"
    pickle.write_bytes(b"PK")
    assert "is a pickle" in problems(folder, vae=str(pickle))[0]
    edit(folder / "vae" / "config.json", scaling_factor=0.18215)
    assert "scales latents by 0.18215, as Stable Diffusion 1" in problems(folder, vae=str(folder / "vae"))[0]


# Noise


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "EDMEulerScheduler"},
        {"_class_name": "EDMDPMSolverMultistepScheduler"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
        {"_class_name": "IPNDMScheduler"},
        {"_class_name": "CosineDPMSolverMultistepScheduler"},
        {"_class_name": "utils"},
        {"prediction_type": "sample"},
        {"prediction_type": "flow_prediction"},
        {"use_flow_sigmas": True},
        {"timestep_type": "continuous"},
        {"sigma_data": 0.5},
    ],
)
def test_noise_that_is_not_ddpms_is_refused_by_name(folder: Path, changes: dict[str, Any]):
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    (line,) = problems(folder)
    assert line.startswith(f"base.path: {folder}/scheduler/scheduler_config.json: the scheduler ")
    assert (str(next(iter(changes.values()))) in line or "sigma_data" in line) and "not DDPM's noise" in line


def test_the_index_counts_as_well(folder: Path):
    edit(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    assert "is EDMEulerScheduler, not DDPM's noise" in problems(folder)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "LCMScheduler"},
        {"_class_name": "TCDScheduler"},
        {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
        {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": False, "flow_shift": 1.0},
        {"timestep_type": "discrete", "use_karras_sigmas": True},
    ],
)
def test_ways_to_draw_from_the_same_noise_are_taken(folder: Path, changes: dict[str, Any]):
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    assert resolve(BaseModelConfig(path=str(folder))).kind == "folder"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("edm_vpred.sigma_max", "CosXL"),
        ("edm_std", "Playground"),
        ("edm_vpred.sigma_min", "CosXL"),
        ("edm_mean", "Playground"),
        ("model.diffusion_model.scaled_fp8", "scaled fp8"),
        ("scaled_fp8", "scaled fp8"),
        ("model.diffusion_model.out.2.scale_weight", "scaled fp8"),
        ("model.diffusion_model.out.2.weight_scale", "scaled fp8"),
        ("conditioner.embedders.0.transformer.x.comfy_quant", "scaled fp8"),
        ("model.diffusion_model.out.2.weight.absmax", "nf4"),
        ("model.diffusion_model.out.2.weight.quant_state.bitsandbytes__nf4", "nf4"),
        ("model.diffusion_model.out.2.SCB", "int8"),
    ],
)
def test_the_same_of_a_single_file(tmp_path: Path, name: str, word: str):
    assert word in problems(weights(tmp_path / "x.safetensors", WHOLE | {name: (1,)}))[0]


@pytest.mark.parametrize("said", ["flow", "sample", "edm", "v2"])
def test_a_file_that_says_it_predicts_something_else(tmp_path: Path, said: str):
    tensors = {name: np.zeros(shape, np.float16) for name, shape in WHOLE.items()}
    save_file(tensors, tmp_path / "x.safetensors", {"modelspec.prediction_type": said})
    assert f"says that it predicts '{said}', not epsilon or v_prediction" in problems(tmp_path / "x.safetensors")[0]
    assert len(problems(tmp_path / "x.safetensors", prediction="epsilon")) == 1, "which changes nothing about its noise"


@pytest.mark.parametrize("said", ["epsilon", "eps", "v", "v_prediction", ""])
def test_a_file_that_says_what_it_predicts(tmp_path: Path, said: str):
    tensors = {name: np.zeros(shape, np.float16) for name, shape in WHOLE.items()}
    save_file(tensors, tmp_path / "x.safetensors", {"modelspec.prediction_type": said})
    assert resolve(BaseModelConfig(path=str(tmp_path / "x.safetensors"))).kind == "file"


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(9, "SDXL inpainting model (9"), (8, "SDXL instruct-pix2pix model (8"), (5, "depth-to-image model (5")],
)
def test_a_file_of_other_inputs_is_named(tmp_path: Path, channels: int, kind: str):
    """CosXL Edit has eight, and says nothing else of itself that plain CosXL does not."""
    shapes = WHOLE | {"model.diffusion_model.input_blocks.0.0.weight": (8, channels, 3, 3)}
    (line,) = problems(weights(tmp_path / "x.safetensors", shapes))
    assert kind in line


@pytest.mark.parametrize("part", ["unet", "text_encoder_2", "vae"])
def test_quantised_weights_of_a_folder_are_refused(folder: Path, part: str):
    (file,) = (folder / part).glob("*.safetensors")
    weights(file, {"w": (2,), "w.scale_weight": (1,)})
    (line,) = problems(folder)
    assert line.startswith(f"base.path: {file} is quantised (such as scaled fp8")
    weights(file)
    edit(folder / part / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    (line,) = problems(folder)
    assert "has a quantization_config: its weights are quantised already" in line


def test_a_quantised_vae_is_refused(folder: Path, tmp_path: Path):
    file = weights(tmp_path / "v.safetensors", VAE | {"decoder.conv_in.scale_weight": (1,)})
    (line,) = problems(folder, vae=str(file))
    assert line.startswith(f"base.vae: {file} is quantised")


# Fingerprints


def test_a_fingerprint_follows_the_content_and_not_the_place(folder: Path, tmp_path: Path):
    def key(path: Path | str, **options: str) -> str:
        return fingerprint(resolve(BaseModelConfig.model_validate({"path": str(path), **options})))

    first = key(folder)
    assert first == key(folder) == key(folder, prediction="v_prediction")
    assert len(first) == 16
    moved = folder.rename(tmp_path / "moved")
    assert key(moved) == first
    edit(moved / "unet" / "config.json", sample_size=64)
    second = key(moved)
    os.utime(moved / "unet" / "diffusion_pytorch_model.safetensors", ns=(1, 1))
    assert len({first, second, key(moved)}) == 3
    file = weights(tmp_path / "x.safetensors", WHOLE)
    before = key(file)
    assert before == key(file)
    os.utime(file, ns=(1, 1))
    assert key(file) != before
    hub = [key("owner/a"), key("owner/b"), key("owner/a", revision="x"), key("owner/a", variant="fp16")]
    assert len(set(hub)) == 4


def test_a_fingerprint_counts_another_vae_where_asked(folder: Path):
    found = resolve(BaseModelConfig(path=str(folder)))
    vae = str(folder / "vae")
    assert len({fingerprint(found), fingerprint(found, vae), fingerprint(found, "owner/vae")}) == 3
