"""Encoders of pictures: the embedded one knows its drawings, foreign ones give what transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from lowrank_diffusion.bases import ModelError
from lowrank_diffusion.image.encoder import Encoder, find, likeness
from lowrank_diffusion.paths import EMBEDDED_ENCODER, EXAMPLES

CPU = torch.device("cpu")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
THINGS = ("fox", "castle", "key", "octopus", "rocket")


def pictures(things: tuple[str, ...] = THINGS) -> list[Image.Image]:
    return [Image.open(EXAMPLES / "style-3d-icons" / f"{thing}.png") for thing in things]


@pytest.fixture(scope="module")
def embedded() -> Encoder:
    return Encoder(find("embedded"), CPU)


def test_the_embedded_one_tells_pictures_and_captions_together(embedded: Encoder):
    seen, told = embedded.embed(pictures()), embedded.read([f"a 3d icon of a {thing}" for thing in THINGS])
    assert seen.shape == told.shape == (5, 128)
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(5))
    assert (seen @ told.T).argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_likeness_is_the_mean_cosine_to_all_references(embedded: Encoder):
    seen = embedded.embed(pictures())
    by_hand = [sum(float(one @ other) for other in seen[1:]) / 4 for one in seen]
    torch.testing.assert_close(likeness(seen, seen[1:]), torch.tensor(by_hand))


def saved(model: PreTrainedModel, folder: Path) -> str:
    """A model as its folder, with a processor for pictures of 28 px."""
    size = {"height": 28, "width": 28}
    CLIPImageProcessor(size=size, do_center_crop=False).save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return str(folder)


def pixels(side: int = 28) -> torch.Tensor:
    """What the folder's processor makes of ``pictures``: (N, 3, H, W), by formula."""
    mean, std = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
    small = [picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for picture in pictures()]
    values = torch.stack([torch.from_numpy(np.asarray(picture, dtype=np.float32)) for picture in small])
    return ((values / 255 - mean) / std).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("kind", "config"), [(ViTModel, ViTConfig), (Dinov2Model, Dinov2Config)])
def test_models_that_only_see_give_their_first_token(kind: type, config: type, tmp_path: Path):
    torch.manual_seed(0)
    model = kind(config(**SIZES))
    encoder = Encoder(find(saved(model, tmp_path)), CPU)
    assert not encoder.reads
    with torch.no_grad():
        expected = F.normalize(model(pixel_values=pixels()).last_hidden_state[:, 0], dim=-1)
    torch.testing.assert_close(encoder.embed(pictures()), expected, rtol=1e-4, atol=1e-5)


def test_a_clip_gives_its_projections(tmp_path: Path):
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_ENCODER)
    text = {"vocab_size": 3072, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 20, "eos_token_id": 3071}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=SIZES | {"intermediate_size": 16}, projection_dim=8))
    tokenizer.save_pretrained(tmp_path)
    encoder = Encoder(find(saved(model, tmp_path)), CPU)
    words = ["a fox", "a very long caption " * 20]
    ids = tokenizer(words, padding=True, truncation=True, max_length=20, return_tensors="pt")
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixel_values=pixels()).pooler_output)
        told = model.text_projection(model.text_model(**ids).pooler_output)
    torch.testing.assert_close(encoder.embed(pictures()), F.normalize(seen, dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.read(words), F.normalize(told, dim=-1), rtol=1e-4, atol=1e-5)


def test_other_models_and_pickles_are_refused(tmp_path: Path):
    for where, words in (
        ("nowhere", "is neither a path that exists nor a hub id"),
        (str(EXAMPLES / "LICENSE.md"), "is one file"),
        (str(tmp_path), "has no config.json"),
    ):
        with pytest.raises(ModelError, match=words) as error:
            find(where)
        assert str(error.value).startswith("--encoder: ")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="is a bert, which is not known here"):
        find(str(tmp_path))
    config.write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"has no \.safetensors"):
        find(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="weights' file is not a safetensors file"):
        Encoder(find(str(tmp_path)), CPU)
