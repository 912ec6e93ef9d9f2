"""Headers and configurations of strangers' models, believed only within bounds; what a library raises becomes words."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz.originals import of, safetensors
from lowrank_diffusion import terminal
from lowrank_diffusion.bases import ModelError, outsized
from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.errors import AdapterError
from lowrank_diffusion.files import Unreadable, read_part, read_text
from lowrank_diffusion.image import adapter_files
from lowrank_diffusion.loading import explained, in_words, reading
from lowrank_diffusion.tensor_files import LARGEST_HEADER, MOST_TENSORS, HeaderError, read
from lowrank_diffusion.text import gguf_file
from lowrank_diffusion.text.source import resolve

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def refused(path: Path, header: Any, data: bytes = bytes(4)) -> str:
    path.write_bytes(safetensors(header, data))
    with pytest.raises(HeaderError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' + b"[" * 100_000,
        {"__metadata__": [1], "a": ENTRY},
        {"__metadata__": {"a": 1}, "a": ENTRY},
        {"__metadata__": {"a": "\ud800"}, "a": ENTRY},
        {"\ud800": ENTRY},
        {"x" * 2000: ENTRY},
        {"a": ENTRY | {"shape": [-1]}},
        {"a": ENTRY | {"shape": [1.0]}},
        {"a": ENTRY | {"shape": [True]}},
        {"a": ENTRY | {"shape": "1"}},
        {"a": ENTRY | {"shape": [2**62]}},
        {"a": ENTRY | {"shape": [1] * 9}},
        {"a": ENTRY | {"shape": [2]}},
        {"a": ENTRY | {"data_offsets": [4, 0]}},
        {"a": ENTRY | {"data_offsets": [0]}},
        {"a": ENTRY | {"dtype": 1}},
        {"a": None},
        b'{"a": NaN}  ',
        b'{"a":' + b"9" * 5000 + b"}",
        b"{\xff\xfe}",
        b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x',
    ],
    ids=lambda header: str(header)[:40],
)
def test_a_header_that_is_none(header: Any, tmp_path: Path):
    assert refused(tmp_path / "a.safetensors", header).startswith("is corrupt")


def test_a_header_larger_than_any_models_is_not_parsed(tmp_path: Path):
    path = tmp_path / "lora.safetensors"
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    assert "tensors; at most" in refused(path, {str(number): empty for number in range(MOST_TENSORS + 1)}, b"")
    assert "a header of 16,000,0" in refused(path, b"{" + b" " * LARGEST_HEADER + b"}")
    assert "far more lists" in refused(path, b'{"a":[' + b"[]," * 500_000 + b"[]]}")
    pair = {f"lora_unet_x.lora_{role}.weight": ENTRY | {"shape": [1, 1]} for role in ("down", "up")}
    trigger = pair | {"__metadata__": {"modelspec.trigger_phrase": "word " * 10**6}}
    path.write_bytes(safetensors(trigger, bytes(4)))
    assert len(adapter_files.check(path).line()) < 300
    kohya = {"__metadata__": {"ss_tag_frequency": json.dumps({f"tag {n}": {"a": n} for n in range(100_000)})}}
    path.write_bytes(safetensors(kohya | pair, bytes(4)))
    assert adapter_files.check(path).path == path


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.safetensors")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "a.safetensors", Path("/dev/zero"), tmp_path, tmp_path / "gone", tmp_path / "loop"):
        with pytest.raises(HeaderError):
            read(path)
        with pytest.raises(Unreadable):
            read_part(path, 10)
        with pytest.raises(Unreadable):
            read_text(path, 10, tmp_path)
    with pytest.raises(AdapterError):
        adapter_files.check(tmp_path / "a.safetensors")
    (tmp_path / "b.txt").write_text("0123456789ü")
    assert (read_part(tmp_path / "b.txt", 3), read_part(tmp_path / "b.txt", 3, end=True)) == ("012", "9ü")


class Panic(BaseException):
    """What libraries written in Rust raise is no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        struct.error("bad"),
        OverflowError("too large"),
        RecursionError("deep"),
        AssertionError(),
        IndexError("list index"),
        ZeroDivisionError(),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        KeyError("model.x"),
        StopIteration(),
        Panic("p"),
        NotImplementedError(),
        ImportError("x"),
        EOFError(),
        Exception("any"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_class_of_a_library_reaches_a_person(error: BaseException):
    with pytest.raises(ModelError) as caught, explained("base", "base.path", "Download it again."):
        raise error
    assert str(caught.value).startswith("base.path: base cannot be loaded: ") and caught.value.__cause__ is error
    assert type(error).__name__ not in str(caught.value)
    with pytest.raises(AdapterError, match="a: "), reading(lambda reason: AdapterError(f"a: {reason}")):
        raise error
    assert len(in_words(Exception("x" * 9999 + "\nsecond"))) <= 300


@pytest.mark.parametrize("error", [AdapterError("own"), KeyboardInterrupt(), SystemExit(1)])
def test_what_is_no_fault_of_a_file_goes_through(error: BaseException):
    with pytest.raises(type(error)) as caught, reading(lambda reason: AdapterError(reason)):
        raise error
    assert caught.value is error


def test_a_full_gpu_goes_through():
    import torch

    with pytest.raises(torch.OutOfMemoryError), explained("base", "base.path", ""):
        raise torch.OutOfMemoryError("CUDA out of memory")


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


START = b"GGUF" + struct.pack("<I", 3)
FACT = START + struct.pack("<QQ", 0, 1) + text(b"tokenizer.ggml.tokens")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a GGUF file"),
        (b"GGUF", "ends inside of its header"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1, not 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its version is 50331648"),
        (START + struct.pack("<QQ", 2**62, 0), "tensors and 0 facts"),
        (START + struct.pack("<QQ", 0, 2**62), "facts about them"),
        (FACT + struct.pack("<IIQ", 9, 0, 2**60), "it lists 1,152,921,504,606,846,976 values"),
        (FACT + struct.pack("<IIQ", 9, 8, 1000), "ends inside of its header"),
        (FACT + struct.pack("<IIQ", 9, 9, 1), "values of the type 9"),
        (FACT + struct.pack("<IIQ", 9, 4, 1000), "ends inside of its header"),
        (FACT + struct.pack("<IQ", 8, 2**60), "a text is of"),
        (FACT + struct.pack("<I", 77), "a value has the type 77"),
        (START + struct.pack("<QQ", 1, 0) + text(b"a") + struct.pack("<I", 2**31), "dimensions"),
        (START + struct.pack("<QQ", 1, 0) + text(b"a") + struct.pack("<IQQ", 2, 2**40, 2**40), "a tensor is of"),
        (
            START + struct.pack("<QQ", 1, 0) + text(b"a") + struct.pack("<IQIQ", 1, 4, 0, 2**40),
            "ends before its tensors",
        ),
        (
            START + struct.pack("<QQ", 0, 1) + text(b"llama.block_count") + struct.pack("<II", 4, 2**31),
            "its block_count is 2,147,483,648",
        ),
    ],
)
def test_a_gguf_header_is_walked_through_first(content: bytes, says: str, tmp_path: Path):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    assert says in gguf_file.problem(path)
    with pytest.raises(ModelError, match=r"base\.path: "):
        resolve(BaseModelConfig(path=str(path)))


