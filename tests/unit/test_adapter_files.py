"""What an adapter file is, told when it is added; the loader says the same before it reads a weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lowrank_diffusion.errors import AdapterError
from lowrank_diffusion.image import adapter_files, foreign
from lowrank_diffusion.image.families import FAMILIES

Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
DOWN, UP = f"{Q}.lora_down.weight", f"{Q}.lora_up.weight"
PAIR = {DOWN: (4, 8), UP: (6, 4)}
WORDS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
BLOCKS = {"base_model.model.x.gralora_A": (2, 4, 6), "base_model.model.x.gralora_B": (2, 6, 3)}
GENERAL = {"base_model.model.x.gralora_A_general.weight": (5, 8), "base_model.model.x.gralora_B_general.weight": (6, 5)}
WHOLE = (
    "model.diffusion_model.label_emb.0.0.weight",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
    "conditioner.embedders.1.model.ln_final.bias",
)


def write(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({name: torch.full(shape, 0.1) for name, shape in shapes.items()}, path)
    return path


def refused(path: Path) -> str:
    """What is said when it is added, and said again when it is loaded."""
    with pytest.raises(AdapterError) as added:
        adapter_files.check(path)
    with pytest.raises(AdapterError) as loaded:
        foreign.read(path, {})
    assert str(added.value) == str(loaded.value)
    return str(added.value)


@pytest.mark.parametrize(
    "shapes",
    [
        PAIR,
        PAIR | {f"{Q}.alpha": ()},
        PAIR | {f"{Q}.alpha": (1,)},
        {DOWN: (4, 8, 3, 3), UP: (6, 4, 1, 1)},
        {DOWN: (4, 8, 1, 1), UP: (6, 4, 1, 1), f"{Q}.lora_mid.weight": (4, 4, 3, 3), f"{Q}.alpha": ()},
        {f"unet.{WORDS}.lora.down.weight": (4, 2048), f"unet.{WORDS}.lora.up.weight": (6, 4)},
        {f"unet.{WORDS}.lora_A.default.weight": (4, 2048), f"unet.{WORDS}.lora_B.default.weight": (6, 4)},
        {"unet.x.processor.to_k_lora.down.weight": (4, 8), "unet.x.processor.to_k_lora.up.weight": (6, 4)},
    ],
)
def test_pairs_of_every_form_are_taken(shapes: dict[str, tuple[int, ...]], tmp_path: Path):
    assert "1 layers of the UNet." in adapter_files.check(write(tmp_path / "x.safetensors", shapes)).line()


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({DOWN: (4, 8)}, f"the layer {Q} has down, not a down and an up"),
        ({UP: (4, 8), f"{Q}.alpha": ()}, f"the layer {Q} has alpha, up, not a down and an up"),
        (PAIR | {"lora_te1_x.alpha": ()}, "the layer lora_te1_x has alpha, not a down"),
        ({f"unet.{WORDS}.lora_A.weight": (4, 8)}, f"the layer unet.{WORDS} has down"),
        ({name: BLOCKS[name] for name in list(BLOCKS)[:1]}, "has gralora_A, not"),
        (BLOCKS | dict(list(GENERAL.items())[:1]), "has general_A, gralora_A, gralora_B, not"),
        ({DOWN: (4, 8), UP: (6, 5)}, "do not fit each other: down (4, 8), up (6, 5)"),
        ({DOWN: (4, 8, 3, 3), UP: (6, 2, 1, 1)}, "do not fit each other"),
        ({DOWN: (4,), UP: (6, 4)}, "do not fit each other"),
        ({DOWN: (0, 8), UP: (6, 0)}, "do not fit each other"),
        (PAIR | {f"{Q}.alpha": (2,)}, "do not fit each other: alpha (2,)"),
        (PAIR | {f"{Q}.lora_mid.weight": (4, 2, 3, 3)}, "do not fit each other"),
        (BLOCKS | {"base_model.model.x.gralora_B": (2, 4, 3)}, "blocks that do not fit each other"),
        (BLOCKS | {"base_model.model.x.gralora_B": (3, 6, 3)}, "blocks that do not fit each other"),
        ({n: (4, 4, 6) if "_A" in n else (4, 6, 3) for n in BLOCKS}, "blocks that do not fit each other"),
        (BLOCKS | GENERAL | {"base_model.model.x.gralora_A_general.weight": (5, 9)}, "do not fit each other"),
        (PAIR | {f"{Q}.lora_strange.weight": (1,)}, f"1 of 3 tensors are not part of a LoRA, such as {Q}.lora_strange"),
        (PAIR | {"step": (1,), "epoch": (1,)}, "2 of 4 tensors are not part of a LoRA, such as epoch"),
        (
            {f"unet.x.lora_{side}{middle}.weight": (2, 2) for side in "AB" for middle in ("", ".default")},
            "is there twice under different names",
        ),
    ],
)
def test_what_makes_no_pairs_is_told(shapes: dict[str, tuple[int, ...]], words: str, tmp_path: Path):
    assert words in refused(write(tmp_path / "x.safetensors", shapes))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([f"{Q}.hada_w1_a"], "is a LoHa adapter"),
        ([f"{Q}.lokr_w1", f"{Q}.alpha"], "is a LoKr adapter"),
        ([f"{Q}.oft_blocks"], "is an OFT or BOFT adapter"),
        ([f"{Q}.dora_scale", DOWN, UP], "is a DoRA"),
        (["base_model.model.x.lora_magnitude_vector.weight"], "is a DoRA"),
        ([f"{Q}.on_input", f"{Q}.weight"], "is an IA3 adapter"),
        (["base_model.model.x.attn1.to_k.ia3_l"], "is an IA3 adapter"),
        ([f"{Q}.diff", f"{Q}.diff_b"], "whole weight differences"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "is an adapter of Flux"),
        (["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "is an adapter of Flux"),
        (["lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight"], "is an adapter of Stable Diffusion 3"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], "is an adapter of Stable Diffusion 3"),
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "is an adapter of a language model"),
        (["bundle_emb.x.string_to_param", DOWN, UP], "textual inversion embedding"),
        (["clip_g", "clip_l"], "a textual inversion embedding"),
        (WHOLE, "is a whole SDXL checkpoint, which is a base, not an adapter"),
        (["model.diffusion_model.out.0.bias", "cond_stage_model.transformer.x"], "is a Stable Diffusion 1 checkpoint"),
        (["encoder.conv_in.bias", "decoder.conv_in.bias"], "is a VAE alone"),
    ],
)
def test_other_files_are_named_for_what_they_are(names: list[str], words: str, tmp_path: Path):
    message = refused(write(tmp_path / "x.safetensors", dict.fromkeys(names, (2, 2))))
    assert message.startswith("x.safetensors: is ") and words in message


@pytest.mark.parametrize(
    ("width", "family"),
    [(768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (2048, "SDXL"), (1280, "SDXL's refiner,")],
)
@pytest.mark.parametrize(
    "name",
    [
        f"lora_unet_{WORDS.replace('.', '_')}.lora_down.weight",
        f"unet.{WORDS}.lora_A.weight",
        f"unet.{WORDS}.lora.down.weight",
        f"unet.{WORDS.replace('to_k', 'processor.to_k_lora')}.down.weight",
    ],
)
def test_another_unet_is_told_by_the_words_it_reads(name: str, width: int, family: str, tmp_path: Path):
    other = name.replace("down.weight", "up.weight").replace("lora_A", "lora_B")
    path = write(tmp_path / "x.safetensors", {name: (4, width), other: (6, 4)})
    if width == 1280:
        assert f"is an adapter of {family} which is not supported" in refused(path)
        return
    assert f"x.safetensors: a LoRA of {family}, 1 layers of the UNet." in adapter_files.check(path).line()
    for base in FAMILIES.values():
        if base.title == family:
            assert adapter_files.check(path, base).families == [base]
            continue
        with pytest.raises(AdapterError, match=f"is an adapter of {family}, and the base is {base.title}"):
            adapter_files.check(path, base)


def small(rows: int = 6, inputs: int = 8) -> Any:
    """A UNet of one layer, as far as the loader looks."""
    unet: Any = torch.nn.ModuleDict({"x": torch.nn.Linear(inputs, rows)})
    unet.config = {"layers_per_block": 2, "up_block_types": ["UpBlock2D"]}
    return unet


def pair(rows: int = 6, inputs: int = 8) -> dict[str, torch.Tensor]:
    return {"unet.x.lora_A.weight": torch.full((4, inputs), 0.1), "unet.x.lora_B.weight": torch.full((rows, 4), 0.1)}


@pytest.mark.parametrize(("key", "value"), [("unet.x.lora_A.weight", math.nan), ("unet.x.lora_B.weight", math.inf)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_no_number_is_told_when_it_is_read(key: str, value: float, dtype: torch.dtype, tmp_path: Path):
    """A header holds no weights, so that only its loading can tell."""
    tensors = {name: tensor.to(dtype) for name, tensor in pair().items()}
    tensors[key][1, 1] = value
    save_file(tensors, tmp_path / "x.safetensors")
    adapter_files.check(tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=f"{key} is not of finite numbers"):
        foreign.read(tmp_path / "x.safetensors", {"unet": small()})


def test_whole_numbers_are_no_weights(tmp_path: Path):
    save_file({name: tensor.to(torch.int8) for name, tensor in pair().items()}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="is not of finite numbers"):
        foreign.read(tmp_path / "x.safetensors", {"unet": small()})


@pytest.mark.parametrize("sides", [(7, 8), (6, 9)])
def test_pairs_that_do_not_fit_the_base_are_told_by_their_shapes(sides: tuple[int, int], tmp_path: Path):
    save_file(pair(*sides), tmp_path / "x.safetensors")
    adapter_files.check(tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"x has pairs of .*, the base's layer is \(6, 8\)"):
        foreign.read(tmp_path / "x.safetensors", {"unet": small()})


@pytest.mark.parametrize(
    ("alpha", "scale"),
    [
        (torch.tensor(0.0), 0.0),
        (torch.tensor(2), 0.5),
        (torch.tensor([2.0]), 0.5),
        (torch.tensor([[2]], dtype=torch.int64), 0.5),
        (torch.tensor(3.0, dtype=torch.bfloat16), 0.75),
        (torch.tensor(8.0, dtype=torch.float64), 2.0),
        (torch.tensor(-4.0), -1.0),
        (None, 1.0),
    ],
)
def test_an_alpha_of_any_kind_is_obeyed(alpha: torch.Tensor | None, scale: float, tmp_path: Path):
    tensors = pair() | ({} if alpha is None else {"unet.x.alpha": alpha})
    save_file(tensors, tmp_path / "x.safetensors")
    found = foreign.read(tmp_path / "x.safetensors", {"unet": small()})["unet"]["x"]
    plain = tensors["unet.x.lora_B.weight"] @ tensors["unet.x.lora_A.weight"]
    assert torch.allclose(found.delta(), scale * plain, atol=1e-7)


def test_an_alpha_that_is_no_number_is_refused(tmp_path: Path):
    save_file(pair() | {"unet.x.alpha": torch.tensor(math.nan)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match=r"unet\.x\.alpha is not of finite numbers"):
        foreign.read(tmp_path / "x.safetensors", {"unet": small()})
