"""Captions by models of transformers: what ours says is what the model itself says, of three ways of asking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from lowrank_diffusion.bases import ModelError
from lowrank_diffusion.cli import main
from lowrank_diffusion.errors import DataError
from lowrank_diffusion.image import captioner, sets
from lowrank_diffusion.image.captioner import Captioner
from lowrank_diffusion.image.data import checked
from lowrank_diffusion.image.pictures import open_picture
from lowrank_diffusion.paths import EXAMPLES

CPU = torch.device("cpu")
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of dog cat red ball on the chair user assistant <image>".split()
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SEEN = {"image_size": 32, "patch_size": 16}
TEXT = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
CHAT = "{% for m in messages %}{{ m.role }} <image> {{ m.content[1].text }}{% endfor %} assistant"


def tokenizer(folder: Path) -> Any:
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    return BertTokenizer(str(vocabulary), extra_special_tokens={"image_token": "<image>"})


def eyes(folder: Path, kind: str) -> Any:
    """The processor for pictures, by its configuration."""
    facts = {
        "image_processor_type": kind,
        "size": {"height": 32, "width": 32},
        "crop_size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def blip(folder: Path) -> None:
    config = BlipConfig(
        text_config=SIZES | TEXT | {"encoder_hidden_size": 16, "projection_dim": 16},
        vision_config=SIZES | SEEN, projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(eyes(folder, "BlipImageProcessor"), tokenizer(folder)).save_pretrained(folder)


def git(folder: Path) -> None:
    config = GitConfig(vision_config=SIZES | SEEN, **SIZES, **TEXT)
    GitForCausalLM(config).save_pretrained(folder)
    GitProcessor(eyes(folder, "CLIPImageProcessor"), tokenizer(folder)).save_pretrained(folder)


def llava(folder: Path) -> None:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZES, **SEEN, projection_dim=16), text_config=LlamaConfig(**SIZES, **TEXT),
        image_token_index=WORDS.index("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        eyes(folder, "CLIPImageProcessor"), tokenizer(folder), patch_size=16, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=CHAT, image_token="<image>",
    ).save_pretrained(folder)  # fmt: skip


MODELS = {"blip": blip, "git": git, "llava": llava}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models with their processors."""
    folders = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, make in MODELS.items():
        torch.manual_seed(3)
        make(folders[name])
    return folders


PICTURES = sorted((EXAMPLES / "subject-cat").glob("*.png"))[:3]


@pytest.mark.parametrize("name", MODELS)
def test_captions_are_what_the_model_says(models: dict[str, Path], name: str):
    ours = Captioner(str(models[name]), CPU)
    assert ours.chats == (name == "llava") and ours.kind == name
    seen: list[tuple[int, int]] = []
    captions = list(ours.caption(PICTURES, tokens=5, progress=lambda done, total: seen.append((done, total))))
    assert [path for path, _ in captions] == PICTURES and seen == [(1, 3), (2, 3), (3, 3)]
    assert captions == list(ours.caption(PICTURES, tokens=5)), "the same every time"
    model: Any = {"blip": BlipForConditionalGeneration, "git": GitForCausalLM, "llava": LlavaForConditionalGeneration}
    theirs = model[name].from_pretrained(models[name]).eval()
    for path, caption in captions:
        asked = {"text": f"user <image> {captioner.QUESTION} assistant"} if ours.chats else {}
        inputs = ours._processor(images=open_picture(path), return_tensors="pt", **asked)
        ids = theirs.generate(**inputs, max_new_tokens=5, do_sample=False)[0]
        ids = ids[inputs["input_ids"].shape[1] :] if ours.chats else ids
        assert caption == " ".join(ours._processor.decode(ids, skip_special_tokens=True).split())


def test_a_prompt_begins_the_captions_of_blip_and_git(models: dict[str, Path]):
    for name in ("blip", "git"):
        ours = Captioner(str(models[name]), CPU)
        ((_, caption),) = ours.caption(PICTURES[:1], "a photo of", tokens=4)
        assert caption.startswith("a photo of"), name


def test_it_stops_when_it_is_told_to(models: dict[str, Path], tmp_path: Path):
    ours, done = Captioner(str(models["blip"]), CPU), []
    for path, _ in ours.caption(PICTURES, tokens=2, cancelled=lambda: len(done) == 2):
        done.append(path)
    assert done == PICTURES[:2]
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"bad\.png"):
        list(ours.caption([tmp_path / "bad.png"]))


def test_what_is_no_image_to_text_model(models: dict[str, Path], tmp_path: Path):
    for folder, rule in (
        (EXAMPLES.parent / "base-encoder", "which is not known here"),
        (tmp_path, "has no config.json that names a model_type"),
        (tmp_path / "gone", "does not exist"),
    ):
        with pytest.raises(ModelError, match=rule):
            Captioner(str(folder), CPU)
    config = json.loads((models["blip"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"has no \.safetensors files"):
        Captioner(str(tmp_path), CPU)
    (tmp_path / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(ModelError, match="is a web page saved under this name"):
        Captioner(str(tmp_path), CPU)
    config["text_config"]["hidden_size"] = 10**12
    (tmp_path / "model.safetensors").write_bytes((models["blip"] / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"has a config\.json of no model"):
        Captioner(str(tmp_path), CPU)


def test_the_command_writes_a_version(models: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    sets.save("cats", [checked(path, "mine" if number == 1 else "") for number, path in enumerate(PICTURES)])
    model = ["--model", str(models["blip"]), "--device", "cpu", "--tokens", "4"]
    assert main(["datasets", "caption", "cats", *model, "--only-empty", "--prefix", "sks,", "--prompt", "a photo"]) == 0
    assert "cats: version 2, 3 pictures" in (said := capsys.readouterr().out) and "2 of 2 captions written" in said
    captions = [picture.caption for picture in sets.read("cats")]
    assert captions[1] == "mine" and all(caption.startswith("sks, a photo") for caption in captions[::2])
    assert main(["datasets", "caption", "cats", *model, "--only-empty"]) == 0
    assert "every picture has a caption" in capsys.readouterr().out
    assert main(["datasets", "caption", "cats", "--model", "nobody"]) == 1
    assert "--model: 'nobody' is neither a path that exists nor a hub id" in capsys.readouterr().err


def test_what_is_done_is_kept_after_control_c(
    models: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    sets.save("cats", [checked(path, "before") for path in PICTURES])
    whole = Captioner._captioned

    def interrupted(self: Captioner, picture: Image.Image, question: str, tokens: int) -> str:
        if self.__dict__.setdefault("pictures", 0) == 2:
            raise KeyboardInterrupt
        self.__dict__["pictures"] += 1
        return whole(self, picture, question, tokens)

    monkeypatch.setattr(Captioner, "_captioned", interrupted)
    model = ["--model", str(models["blip"]), "--device", "cpu", "--tokens", "4", "--prompt", "a photo"]
    assert main(["datasets", "caption", "cats", *model]) == 130
    assert "2 of 3 captions written" in capsys.readouterr().out
    captions = [picture.caption for picture in sets.read("cats")]
    assert captions[2] == "before" and all(caption.startswith("a photo") for caption in captions[:2])
