"""What a picture says that it was drawn from: written for us and for A1111, and read back from any of them."""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import parameters, png_texts, samplers
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest, problems

A1111 = """a photo of a cat, <lora:icons-comfyui-forge:0.8> masterpiece
on two lines
Negative prompt: blurry,
ugly
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, \
Model hash: 0123456789, Model: v1-5-pruned, Denoising strength: 0.4, Clip skip: 2, \
Lora hashes: "icons-comfyui-forge: abcdef012345", Version: v1.10.1"""


def picture(path: Path, **texts: str) -> Path:
    information = PngInfo()
    for key, text in texts.items():
        information.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=information)
    return path


def saved(path: Path, request: DrawRequest, seed: int = 7, adapted: bool = True) -> Path:
    parameters.save(Image.new("RGB", (64, 96)), path, request, seed, adapted, "Euler")
    return path


def test_a1111s_text_is_read_and_the_rest_named(tmp_path: Path):
    read = parameters.read(picture(tmp_path / "x.png", parameters=A1111))
    assert read.values == {
        "prompt": "a photo of a cat, masterpiece\non two lines", "negative": "blurry,\nugly", "steps": 20,
        "guidance": 7, "seed": 1234567890, "width": 512, "height": 768, "sampler": "DPM++ 2M Karras", "change": 0.4,
    }  # fmt: skip
    assert read.adapters == (AdapterChoice("icons-comfyui-forge", 0.8),)
    assert read.notes == (
        "It was drawn with the model v1-5-pruned; the base stays as it is.",
        "Its start picture is not in the file: drop that too.",
        "Not taken over: Clip skip: 2.",
    )


def test_what_a_request_cannot_have_is_named_and_left():
    read = parameters.of_infotext("x\nSteps: 900, Sampler: Restart, CFG scale: much, Seed: -1, Size: 513x64")
    assert read.values == {"prompt": "x", "negative": "", "height": 64}
    words = "\n".join(read.notes)
    for part in ("The sampler Restart is not here", "guidance is not taken over: it is not a number", "steps is not"):
        assert part in words
    assert "multiple of 8, got 513. Take 512" in words and "seed is not taken over" in words


def test_a_text_without_its_last_line_is_a_prompt():
    assert parameters.of_infotext("a cat: red, blue").values == {"prompt": "a cat: red, blue", "negative": ""}


WORDS = ["cat", "a: b", "x, y", '"quoted"', "\\", "(red:1.2)", "ö", "猫", "🦊", "[a|b]", "50%", "{}", "Steps: 3"]


def test_what_is_written_is_read_again(tmp_path: Path):
    draws = random.Random(5)
    for _ in range(200):
        lines = [" ".join(draws.choices(WORDS, k=draws.randint(1, 6))) for _ in range(draws.randint(1, 3))]
        adapters = tuple(
            AdapterChoice(f"/somewhere/{draws.choice(['a', 'b c', 'ü'])}.safetensors", draws.choice([0.5, 1, -0.25]))
            for _ in range(draws.randint(0, 2))
        )
        request = DrawRequest(
            "\n".join(lines), BaseModelConfig(path="/models/a, b.safetensors"), adapters,
            negative=draws.choice(["", "ugly", "x: y\n\nz"]), steps=draws.randint(1, 200),
            guidance=draws.choice([0, 2.5, 7]), sampler=draws.choice(list(samplers.SAMPLERS)),
            start=draws.choice([None, "/a.png"]), change=0.3,
        )  # fmt: skip
        name = request.sampler
        common = parameters.of_infotext(parameters.infotext(request, 9, True, name, (64, 96)))
        wanted: dict[str, Any] = {name: getattr(request, name) for name in ("prompt", "negative", "steps", "guidance")}
        wanted |= {"seed": 9, "width": 64, "height": 96, "sampler": name} | ({"change": 0.3} if request.start else {})
        assert common.values == wanted
        assert common.adapters == tuple(AdapterChoice(Path(c.path).stem, c.strength) for c in adapters)
        own = parameters.read(saved(tmp_path / "x.png", request, 9))
        for field in ("prompt", "negative", "steps", "guidance", "sampler", "start", "change"):
            assert own.values.get(field) == getattr(request, field)
        assert own.values["seed"] == 9 and own.values["base"] == request.base.path
        assert own.adapters == adapters and own.notes == ()


def test_of_the_base_alone_no_adapter_is_said(tmp_path: Path):
    request = DrawRequest("a", adapters=(AdapterChoice("/x.safetensors"),), compare=True)
    path = saved(tmp_path / "x.png", request, adapted=False)
    assert parameters.read(path).adapters == ()
    assert "lora" not in png_texts.read(path)["parameters"].lower()


