"""Files to try: real small ones, changed at random, and some hostile on purpose. A case is (kind, seed, number).

Everything is drawn from ``random.Random`` of these three, so that a case can be made again alone.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from . import hand, originals

HUGE = [0, 1, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63, 2**64 - 1]
WEIRD: list[object] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\ud800",
    "x" * 100_000,
    [],
    {},
    [[]],
    [[[[[[[[]]]]]]]],
    {"a": {"b": {}}},
    ["\x1b[2J"],
    "<script>alert(1)</script>",
    "../../etc/passwd",
    [1] * 5000,
]
PIECES = [
    b"[" * 5000,
    b"{" * 5000,
    b'{"a":' * 3000,
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"9" * 6000,
    b"1e999",
    b"-",
    b"NaN",
    b'"\\ud800"',
    b"&a ",
    b"*a",
    b"!!int x",
    b"!!python/object/apply:os.system [x]",
    b"<<: *a",
    b"\n",
    b"\r\n",
    b"\x1b[2J",
    b"? ",
    b"- " * 1000,
    b"<script>",
    b"\xe2\x80\xa8",
    b"null",
    b"true",
    b"#",
    b"---\n",
    b"%YAML 9\n",
    b"\x85",
]


@dataclass(frozen=True)
class Case:
    """Files by name; the door of the kind knows which is which."""

    about: str
    files: dict[str, bytes]


def make(kind: str, seed: int, number: int) -> Case:
    """One case; the first of a kind are those that were written by hand."""
    by_hand = HAND[kind]()
    if number < len(by_hand):
        about, files = by_hand[number]
        return Case(f"by hand: {about}", files)
    draw = random.Random(f"{kind} {seed} {number}")
    files = dict(draw.choice(originals.of(kind)))
    name = draw.choice([name for name in files if not name.startswith("_")])
    files[name], about = _changed(draw, name, files[name])
    return Case(f"{name}: {about}", files)


def _changed(draw: random.Random, name: str, content: bytes) -> tuple[bytes, str]:
    ways: list[Callable[[random.Random, bytes], bytes]] = [_flip, _cut, _insert, _number, _repeat]
    if name.endswith((".json", ".jsonl")):
        ways += [_json] * 5
    if name.endswith(".safetensors"):
        ways += [_header] * 6
    if name.endswith((".yaml", ".txt", ".csv", ".jsonl", ".json")):
        ways += [_words] * 3
    if name.endswith(".png"):
        ways += [_checked] * 3
    done = []
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        way = draw.choice(ways)
        content = way(draw, content)
        done.append(way.__name__.strip("_"))
    return content, " ".join(done)


def _place(draw: random.Random, content: bytes) -> int:
    """The beginning is where formats are decided."""
    return draw.randrange(max(1, min(len(content), draw.choice((16, 200, 10**9)))))


def _flip(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 20)) if changed else 0):
        changed[_place(draw, content)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _cut(draw: random.Random, content: bytes) -> bytes:
    at = _place(draw, content)
    return content[:at] if draw.random() < 0.6 else content[:at] + content[at + draw.randrange(1, 100) :]


def _insert(draw: random.Random, content: bytes) -> bytes:
    at = _place(draw, content)
    return content[:at] + draw.choice([*PIECES, draw.randbytes(draw.randrange(1, 64))]) + content[at:]


def _number(draw: random.Random, content: bytes) -> bytes:
    at, value = _place(draw, content), draw.choice(HUGE)
    form, mask = draw.choice((("<I", 2**32 - 1), ("<Q", 2**64 - 1), (">I", 2**32 - 1), ("<H", 2**16 - 1)))
    packed = struct.pack(form, value & mask)
    return content[:at] + packed + content[at + len(packed) :]


def _repeat(draw: random.Random, content: bytes) -> bytes:
    at = _place(draw, content)
    return content[:at] + content[at : at + 200] * draw.choice((2, 10, 500)) + content[at:]


def _words(draw: random.Random, content: bytes) -> bytes:
    """A word or number of a text becomes another one."""
    words = content.split(b" ")
    at = draw.randrange(len(words))
    other = draw.choice([*PIECES, json.dumps(draw.choice(WEIRD)).encode(), draw.choice(words)])
    words[at] = other if draw.random() < 0.7 else words[at] + other
    return b" ".join(words)


def _json(draw: random.Random, content: bytes) -> bytes:
    """One value of a JSON text, or of one of its lines, becomes another one."""
    lines = content.split(b"\n")
    at = draw.randrange(len(lines)) if len(lines) > 3 and lines[0].endswith(b"}") else None
    try:
        value = json.loads(content if at is None else lines[at])
    except (ValueError, RecursionError):
        return _insert(draw, content)
    changed = json.dumps(_other(draw, value)).encode()
    if at is None:
        return changed
    lines[at] = changed
    return b"\n".join(lines)


def _other(draw: random.Random, value: object) -> object:
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        return value | {draw.choice((key, key, key, "x", "")): _other(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        return [*value[:at], _other(draw, value[at]), *value[at + 1 :]]
    return draw.choice(WEIRD)


def _header(draw: random.Random, content: bytes) -> bytes:
    """The header of a safetensors file says something else; its length is right again."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        text = json.dumps(_other(draw, header)).encode()
    except (ValueError, RecursionError):
        return _flip(draw, content)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _checked(draw: random.Random, content: bytes) -> bytes:
    """A piece of a PNG says something else, and its checksum is right."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        parts.append(content[at + 4 : at + 8 + size])
        at += size + 12
    if len(parts) < 2:
        return _flip(draw, content)
    chosen = draw.randrange(1, len(parts))
    body = draw.choice((_flip, _cut, _number))(draw, parts[chosen][4:])
    parts[chosen] = parts[chosen][:4] + body
    return parts[0] + b"".join(originals.chunk(part[:4], part[4:]) for part in parts[1:])


HAND: dict[str, Callable[[], list[tuple[str, dict[str, bytes]]]]] = {
    kind: cache(made) for kind, made in hand.HAND.items()
}
KINDS = tuple(HAND)
