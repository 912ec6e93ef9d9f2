"""Files that are hostile on purpose: each is one way to take time or memory, or to be of another type than is said."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from io import BytesIO
from typing import Any

from .originals import Files, chunk, of, packed, safetensors, saved


def _hand_yaml() -> list[tuple[str, Files]]:
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % before] * 9))
        for before, name in zip(b"abcdefgh", b"bcdefghi", strict=True)
    )
    many = b"".join(b"key%d: 1\n" % number for number in range(60_000))
    texts = {
        "aliases": bomb,
        "tag int": b"seed: !!int x",
        "timestamp": b"seed: !!timestamp x",
        "digits": b"seed: " + b"9" * 5000,
        "keys": many,
        "deep": b"[" * 100_000,
        "deeper": b"{a: " * 50_000,
        "huge": b"a: " + b"x" * 3_000_000,
        "words": b"data: {word: " + b"x" * 300_000 + b", prompt: '" + b"{word}" * 50_000 + b"'}",
        "zero": b"a: \0",
        "pattern": b"adapter: {targets: '" + b"(" * 3000 + b")" * 3000 + b"'}",
        "half": b'data: {prompt: "\\uD800"}',
        "comment": b"#" * 900_000,
        "dashes": b"- " * 100_000,
        "spaces": b" " * 900_000,
        "quotes": b"a: '" + b"''" * 400_000,
    }
    return [(name, {"a.yaml": text}) for name, text in texts.items()]


def _hand_rows() -> list[tuple[str, Files]]:
    deep = b'{"messages": ' + b"[" * 50_000
    lines = {
        "deep": deep,
        "lines": b"x\n" * 3_000_000,
        "blank": b"\n" * 5_000_000,
        "digits": b'{"text": ' + b"9" * 6000 + b"}",
    }
    found: list[tuple[str, Files]] = [(name, {"a.jsonl": text}) for name, text in lines.items()]
    picture = saved("PNG", (32, 32))
    found += [
        (f"table {name}", {"_a.png": picture, "metadata.jsonl": text[:2_000_000]}) for name, text in lines.items()
    ]
    wide = b"file_name,text\na.png," + b'"' * 400_001
    return [*found, ("csv", {"_a.png": picture, "metadata.csv": wide}), ("json", {"a.json": b"[" * 900_000})]


def _hand_pictures() -> list[tuple[str, Files]]:
    def png(width: int, height: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")

    big = bytes(1 + 7_700 * 4) * 7_700
    texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    return [
        ("59 megapixels with transparency", {"a.png": png(7_700, 7_700, 6, big)}),
        ("100 megapixels", {"a.png": png(10_000, 10_000, 6, bytes(40_001) * 100)}),
        ("a thread", {"a.png": png(16, 400_000, 2, bytes(49) * 400_000)}),
        ("texts", {"a.png": png(32, 32, 2, bytes(97 * 32), texts * 3)}),
        (
            "profile",
            {"a.png": png(32, 32, 2, bytes(97 * 32), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(60_000_000))))},
        ),
        ("pieces", {"a.png": png(32, 32, 2, bytes(97 * 32), chunk(b"tEXt", b"") * 300_000)}),
    ]


def _hand_safetensors() -> list[tuple[str, Files]]:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    many = (
        b"{"
        + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(250_000))
        + b"}"
    )
    headers: dict[str, Any] = {
        "deep": b'{"a":' + b"[" * 100_000,
        "metadata": {"__metadata__": [1], "a": entry},
        "many": many,
        "trigger": {
            "__metadata__": {"modelspec.trigger_phrase": "x" * 9_000_000},
            "lora_unet_a.lora_down.weight": entry | {"shape": [1, 1]},
            "lora_unet_a.lora_up.weight": entry | {"shape": [1, 1]},
        },
        "long name": {"lora_" + "x" * 1_000_000: entry},
        "lists": b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
        "negative": {"lora_a": entry | {"shape": [-1]}},
        "huge": {"lora_a": entry | {"shape": [2**62, 2**62]}},
        "text shape": {"lora_a": entry | {"shape": "ab"}},
        "half": {"lora_\ud800": entry},
    }
    files = {name: safetensors(header, bytes(4)) for name, header in headers.items()}
    return [
        (name, {place: content})
        for name, content in files.items()
        for place in ("adapter.safetensors", "base.safetensors")
    ]


def _hand_gguf() -> list[tuple[str, Files]]:
    def text(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    start, fact = b"GGUF" + struct.pack("<I", 3), text(b"tokenizer.ggml.tokens") + struct.pack("<I", 9)
    files = {
        "empty": start + struct.pack("<QQ", 0, 0),
        "tensors": start + struct.pack("<QQ", 2**62, 0),
        "facts": start + struct.pack("<QQ", 0, 2**62),
        "list": start + struct.pack("<QQ", 0, 1) + fact + struct.pack("<IQ", 0, 2**60),
        "texts": start + struct.pack("<QQ", 0, 1) + fact + struct.pack("<IQ", 8, 2**60),
        "lists": start + struct.pack("<QQ", 0, 1) + fact + struct.pack("<IQ", 9, 2**60),
        "layers": of("gguf")[0]["a.gguf"].replace(
            text(b"llama.block_count") + struct.pack("<II", 4, 1),
            text(b"llama.block_count") + struct.pack("<II", 4, 2**31),
        ),
    }
    return [(name, {"a.gguf": content}) for name, content in files.items()]


def _hand_runs() -> list[tuple[str, Files]]:
    run, place = dict(of("runs")[0]), "20260101-000000-x/"
    markup = (
        json.dumps(
            {
                "kind": "started",
                "time": 1,
                "step": 0,
                "steps": "<img src=x onerror=alert(1)>",
                "device": 1,
                "precision": [],
                "parameters": None,
            }
        ).encode()
        + b"\n"
    )
    when = b'{"kind": "note", "time": "yesterday", "message": {}}\n{"kind": "stepped", "time": 1e400, "step": "1"}\n'
    changes = {
        "markup": {"events.jsonl": markup},
        "time": {"events.jsonl": when},
        "process": {"process.json": b'{"pid": "x"}'},
        "deep process": {"process.json": b"[" * 100_000},
        "deep event": {"events.jsonl": b"[" * 100_000 + b"\n"},
        "process list": {"process.json": b'{"pid": 1, "created": [], "since": {}}'},
        "config": {"config.yaml": b"!!int x"},
        "bytes": {"events.jsonl": b"\xff\xfe\0" * 1000, "config.yaml": b"\xff", "process.json": b"\xff"},
    }
    return [(name, run | {place + file: content for file, content in files.items()}) for name, files in changes.items()]


def _hand_language() -> list[tuple[str, Files]]:
    own = of("language")[0]
    config = json.loads(own["config.json"])
    large = {
        f"{key} {value}"[:60]: {"config.json": json.dumps(config | {key: value}).encode()}
        for key, value in (
            ("num_hidden_layers", 10**9),
            ("hidden_size", 10**6),
            ("intermediate_size", 10**6),
            ("vocab_size", 10**6),
            ("num_attention_heads", 0),
            ("max_position_embeddings", 10**12),
            ("rope_theta", "x"),
            ("torch_dtype", "x"),
            ("model_type", "gpt2"),
            ("model_type", "nonsense"),
            ("auto_map", {"AutoModelForCausalLM": "x--y.Z"}),
            ("quantization_config", {"quant_method": "gptq", "bits": 4}),
            ("num_hidden_layers", 900),
        )
    }
    template = {
        "chat_template.jinja": b"{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}"
    }
    classes = {"chat_template.jinja": b"{{ ''.__class__.__mro__[1].__subclasses__() }}"}
    deep = {name: {name: b"[" * 100_000} for name in own if name.endswith(".json")}
    return [(name, own | files) for name, files in (large | deep | {"endless": template, "classes": classes}).items()]


def _hand_folders() -> list[tuple[str, Files]]:
    own = of("folders")[0]
    deep = {name: own | {name: b"[" * 100_000} for name in own if name.endswith(".json")}
    unet = json.loads(own["unet/config.json"])
    large = {
        key: own | {"unet/config.json": json.dumps(unet | {key: 10**7}).encode()}
        for key in ("layers_per_block", "sample_size")
    }
    return [(name, files) for name, files in (deep | large).items()]


def _hand_sets() -> list[tuple[str, Files]]:
    picture = saved("PNG", (32, 32))
    bomb = BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(200_000_000))
    row = {"file_name": "a.png", "text": "x"}
    numbers = [{"frame": [0, 0, 10**400, 1]}, {"repeats": 10**400}, {"weight": "9" * 5000}, {"mask": "/" * 5000}]
    tables = [{"_a.png": picture, "metadata.jsonl": json.dumps(row | number).encode()} for number in numbers]
    archives = {
        "out": {"../../out.png": picture},
        "deep": {"/".join("abcdefgh" * 40) + ".png": picture},
        "many": {f"{number}.png": b"" for number in range(30_000)},
        "itself": {"a.zip": packed({"a.png": picture})},
    }
    return [
        *((f"table {number}", files) for number, files in enumerate(tables)),
        *((f"zip {name}", {"a.zip": packed(files)}) for name, files in archives.items()),
        ("zip bomb", {"a.zip": bomb.getvalue()}),
    ]


HAND = {
    "safetensors": _hand_safetensors,
    "gguf": _hand_gguf,
    "pictures": _hand_pictures,
    "yaml": _hand_yaml,
    "rows": _hand_rows,
    "runs": _hand_runs,
    "folders": _hand_folders,
    "language": _hand_language,
    "sets": _hand_sets,
}
