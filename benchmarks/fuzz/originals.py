"""The real files that cases are made of."""

from __future__ import annotations

import json
import struct
import tempfile
import zipfile
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from lowrank_diffusion.config import Config
from lowrank_diffusion.paths import EMBEDDED_BASE, EXAMPLES, PRESETS
from lowrank_diffusion.presets import to_yaml

Files = dict[str, bytes]
"""By name; a name that begins with _ is not changed."""


def chunk(name: bytes, content: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def safetensors(header: Any, data: bytes = b"") -> bytes:
    """A file with this header, an object or the text itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@cache
def of(kind: str) -> list[Files]:
    """The originals of a kind."""
    return {
        "yaml": _yaml,
        "rows": _rows,
        "pictures": _pictures,
        "safetensors": _safetensors,
        "gguf": _gguf,
        "runs": _runs,
        "folders": _folders,
        "language": _language,
        "sets": _sets,
    }[kind]()


def _yaml() -> list[Files]:
    presets = [{"a.yaml": path.read_bytes()} for path in sorted(PRESETS.glob("*.yaml"))]
    return [*presets, {"a.yaml": to_yaml(Config()).encode()}]


def _rows() -> list[Files]:
    lines = b"".join((EXAMPLES / "llm-orders" / "train.jsonl").read_bytes().splitlines(True)[:6])
    share = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "score": 1}
    alpaca = {"instruction": "a", "input": "b", "output": "c", "text": None, "label": True}
    picture = saved("PNG", (32, 32))
    table = json.dumps({"file_name": "a.png", "text": "a dog", "train": True}).encode()
    return [
        {"a.jsonl": lines},
        {"a.jsonl": b"\n".join(json.dumps(row).encode() for row in (share, alpaca, {"text": "x"}))},
        {"a.json": json.dumps([alpaca, share]).encode()},
        {"a.txt": b"Once upon a time.\n" * 3},
        {"_a.png": picture, "metadata.jsonl": table + b"\n"},
        {"_a.png": picture, "metadata.csv": b'file_name,text\na.png,"a dog, sitting"\n'},
        {"_b.png": picture, "b.txt": b"a cat"},
    ]


def saved(form: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """A picture as a file of a format."""
    from PIL import Image

    pixels = bytes((index * index * 7 + index // 3) % 251 for index in range(size[0] * size[1] * 4))
    content = BytesIO()
    Image.frombytes("RGBA", size, pixels).convert(mode).save(content, form, **options)
    return content.getvalue()


def packed(files: Files) -> bytes:
    """A zip file, the same every time."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return content.getvalue()


def _sets() -> list[Files]:
    picture, mask = saved("PNG", (40, 32)), saved("PNG", (20, 16), "L")
    row = {"file_name": "a.png", "text": "a dog", "repeats": 2, "weight": 0.5, "frame": [0, 0, 1, 0.9], "mask": "b.png"}
    table = json.dumps(row).encode()
    columns = b'file_name,text,repeats,weight,frame,mask\na.png,a dog,3,1.5,"0 0 1 0.8",b.png\n'
    return [
        {"_a.png": picture, "_b.png": mask, "metadata.jsonl": table},
        {"_a.png": picture, "_b.png": mask, "metadata.csv": columns},
        {"_a.png": picture, "a.mask.png": mask},
        {"a.zip": packed({"a.png": picture, "b.png": mask, "metadata.jsonl": table})},
        {"a.zip": packed({"x/3_a dog/a.png": picture, "x/3_a dog/a-masklabel.png": mask, "x/1_cat/b.png": picture})},
    ]


def _pictures() -> list[Files]:
    from PIL import Image, ImageCms, PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("workflow", "x" * 2000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    size = (60, 40)
    return [
        {"a.png": saved("PNG", size)},
        {"a.png": saved("PNG", size, "RGBA", pnginfo=texts, icc_profile=profile)},
        {"a.png": saved("PNG", size, "P")},
        {"a.jpg": saved("JPEG", size, exif=turned, icc_profile=profile)},
        {"a.jpg": saved("JPEG", size, "CMYK")},
        {"a.jpg": saved("JPEG", size, progressive=True)},
        {"a.webp": saved("WEBP", size, "RGBA")},
        {"a.gif": saved("GIF", size, "P")},
        {"a.bmp": saved("BMP", size)},
        {"a.tiff": saved("TIFF", size)},
        {"a.tiff": saved("TIFF", size, compression="tiff_lzw")},
        {"a.tiff": saved("TIFF", size, compression="tiff_adobe_deflate")},
        {"a.avif": saved("AVIF", size)},
    ]


def _safetensors() -> list[Files]:
    import numpy as np
    from safetensors.numpy import save

    draw = np.random.default_rng(0)
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    width = json.loads((EMBEDDED_BASE / "unet" / "config.json").read_text())["block_out_channels"][1]
    pair = {"down": draw.normal(size=(4, width)), "up": draw.normal(size=(width, 4))}
    pair = {name: value.astype(np.float32) for name, value in pair.items()}
    kohya = layer.replace(".", "_")
    said = {"modelspec.trigger_phrase": "sks", "ss_tag_frequency": '{"a": {"b": 1}}'}
    new = {f"unet.{layer}.lora_A.weight": pair["down"], f"unet.{layer}.lora_B.weight": pair["up"]}
    old = {f"lora_unet_{kohya}.lora_{name}.weight": value for name, value in pair.items()}
    old[f"lora_unet_{kohya}.alpha"] = np.array(2.0, np.float32)
    stated = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"x": 1}})}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q"], "alpha_pattern": {"x": 1}}
    peft = {f"base_model.model.{layer}.lora_{side}.weight": pair[name] for side, name in (("A", "down"), ("B", "up"))}
    whole = {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight": (2, 2),
        "model.diffusion_model.label_emb.0.0.weight": (2, 2),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (2, 2),
        "conditioner.embedders.1.model.positional_embedding": (2, 2),
        "first_stage_model.decoder.conv_in.weight": (2, 2),
        "v_pred": (1,),
    }
    base = {name: np.ones(shape, np.float16) for name, shape in whole.items()}
    return [
        {"adapter.safetensors": save(new, stated)},
        {"adapter.safetensors": save(old, said)},
        {"adapter_model.safetensors": save(peft), "adapter_config.json": json.dumps(config).encode()},
        {"base.safetensors": save(base, {"modelspec.prediction_type": "v"})},
    ]


