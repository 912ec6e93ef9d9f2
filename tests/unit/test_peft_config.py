"""What PEFT says of an adapter: each layer's strength as PEFT has it, and what is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file

from lowrank_diffusion.errors import AdapterError
from lowrank_diffusion.image import adapter_files, foreign, peft_config
from lowrank_diffusion.image.peft_config import Stated
from lowrank_diffusion.paths import PROJECT
from tests.formulas import gralora_delta


@pytest.mark.parametrize(
    ("patterns", "path"),
    [
        ({"to_q": 1, "attn1.to_q": 2}, "a.attn1.to_q"), ({"attn1.to_q": 2, "to_q": 1}, "a.attn1.to_q"),
        ({"o_q": 1}, "a.to_q"), ({r".*to_(q|k)": 3, "to_q": 1}, "a.to_q"), ({r"b\d": 3}, "a.b12"), ({}, "a"),
        ({"x": 1, r"a\..*": 4}, "a.to_q"), ({r"^down_blocks\.\d+\..*\.to_[qk]": 5}, "down_blocks.12.x.to_k"),
        ({r"(?:to_q|to_k)": 6}, "a.to_k"), ({r"to_q|to_k": 6}, "a.to_k"),
        ({r"layers\.\d+\.self_attn\.\w+": 7}, "layers.3.self_attn.q"),
        ({"^to_q$": 8}, "a.to_q"), ({"^to_q$": 8}, "to_q"), ({r".*attn1.*": 2}, "b.attn1.to_out.0"),
    ],
)  # fmt: skip
def test_of_several_patterns_the_one_that_peft_takes(patterns: dict[str, int], path: str):
    key = get_pattern_key(list(patterns), path)
    assert Stated("x", {"alpha_pattern": patterns, "lora_alpha": 9}).scale(path, 1, None) == patterns.get(key, 9)
    assert Stated("x", {"rank_pattern": patterns, "r": 9, "lora_alpha": 1}).scale(path, patterns.get(key, 9), None)


ENDLESS = (
    "(a+)+$", "(a*)*b", "(a|a)*x", "(.*)*", "(a+){9}", r"(\w+\.)*x", ".*.*.*x", r"\w*\w*\w*x", "a{1,9}", "(a)\\1",
    "?".join("a" * 30) + "?" + "a" * 30, "(.|.)" * 30 + "x", r"(?=a)", r"(?P<x>a)", r"[^.]+", "(a", "a)",
    "[", "*", "\\", "a++", "a b",
)  # fmt: skip


@pytest.mark.parametrize("pattern", ENDLESS)
@pytest.mark.parametrize("field", ["alpha_pattern", "rank_pattern"])
def test_an_expression_that_could_take_for_ever_is_refused(pattern: str, field: str):
    with pytest.raises(AdapterError, match=f"x: its {field} has the expression .*Write the names of its layers there"):
        Stated("x", {field: {"to_q": 2, pattern: 1}})


def test_very_many_expressions_are_refused_and_names_are_not():
    names = {f"layer_{number}.to_q": number for number in range(5000)}
    said = Stated("x", {"alpha_pattern": names, "lora_alpha": 9})
    assert said.scale("a.layer_4999.to_q", 1, None) == 4999
    most = {f"a{number}.*": 1 for number in range(peft_config.MOST_EXPRESSIONS + 1)}
    with pytest.raises(AdapterError, match="has 17 expressions"):
        Stated("x", {"alpha_pattern": most})


SLOWEST = r"""
from lowrank_diffusion.errors import AdapterError
from lowrank_diffusion.image.peft_config import MOST_EXPRESSIONS, Stated
try:
    Stated("x", {"alpha_pattern": {"(a+)+$": 1}}).scale("a" * 60 + "b", 1, None)
except AdapterError:
    print("refused")
worst = {r"\w*.*(\w|.)(\w|.)(\w|.)x" + "y" * number: 1 for number in range(MOST_EXPRESSIONS)}
said = Stated("x", {"alpha_pattern": worst, "lora_alpha": 9})
for number in range(100):
    said.scale(f"down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.{number}", 1, None)
