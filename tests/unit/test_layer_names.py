"""Names of a UNet's layers in other programs: facts, written down from kohya's and Stability's own code."""

from __future__ import annotations

import json

import pytest

from lowrank_diffusion.image.families.unet.names import Layout, names
from lowrank_diffusion.metadata import shareable
from lowrank_diffusion.paths import EMBEDDED_BASE

SDXL = {
    "conv_in": "input_blocks_0_0",
    "conv_out": "out_2",
    "time_embedding.linear_1": "time_embed_0",
    "add_embedding.linear_2": "label_emb_0_2",
    "down_blocks.0.resnets.1.conv1": "input_blocks_2_0_in_layers_2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks_4_0_skip_connection",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj": (
        "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj"
    ),
    "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
    "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
    "up_blocks.0.attentions.2.transformer_blocks.3.attn2.to_out.0": (
        "output_blocks_2_1_transformer_blocks_3_attn2_to_out_0"
    ),
    "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
    "up_blocks.1.upsamplers.0.conv": "output_blocks_5_2_conv",
    "up_blocks.2.resnets.2.conv2": "output_blocks_8_0_out_layers_3",
}
EMBEDDED = {
    "down_blocks.1.attentions.0.proj_in": "input_blocks_3_1_proj_in",
    "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_v": "output_blocks_3_1_transformer_blocks_0_attn1_to_v",
    "up_blocks.1.upsamplers.0.conv": "output_blocks_3_2_conv",
}


@pytest.mark.parametrize(("path", "name"), SDXL.items())
def test_names_of_sdxl(path: str, name: str):
    assert names(path, Layout())[1] == name


@pytest.mark.parametrize(("path", "name"), EMBEDDED.items())
def test_names_of_the_embedded_base(path: str, name: str):
    layout = Layout.of(json.loads((EMBEDDED_BASE / "unet" / "config.json").read_text()))
    assert names(path, layout)[1] == name
    assert Layout.of_metadata(layout.metadata()) == layout


@pytest.mark.parametrize(
    "path", ["", "encoder.layers.0", "down_blocks.x.resnets.0.conv1", "up_blocks.9.upsamplers.0.conv"]
)
def test_other_paths_have_no_original_name(path: str):
    with pytest.raises(ValueError, match="SDXL-shaped"):
        Layout().original(path)


def test_settings_in_shared_files_hold_no_path_of_the_machine():
    given = {
        "base.path": "/home/ann/sdxl.safetensors", "data.path": "C:\\Users\\ann\\cats", "seed": 3,
        "data.trigger": "sks", "prior.path": "~/people", "base.vae": "owner/vae", "x": ["/home/ann", 1],
    }  # fmt: skip
    said = shareable(given)
    assert "ann" not in json.dumps(said)
    assert said["x"] == ["", 1], "a home folder is called as its owner"
    assert said["base.path"] == "sdxl.safetensors" and said["data.path"] == "cats" and said["prior.path"] == "people"
    assert said["base.vae"] == "owner/vae" and said["data.trigger"] == "sks" and said["seed"] == 3
