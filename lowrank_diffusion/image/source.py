"""Where a base model comes from, told without torch, without the network and without reading weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .. import bases, paths
from ..bases import MODEL_KEY, ModelError
from ..config import EMBEDDED, BaseModelConfig, Problem
from ..files import LARGEST_JSON, Unreadable, opened, read_object
from ..loading import explained
from . import families, folders, headers
from .families import Family
from .folders import VAE_KEY

_ACCEPTED = "Give 'embedded', a diffusers folder, one .safetensors file, or a hub id (owner/name)."


@dataclass(frozen=True)
class Source:
    """A base model that was found, or a hub id that looks right."""

    kind: Literal["folder", "file", "hub"]
    path: str
    """Absolute local path, or the hub id."""
    label: str
    """What a person calls it: 'embedded', the folder's name, the file's stem, or the hub id."""
    revision: str | None = None
    variant: str | None = None
    prediction: Literal["epsilon", "v_prediction"] | None = None
    """Overrides what the model says of itself; None: the model is right."""
    family_name: str = ""
    """Empty for a hub id, whose family is guessed by its name until its index is here."""

    @property
    def family(self) -> Family:
        """What kind of model it is."""
        return families.FAMILIES[self.family_name] if self.family_name else families.of_name(self.path)

    def config(self, part: str) -> Path:
        """The folder with a part's configuration; if it is not on this disk, the one that ships for its family."""
        own = Path(self.path) / part
        return own if self.kind == "folder" else self.family.config(part, self.prediction)

    @property
    def file(self) -> Path | None:
        """The checkpoint, where it is one file."""
        return Path(self.path) if self.kind == "file" else None


def resolve(base: BaseModelConfig) -> Source:
    """Tell what the base is and check all of it that can be checked without the network.

    Raises:
        ModelError: With everything that is wrong at once.
    """
    problems: list[Problem] = []
    located = locate(base.path, MODEL_KEY)
    if isinstance(located, Problem):
        problems.append(located)
    else:
        problems += _content_problems(located, base)
    if base.vae is not None:
        family = families.FAMILIES[families.DEFAULT] if isinstance(located, Problem) else located.family
        problems += vae_problems(base.vae, family)
    if problems or isinstance(located, Problem):
        raise ModelError(problems)
    said = None if base.prediction == "auto" else base.prediction
    return replace(located, revision=base.revision, variant=base.variant, prediction=said or located.prediction)


def locate(value: str, key: str) -> Source | Problem:
    """Tell a folder, a file and a hub id apart; a path that exists wins over a hub id of the same spelling."""
    if key == MODEL_KEY and value == EMBEDDED:
        return Source("folder", str(paths.EMBEDDED_BASE), EMBEDDED)
    location = bases.find(value, key, _ACCEPTED)
    if isinstance(location, Problem):
        return location
    source = Source(location.kind, location.path, location.label)
    return _identified(source) if key == MODEL_KEY else source


def _identified(source: Source) -> Source:
    """The same with its family, and with what it predicts where no configuration says so."""
    path = Path(source.path)
    if source.kind == "folder":
        family = families.of_folder(path)
        return replace(source, family_name=family.name) if family else source
    if source.kind == "hub" or path.suffix.lower() != ".safetensors":
        return source
    try:
        header = headers.read(path)
    except headers.HeaderError:
        return source
    family = families.of_file(header)
    if family is None:
        return source
    said: Any = family.scheduler_facts(header).get("prediction_type")
    return replace(source, family_name=family.name, prediction=said)


def fingerprint(source: Source, vae: str | None = None) -> str:
    """A short key of a model's content for caches: 16 hex digits; local weights count by size and time.

    Args:
        source: From ``resolve``. Its prediction does not count: no weight depends on it.
        vae: The config's ``base.vae``, for what depends on the VAE as well (latents).
    """
    digest = hashlib.blake2b(digest_size=8)
    for line in _facts(source):
        digest.update(f"{line}\n".encode())
    located = locate(vae, VAE_KEY) if vae else None
    if isinstance(located, Source):
        for line in _facts(located):
            digest.update(f"vae {line}\n".encode())
    return digest.hexdigest()


def native_side(source: Source) -> int:
    """Side of the pictures a base was made for, in pixels; its family's where its configuration is not here."""
    with explained(f"{source.label}: its configuration", MODEL_KEY, "Download or copy it again."):
        denoiser = read_object(source.config(source.family.denoiser) / "config.json")
        return int(denoiser["sample_size"]) * pixels_of_latent(source)


def pixels_of_latent(source: Source) -> int:
    """So many pixels a side are one of a latent, as the base's VAE has it, or its family's."""
    with explained(f"{source.label}: its configuration", MODEL_KEY, "Download or copy it again."):
        vae = source.config("vae") / "config.json"
        vae = read_object(vae if vae.is_file() else source.family.config("vae") / "config.json")
        return 2 ** (len(vae["block_out_channels"]) - 1)


