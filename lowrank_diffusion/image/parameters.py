"""What a picture was drawn from, as text inside its PNG: every setting for us, and what A1111 and CivitAI read.

Ours is a JSON object under the key ``lowrank_diffusion``. Theirs, under ``parameters``, is the infotext of A1111
(modules/infotext_utils.py): the prompt with ``<lora:NAME:STRENGTH>`` in it, a line "Negative prompt: ...", and a last
line of "Name: value" pairs, in which a value with a comma, a colon or a line feed is a JSON string.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError
from ..files import Unreadable
from . import kept, png_texts, samplers
from .request import LIMITS, AdapterChoice, DrawRequest, facts, violation

OWN, COMMON = "lowrank_diffusion", "parameters"
PROGRAM = "Lowrank Diffusion"
NEGATIVE = "Negative prompt:"
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_LORA = re.compile(r"\s*<lora:([^:<>]+):([^:<>]+)>")
_PAIRS_AT_LEAST = 3
"""A line with fewer pairs is a line of the prompt; A1111 counts so."""
_SAID_OTHERWISE = ("Version", "Model hash", "Lora hashes", "Hashes", "VAE hash", "Schedule type", "Size")
"""Pairs that need no word: they repeat others, or are read with one."""
_TEXT_FIELDS = ("prompt", "negative", "sampler")


@dataclass(frozen=True)
class Parameters:
    """What was read: fields of a :class:`.request.DrawRequest`, adapters by file or name, and what was left out."""

    values: dict[str, Any]
    adapters: tuple[AdapterChoice, ...] = ()
    """Of our pictures with the file's path; of others with the name by which a prompt calls it."""
    notes: tuple[str, ...] = field(default=())


def save(image: Image.Image, path: Path, request: DrawRequest, seed: int, adapted: bool, sampler: str) -> None:
    """Write a PNG that holds both texts; ``sampler``: the name of the one that drew. Raises OSError."""
    information = PngInfo()
    information.add_itxt(OWN, json.dumps(facts(request, seed, adapted), ensure_ascii=False))
    information.add_text(COMMON, infotext(request, seed, adapted, sampler, image.size))
    partial = path.with_name(f"{path.name}.partial")
    try:
        image.save(partial, "png", pnginfo=information)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def infotext(request: DrawRequest, seed: int, adapted: bool, sampler: str, size: tuple[int, int]) -> str:
    """A1111's text for one picture."""
    files = [(kept.for_others(Path(choice.path)), choice.strength) for choice in request.adapters if adapted]
    names = [re.sub(r"[:<>]", "_", file.stem) for file, _ in files]
    calls = [f"<lora:{name}:{strength:g}>" for name, (_, strength) in zip(names, files, strict=True)]
    pairs: dict[str, Any] = {
        "Steps": request.steps, "Sampler": sampler, "CFG scale": f"{request.guidance:g}", "Seed": seed,
        "Size": f"{size[0]}x{size[1]}", "Model": Path(request.base.path).stem,
    }  # fmt: skip
    if request.start:
        pairs["Denoising strength"] = f"{request.change:g}"
    hashes = {name: digest for name, (file, _) in zip(names, files, strict=True) if (digest := _hash(file))}
    if hashes:
        pairs["Lora hashes"] = ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
    lines = [" ".join([request.prompt, *calls]), *([f"{NEGATIVE} {request.negative}"] if request.negative else [])]
    last = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in (pairs | {"Version": PROGRAM}).items())
    return "\n".join([*lines, last])


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(',\n:"') else value


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _hash(file: Path) -> str:
    """The short hash by which A1111 and CivitAI know an adapter: of its file without the header, 12 hex digits."""
    try:
        stat = file.stat()
        return _hash_of(file, stat.st_size, stat.st_mtime_ns) if file.suffix == ".safetensors" else ""
    except OSError:
        return ""


@functools.lru_cache(maxsize=1000)
def _hash_of(file: Path, _size: int, _time: int) -> str:
    with file.open("rb") as content:
        content.seek(8 + int.from_bytes(content.read(8), "little"))
        return hashlib.file_digest(content, "sha256").hexdigest()[:12]