def test_the_hash_of_an_adapter_is_a1111s(tmp_path: Path):
    import hashlib

    body = b"weights" * 100
    header = b'{"__metadata__":{"a":"b"}}'
    file = tmp_path / "icons-diffusers.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"other" * 9)
    others = tmp_path / "icons-comfyui-forge.safetensors"
    others.write_bytes(struct.pack("<Q", len(header)) + header + body)
    text = parameters.infotext(DrawRequest("a", adapters=(AdapterChoice(str(file)),)), 0, True, "Euler", (8, 8))
    assert text.startswith("a <lora:icons-comfyui-forge:1>\n"), "the file that A1111 reads"
    assert f'Lora hashes: "icons-comfyui-forge: {hashlib.sha256(body).hexdigest()[:12]}"' in text


def test_pillow_reads_what_we_write_and_we_what_pillow_writes(tmp_path: Path):
    path = saved(tmp_path / "x.png", DrawRequest("猫"))
    with Image.open(path) as image:
        image.load()
        assert image.text == png_texts.read(path)  # type: ignore[attr-defined]
    information = PngInfo()
    information.add_text("packed", "a" * 5000, zip=True)
    information.add_itxt("far", "ü" * 5000, zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=information)
    assert png_texts.read(path) == {"packed": "a" * 5000, "far": "ü" * 5000}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    "chunks",
    [
        chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 50_000_000)),
        chunk(b"zTXt", b"parameters\0\0not packed"),
        chunk(b"tEXt", b"parameters\0" + b"a" * 2_000_000),
        chunk(b"iTXt", b"parameters"),
        b"\xff\xff\xff\xffIDAT",
        b"\0\0",
        b"".join(chunk(b"tEXt", b"k%d\0" % number) for number in range(100)),
    ],
)
def test_a_hostile_file_costs_little(tmp_path: Path, chunks: bytes):
    path = tmp_path / "x.png"
    path.write_bytes(png_texts.SIGNATURE + chunks)
    texts = png_texts.read(path)
    assert len(texts) <= png_texts.MOST_TEXTS and all(len(text) <= png_texts.LARGEST for text in texts.values())


def test_of_a_damaged_file_nothing_but_words_comes(tmp_path: Path):
    request = DrawRequest("x", adapters=(AdapterChoice("a"),), negative="y")
    own = saved(tmp_path / "own.png", request).read_bytes()
    foreign = picture(tmp_path / "foreign.png", parameters=A1111).read_bytes()
    draws, path, refused = random.Random(2), tmp_path / "x.png", 0
    for _ in range(600):
        content = bytearray(draws.choice((own, foreign)))
        for _ in range(draws.randint(1, 6)):
            at = draws.randrange(8, len(content))
            content[at : at + draws.randint(0, 4)] = bytes(draws.choices(range(256), k=draws.randint(0, 4)))
        path.write_bytes(content)
        try:
            parameters.read(path)
        except UserError:
            refused += 1
    assert 0 < refused < 600


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": "{}"}, "ComfyUI, whose graph"),
        ({}, "does not say what it was drawn from"),
        ({"lowrank_diffusion": "[1]"}, "is damaged"),
        ({"lowrank_diffusion": "[" * 100_000}, "is damaged"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, texts: dict[str, str], words: str):
    with pytest.raises(UserError, match=words):
        parameters.read(picture(tmp_path / "x.png", **texts))
    other = tmp_path / "x.jpg"
    Image.new("RGB", (8, 8)).save(other)
    with pytest.raises(UserError, match="is not a PNG"):
        parameters.read(other)


def test_our_own_text_is_not_trusted_either(tmp_path: Path):
    stored: dict[str, Any] = {"prompt": 5, "steps": 1e99, "seed": True, "base": {"path": ["x"]}, "sampler": "x"}
    listed = [5, {"path": 1, "strength": 1}, {"path": "a", "strength": "b"}, {"path": "a", "strength": 2}]
    stored |= {"guidance": float("nan"), "adapters": listed}
    read = parameters.read(picture(tmp_path / "x.png", lowrank_diffusion=json.dumps(stored)))
    assert read.values == {} and read.adapters == (AdapterChoice("a", 2.0),)
    assert len(read.notes) == 6


def test_what_does_not_go_together_is_named():
    request = DrawRequest("a", sampler="Eulr", mask="m.png")
    assert [problem.key for problem in problems(request, "--")] == ["--sampler", "--mask"]
    assert "Take one of: Euler, Euler a, DPM++ 2M" in str(problems(request)[0])
    (problem,) = problems(DrawRequest("a", start="s.png", change=0.05, steps=10))
    assert str(problem) == "change: 0.05 of 10 steps is not one step. Take at least 0.1, or more steps."