def _facts(source: Source) -> Iterator[str]:
    """What identifies the content; no absolute path, so that a moved model keeps its caches."""
    yield f"{source.kind} {source.revision} {source.variant}"
    path = Path(source.path)
    if source.kind == "hub":
        yield source.path
    elif source.kind == "file":
        yield _file_fact(path, path.parent)
    else:
        for name in sorted(path.rglob("*")):
            if name.suffix in (".json", ".txt"):
                yield f"{name.relative_to(path)} {_digest(name)}"
            elif name.suffix == ".safetensors":
                yield _file_fact(name, path)


def _digest(path: Path) -> str:
    """The digest of a small file's content, or why it cannot be read."""
    try:
        with opened(path) as file:
            return hashlib.blake2b(file.read(LARGEST_JSON)).hexdigest()
    except Unreadable as error:
        return str(error)


def _file_fact(path: Path, root: Path) -> str:
    facts = path.stat()
    return f"{path.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}"


def _content_problems(located: Source, base: BaseModelConfig) -> Iterator[Problem]:
    """What is wrong with the model that was found, and with the options beside it."""
    if base.revision is not None and located.kind != "hub":
        yield Problem(
            "base.revision", f"belongs to a hub id; {located.label} is a local {located.kind}.", "Leave it empty."
        )
    if base.variant is not None and located.kind == "file":
        yield Problem("base.variant", "belongs to a folder or a hub id, not to one file.", "Leave it empty.")
    elif base.variant is not None and not re.fullmatch(r"[\w-]+", base.variant):
        yield Problem("base.variant", f"must be a word such as fp16, got {base.variant!r}.")
    elif located.kind == "folder":
        parts = [name for name in located.family.parts if name != "vae" or base.vae is None]
        yield from folders.pipeline_problems(Path(located.path), base.variant, parts)
    if located.kind == "file":
        yield from _file_problems(Path(located.path), base)


def _file_problems(path: Path, base: BaseModelConfig) -> Iterator[Problem]:
    """What keeps a file from being a checkpoint that is whole with the options beside it."""
    suffix = path.suffix.lower()
    if suffix in bases.PICKLES:
        yield Problem(
            MODEL_KEY,
            f"{path} is a pickle checkpoint; loading it could run any code in it, so it is refused.",
            "Take the .safetensors of the same model, or convert it where you trust it.",
        )
    elif suffix == ".gguf":
        yield Problem(
            MODEL_KEY, f"{path} is a GGUF file, which is not supported.", "Give the .safetensors of the model."
        )
    elif path.name == "model_index.json":
        yield Problem(MODEL_KEY, f"{path} is the index of a diffusers folder.", f"Give the folder: {path.parent}")
    elif suffix != ".safetensors":
        yield Problem(MODEL_KEY, f"{path} is not a model file.", _ACCEPTED)
    else:
        yield from _checkpoint_problems(path, base)


def _checkpoint_problems(path: Path, base: BaseModelConfig) -> Iterator[Problem]:
    try:
        header = headers.read(path)
    except headers.HeaderError as error:
        yield Problem(MODEL_KEY, f"{path} {error}")
        return
    pipeline = path.parent.parent
    for looks, advice in families.file_problems(header, vae=base.vae is None):
        inside = (pipeline / "model_index.json").is_file()
        yield Problem(MODEL_KEY, f"{path} {looks}", f"Give the folder around it: {pipeline}" if inside else advice)
    family = families.of_file(header)
    if family and base.prediction == "auto" and not family.says_prediction(header):
        rule = f"must be given for {path}: some {family.title} predict epsilon, some v, and the file says neither."
        yield Problem("base.prediction", rule, "Those for 512 pixels take epsilon, those for 768 v_prediction.")


def vae_problems(value: str, family: Family) -> Iterator[Problem]:
    """What is wrong with ``base.vae`` for a base of ``family``; of a hub id, only its spelling can be told here."""
    located = locate(value, VAE_KEY)
    if isinstance(located, Problem):
        yield located
    elif located.kind == "file":
        yield from _vae_file_problems(Path(located.path), family)
    elif located.kind == "folder":
        yield from folders.vae_problems(Path(located.path), family)


def _vae_file_problems(path: Path, family: Family) -> Iterator[Problem]:
    if path.suffix.lower() != ".safetensors":
        what = (
            "a pickle, which could run any code" if path.suffix.lower() in bases.PICKLES else "not a .safetensors file"
        )
        advice = "Give a .safetensors file, a folder with config.json and safetensors, or a hub id."
        yield Problem(VAE_KEY, f"{path} is {what}.", advice)
        return
    try:
        faults = family.vae_file_problems(headers.read(path))
    except headers.HeaderError as error:
        yield Problem(VAE_KEY, f"{path} {error}")
        return
    for looks, advice in faults:
        yield Problem(VAE_KEY, f"{path} {looks}", advice)