def test_a_sound_gguf_file_is_one(tmp_path: Path):
    path = tmp_path / "a.gguf"
    path.write_bytes(of("gguf")[0]["a.gguf"])
    assert gguf_file.problem(path) == "" and resolve(BaseModelConfig(path=str(path))).label == "a"
    assert gguf_file.problem(Path(resolve(BaseModelConfig()).path)) == ""


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1e+09"),
        ({"text_config": {"hidden_size": 10**12}}, "hidden_size is 1e+12"),
        ({"block_out_channels": [320, 10**8]}, "block_out_channels is 1e+08"),
        ({"layers_per_block": [2, 5000]}, "layers_per_block is 5e+03"),
        ({"down_block_types": ["a"] * 10_000}, "down_block_types lists 10,000 values"),
        ({"vocab_size": 10**400}, "vocab_size is not a number"),
        ({"n_layer": float("nan")}, "n_layer is not a number"),
        ({"a": [[[1] * 100] * 50] * 50}, "more than 100,000 values"),
        ({"num_hidden_layers": 126, "hidden_size": 16384, "vocab_size": 262_144, "max_position_embeddings": 10**7}, ""),
        ({"model_max_length": 1e30, "rope_theta": 5e8, "eos_token_id": [1, 2], "tie": True, "x": None}, ""),
    ],
)  # fmt: skip
def test_a_configuration_of_a_model_that_there_is_not(config: dict[str, Any], says: str):
    assert says in outsized(config) if says else outsized(config) == ""


def test_what_would_steer_the_terminal_is_not_printed():
    assert terminal.plain("a\x1b[2J\x07b\x9bc\nd\té") == "a\ufffd[2J\ufffdb\ufffdc\nd\té"