print("ended")
"""


@pytest.mark.slow
def test_whatever_is_taken_ends():
    """In a process of its own, which is ended if it hangs."""
    command = [sys.executable, "-c", SLOWEST]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["refused", "ended"]


def small() -> Any:
    """A UNet of one layer, 6 x 8, as far as the loader looks."""
    unet: Any = torch.nn.ModuleDict({"attn1": torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 6)})})
    unet.config = {"layers_per_block": 2, "up_block_types": ["UpBlock2D"]}
    return unet


STEM = "base_model.model.attn1.to_q"
PAIR = {f"{STEM}.lora_A.weight": (4, 8), f"{STEM}.lora_B.weight": (6, 4)}
BLOCKS = {f"{STEM}.gralora_A": (2, 4, 6), f"{STEM}.gralora_B": (2, 6, 3)}
GENERAL = {f"{STEM}.gralora_A_general.weight": (5, 8), f"{STEM}.gralora_B_general.weight": (6, 5)}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 6}
GRALORA = {"peft_type": "GRALORA", "r": 6, "gralora_k": 2, "hybrid_r": 0, "alpha": 9}


def folder(path: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def delta(path: Path) -> torch.Tensor:
    return foreign.read(path, {"unet": small()})["unet"]["attn1.to_q"].delta()


@pytest.mark.parametrize("variant", peft_config._VARIANTS)
def test_what_pefts_pairs_alone_do_not_say_is_refused(variant: str, tmp_path: Path):
    folder(tmp_path, PAIR, LORA | {variant: [1]})
    with pytest.raises(AdapterError, match=f"has {variant} set"):
        delta(tmp_path)
    folder(tmp_path, PAIR, LORA | {variant: None})
    assert delta(tmp_path).shape == (6, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "is of the type 'IA3', not LORA or GRALORA"),
        ({"peft_type": None}, "is of the type 'None'"),
        ({"use_dora": True}, "is a DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as pissa_niter_4"),
        ({"r": 8}, "says that attn1.to_q is of rank 8, and its tensors are of rank 4"),
        ({"rank_pattern": {"to_q": 2}}, "is of rank 2, and its tensors are of rank 4"),
        ({"rank_pattern": ["to_q"]}, "its rank_pattern is not a JSON object"),
        ({"lora_alpha": "much"}, "makes no pair"),
        ({"lora_alpha": float("inf")}, "the scale of attn1.to_q is not a finite number"),
        ({"alpha_pattern": {"to_q": None}}, "makes no pair"),
        ({"alpha_pattern": {"(a+)+$": 2}}, "has the expression '(a+)+$'"),
        ({"peft_type": "GRALORA"}, "says that it is a GraLoRA, and attn1.to_q has a plain pair"),
    ],
)
def test_a_lora_whose_config_does_not_fit_is_refused(changes: dict[str, Any], words: str, tmp_path: Path):
    folder(tmp_path, PAIR, LORA | changes)
    with pytest.raises(AdapterError) as caught:
        delta(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "changes", "scale"),
    [(BLOCKS, {}, 9 / 6), (BLOCKS | GENERAL, {"hybrid_r": 5}, 9 / 11), (BLOCKS, {"rank_pattern": {}}, 9 / 6)],
)
def test_a_gralora_folder_is_pefts_formula(
    shapes: dict[str, tuple[int, ...]], changes: dict[str, Any], scale: float, tmp_path: Path
):
    tensors = folder(tmp_path, shapes, GRALORA | changes)
    expected = gralora_delta(tensors[f"{STEM}.gralora_A"], tensors[f"{STEM}.gralora_B"])
    if len(shapes) > 2:
        expected = expected + tensors[f"{STEM}.gralora_B_general.weight"] @ tensors[f"{STEM}.gralora_A_general.weight"]
    assert torch.allclose(delta(tmp_path), scale * expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "changes", "words"),
    [
        (BLOCKS, {"r": 4}, "says r=4, and the tensors of attn1.to_q have 6"),
        (BLOCKS, {"gralora_k": 3}, "says gralora_k=3, and the tensors of attn1.to_q have 2"),
        (BLOCKS, {"hybrid_r": 5}, "says hybrid_r=5, and the tensors of attn1.to_q have 0"),
        (BLOCKS | GENERAL, {}, "says hybrid_r=0, and the tensors of attn1.to_q have 5"),
        (BLOCKS, {"use_rslora": True}, "has use_rslora set, which a GraLoRA does not have"),
        (BLOCKS, {"rank_pattern": {"to_q": 6}}, "has rank_pattern set"),
        (BLOCKS, {"alpha_pattern": {"to_q": 6}}, "has alpha_pattern set"),
        (BLOCKS, {"modules_to_save": ["conv_in"]}, "has modules_to_save set"),
        (BLOCKS, {"peft_type": "LORA"}, "says that it is a LoRA, and attn1.to_q has GraLoRA's blocks"),
        (BLOCKS, {"alpha": None}, "makes no pair"),
    ],
)
def test_a_gralora_whose_config_does_not_fit_is_refused(
    shapes: dict[str, tuple[int, ...]], changes: dict[str, Any], words: str, tmp_path: Path
):
    folder(tmp_path, shapes, GRALORA | changes)
    with pytest.raises(AdapterError) as caught:
        delta(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"unet.r": 8, "unet.lora_alpha": 4}, "is of rank 8, and its tensors are of rank 4"),
        ({"unet.r": 4, "unet.alpha_pattern": {"(a+)+$": 2}}, "could take forever"),
        ({"unet.use_dora": True}, "is a DoRA"),
        ({"unet.lora_bias": True}, "has lora_bias set"),
        ([], "is not a JSON object"),
    ],
)
def test_the_same_is_said_of_diffusers_header(said: Any, words: str, tmp_path: Path):
    tensors = {"unet.attn1.to_q.lora_A.weight": torch.ones(4, 8), "unet.attn1.to_q.lora_B.weight": torch.ones(6, 4)}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    with pytest.raises(AdapterError) as caught:
        delta(tmp_path / "x.safetensors")
    assert words in str(caught.value)
    if "rank" in words:  # which only the base's layers can tell
        adapter_files.check(tmp_path / "x.safetensors")
    else:
        with pytest.raises(AdapterError) as added:
            adapter_files.check(tmp_path / "x.safetensors")
        assert str(added.value) == str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (None, "is PEFT's file, whose strength stands in the adapter_config.json beside it. Give the folder"),
        ("{", "is PEFT's file, whose strength stands in the adapter_config.json beside it. Give the folder"),
        ({"adapter.text_encoders": "attention"}, "is a part of PEFT's folder: the text encoders are in others"),
    ],
)
def test_pefts_file_without_its_folder_is_told_when_it_is_added(settings: Any, words: str, tmp_path: Path):
    text = settings if isinstance(settings, str) else json.dumps(settings)
    metadata = {} if settings is None else {"lowrank_diffusion.settings": text}
    tensors = {name: torch.ones(shape) for name, shape in PAIR.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata)
    for refuse in (adapter_files.check, delta):
        with pytest.raises(AdapterError) as caught:
            refuse(tmp_path / "adapter_model.safetensors")
        assert words in str(caught.value)
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    adapter_files.check(tmp_path / "adapter_model.safetensors")
    assert delta(tmp_path / "adapter_model.safetensors").shape == (6, 8)


def test_diffusers_header_is_obeyed_for_its_own_model(tmp_path: Path):
    tensors = {"unet.attn1.to_q.lora_A.weight": torch.ones(4, 8), "unet.attn1.to_q.lora_B.weight": torch.ones(6, 4)}
    said = {"unet.r": 2, "unet.rank_pattern": {"attn1.to_q": 4}, "unet.lora_alpha": 2, "text_encoder.lora_alpha": 99}
    save_file(tensors, tmp_path / "x.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    assert torch.equal(delta(tmp_path / "x.safetensors"), torch.full((6, 8), 4 * 2 / 4))