def read(path: Path) -> Parameters:
    """What a PNG says that it was drawn from: our own text first, else A1111's. Raises UserError."""
    try:
        texts = png_texts.read(path)
    except Unreadable as error:
        raise UserError(f"{path.name} {error}") from None
    if OWN in texts:
        return _of_own(path, texts[OWN])
    if COMMON in texts:
        return of_infotext(texts[COMMON])
    if "workflow" in texts or texts.get("prompt", "").lstrip().startswith("{"):
        raise UserError(f"{path.name} is of ComfyUI, whose graph of nodes is not read. Type its prompt in.")
    raise UserError(
        f"{path.name} does not say what it was drawn from. A program that saved it again may have cut that."
    )


def _of_own(path: Path, text: str) -> Parameters:
    try:
        stored = json.loads(text)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"{path.name}: what it was drawn from is damaged.")
    base = stored.get("base")
    wanted = {key: stored.get(key) for key in (*_TEXT_FIELDS, *LIMITS, "start", "mask")}
    wanted["base"] = base.get("path") if isinstance(base, dict) else None
    values, notes = _sound(wanted)
    return Parameters(values, tuple(_choices(stored.get("adapters"))), tuple(notes))


def _choices(listed: Any) -> Iterator[AdapterChoice]:
    for item in listed if isinstance(listed, list) else []:
        path, strength = (item.get("path"), item.get("strength")) if isinstance(item, dict) else (None, None)
        if isinstance(path, str) and isinstance(strength, int | float) and abs(strength) < 100:
            yield AdapterChoice(path, float(strength))


def _sound(wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that a request can have, and a line for each other one."""
    values, notes = {}, []
    for name, value in wanted.items():
        if value is None:
            continue
        if name in LIMITS:
            rule = violation(name, value)
        else:
            rule = "" if isinstance(value, str) else "is not a text."
            rule = rule or (samplers.problem(value) if name == "sampler" else "")
        if rule:
            notes.append(f"{name} is not taken over: it {rule}")
        else:
            values[name] = value
    return values, notes


def of_infotext(text: str) -> Parameters:
    """What A1111's text says; what a request has no field for is named."""
    *lines, last = text.strip().split("\n")
    pairs = {name: _unquoted(value.strip()) for name, value in _PAIR.findall(last)}
    if len(pairs) < _PAIRS_AT_LEAST:
        lines, pairs = [*lines, last], {}
    at = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    prompt = "\n".join(lines[:at])
    calls = _LORA.findall(prompt)
    wanted: dict[str, Any] = {
        "prompt": _LORA.sub("", prompt).strip(),
        "negative": "\n".join(lines[at:]).removeprefix(NEGATIVE).strip(),
    }
    notes = [f"It was drawn with the model {pairs.pop('Model')}; the base stays as it is."] if "Model" in pairs else []
    numbers, odd = _numbers(pairs)
    values, wrong = _sound(wanted | numbers | _sampler(pairs, notes))
    if "change" in values:
        notes.append("Its start picture is not in the file: drop that too.")
    left = [f"{name}: {value[:60]}" for name, value in pairs.items() if name not in _SAID_OTHERWISE]
    notes += odd + wrong + ([f"Not taken over: {'; '.join(left)}."] if left else [])
    adapters = [AdapterChoice(name, number) for name, strength in calls if (number := _number(strength)) is not None]
    return Parameters(values, tuple(adapters), tuple(notes))


def _numbers(pairs: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The numbers of the last line by a request's names, taken out of ``pairs``."""
    width, _, height = pairs.get("Size", "").partition("x")
    texts = {"width": width, "height": height}
    names = {"steps": "Steps", "guidance": "CFG scale", "seed": "Seed", "change": "Denoising strength"}
    texts |= {name: pairs.pop(theirs, "") for name, theirs in names.items()}
    numbers = {name: _number(text) for name, text in texts.items() if text}
    odd = [f"{name} is not taken over: it is not a number." for name, value in numbers.items() if value is None]
    return {name: value for name, value in numbers.items() if value is not None}, odd


def _number(text: str) -> Any:
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[-+]?(\d{1,18}\.?\d{0,18}|\.\d{1,18})(e[-+]?\d{1,2})?", text) else None


def _sampler(pairs: dict[str, str], notes: list[str]) -> dict[str, str]:
    """The sampler, whose schedule newer programs write beside it; one that is not here is noted."""
    name = pairs.pop("Sampler", "")
    joined = f"{name} {pairs.get('Schedule type', '')}"
    name = joined if joined in samplers.SAMPLERS else name
    if samplers.problem(name):
        notes.append(f"The sampler {name} is not here; the base's own is taken.")
        return {}
    return {"sampler": name} if name else {}