def _gguf() -> list[Files]:
    import gguf
    import numpy as np

    words = ["<|endoftext|>", *(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "ab", "cd"]
    width, count = 32, len(words)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        writer: Any = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(64)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(4)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(count)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(words)
        writer.add_token_types([3] + [1] * (count - 1))
        writer.add_token_merges(["a b", "c d"])
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(0)
        writer.add_chat_template("{% for m in messages %}{{ m['role'] + m['content'] }}<|endoftext|>{% endfor %}")
        shapes = {"token_embd": (count, width), "output": (count, width), "output_norm": (width,)}
        block = {name: (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        block |= {"ffn_gate": (64, width), "ffn_up": (64, width), "ffn_down": (width, 64)}
        block |= {"attn_norm": (width,), "ffn_norm": (width,)}
        for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
            writer.add_tensor(f"{name}.weight", np.full(shape, 0.01, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return [{"a.gguf": path.read_bytes()}]


def _runs() -> list[Files]:
    events = [
        {"kind": "waiting", "time": 1.0, "reason": "x"},
        {"kind": "stage", "time": 2.0, "name": "y", "done": 1, "total": 2},
        {"kind": "started", "time": 3.0, "step": 0, "steps": 9, "device": "cpu", "precision": "fp32", "parameters": 5},
        {"kind": "stepped", "time": 4.0, "step": 1, "loss": 0.5, "lr": 1e-4, "grad_norm": 1.0, "seconds": 0.1},
        {"kind": "validated", "time": 5.0, "step": 1, "loss": 0.4},
        {"kind": "measured", "time": 5.0, "name": "z", "value": 1.0},
        {"kind": "sampled", "time": 6.0, "step": 1, "prompt": "p", "path": "samples/a.txt"},
        {"kind": "saved", "time": 7.0, "step": 1, "path": "checkpoints/step-1"},
        {"kind": "note", "time": 8.0, "message": "m"},
        {"kind": "memory", "time": 8.0, "stage": "steps", "allocated": 1, "reserved": 2},
        {"kind": "exported", "time": 8.0, "step": 1, "paths": ["x.safetensors"]},
        {"kind": "stopped", "time": 9.0, "step": 1},
    ]
    lines = b"\n".join(json.dumps(event).encode() for event in events) + b"\n"
    config = to_yaml(Config()).encode()
    text = config.replace(b"task: image", b"task: text")
    process = json.dumps({"pid": 999_999, "created": 1.0, "since": 3.5}).encode()
    folder = "20260101-000000-x/"
    rest = {f"{folder}samples/a.txt": b"said", f"{folder}checkpoints/step-1/state.safetensors": safetensors({})}
    rest |= {f"{folder}log.txt": b"log", f"{folder}x.safetensors": safetensors({})}
    return [
        {f"{folder}config.yaml": settings, f"{folder}events.jsonl": lines, f"{folder}process.json": process, **rest}
        for settings in (config, text)
    ]


def _folders() -> list[Files]:
    """The small files of a picture model; the door puts the weights beside them."""
    texts = [path for path in sorted(EMBEDDED_BASE.rglob("*")) if path.suffix in (".json", ".txt") and path.is_file()]
    return [{str(path.relative_to(EMBEDDED_BASE)): path.read_bytes() for path in texts}]


def _language() -> list[Files]:
    """A language model's folder."""
    import torch

    from lowrank_diffusion.config import BaseModelConfig
    from lowrank_diffusion.text.model import Base

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gguf"
        path.write_bytes(of("gguf")[0]["a.gguf"])
        base, target = (
            Base.of(BaseModelConfig(path=str(path)), torch.device("cpu"), torch.float32),
            Path(folder) / "model",
        )
        base.tokenizer().save_pretrained(target)
        base.model().save_pretrained(target)
        return [{file.name: file.read_bytes() for file in sorted(target.iterdir())}]
