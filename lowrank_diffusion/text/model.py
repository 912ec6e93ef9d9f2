"""A causal language model and its tokenizer: loading them, from safetensors or GGUF only, and what they can take."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .. import paths, tensor_files
from ..bases import MODEL_KEY, ModelError
from ..config import EMBEDDED, BaseModelConfig, ConfigError, Problem, TextConfig
from ..files import Unreadable, read_object
from ..hub import explained as hub_explained
from ..loading import explained, no_progress_bar
from ..quantize import quantize
from ..tensor_files import read as read_header
from . import encode
from .source import Source, folder_problems, resolve

CAUSAL = "sdpa_causal"
"""The attention of training. transformers looks into every batch for packed sequences, which makes the host wait for
the device, and then asks for a mask; under this name it does neither, and plain causal kernels run unless a mask is
given. Right for sequences that are filled up at their end; not for generating in batches."""

AttentionInterface.register(CAUSAL, sdpa_attention_forward)

_SIZES = "lowrank-sizes.json"
"""Of a converted model: how large each of its files was when it was written."""
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_Loader: Any = AutoModelForCausalLM  # its types do not know output_loading_info
_NO_MODEL = ("has no config.json.", "Give the id of a language model in the layout of transformers.")
_CONVERTING = threading.Lock()
_BROKEN = "Is it a causal language model that this release of transformers knows? If so, download it again."


@dataclass(frozen=True)
class Base:
    """A base model on one device."""

    source: Source
    device: torch.device
    dtype: torch.dtype
    quantize: str = "none"

    @classmethod
    def of(cls, cfg: BaseModelConfig, device: torch.device, dtype: torch.dtype) -> Base:
        """From settings. Raises ModelError."""
        return cls(resolve(cfg), device, dtype, cfg.quantize)

    def tokenizer(self, template: str = "auto") -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template that ``text.template`` asks for. Raises ModelError, ConfigError."""
        folder = self._folder(weights=False)
        with explained(f"{self.source.label}: its tokenizer", MODEL_KEY, _BROKEN):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if self.source.label == EMBEDDED:
            # Its digits are tokens of their own, which transformers does not read from a GGUF file.
            parts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
            tokenizer.backend_tokenizer.pre_tokenizer = Sequence(parts)
        encode.use_template(tokenizer, template)
        problems = encode.tokenizer_problems(tokenizer, template)
        if problems:
            raise ConfigError(problems)
        return tokenizer

    def model(self) -> PreTrainedModel:
        """The model, frozen, in eval mode, on the device. Raises ModelError, ConfigError."""
        folder = self._folder(weights=True)
        with explained(self.source.label, MODEL_KEY, _BROKEN), no_progress_bar():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            _refuse_outsized(config, folder)
            _without_dropout(config)
            model, info = _Loader.from_pretrained(
                folder, config=config, dtype=self.dtype, use_safetensors=True, local_files_only=True,
                trust_remote_code=False, output_loading_info=True,
                device_map={"": self.device if self.quantize == "none" else "cpu"},
            )  # fmt: skip
            wrong = sorted(info["missing_keys"]) + [str(key) for key in info["mismatched_keys"]]
            if wrong:
                raise ValueError(f"{len(wrong)} weights are missing or of another shape: {', '.join(wrong[:3])}")
        return quantize(model, self.quantize, self.device).to(self.device).eval().requires_grad_(False)  # type: ignore[return-value]

    def _folder(self, *, weights: bool) -> Path:
        """The model's files, or all of them but the weights, as a folder of this disk."""
        path = Path(self.source.path)
        if self.source.kind == "hub":
            return _fetch(self.source, weights)
        if self.source.kind == "folder":
            return path
        return _converted_model(path, self.dtype) if weights else _converted_tokenizer(path)


def problems(model: Any, cfg: TextConfig) -> list[Problem]:
    """What a model cannot take of the settings for texts."""
    problems, config = [], model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    if context and cfg.length > context:
        problems.append(Problem("text.length", f"must be at most {context}, the base's context, got {cfg.length}."))
    window = getattr(config, "sliding_window", None)
    if cfg.packing and window and getattr(config, "use_sliding_window", True) and cfg.length > window:
        rule = f"needs text.length of at most {window}, the base's attention window, got {cfg.length}."
        problems.append(Problem("text.packing", rule, "Set text.packing=false, or a shorter text.length."))
    if cfg.packing and getattr(model, "_is_stateful", False):
        rule = "would let rows see each other: this base carries a state along the sequence."
        problems.append(Problem("text.packing", rule, "Set text.packing=false."))
    return problems


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Inside, a model that computes attention with SDPA does so under ``name``; others are left as they are."""
    config = model.config
    before = config._attn_implementation
    if before not in ("sdpa", CAUSAL):
        yield
        return
    try:
        config._attn_implementation = name
        yield
    finally:
        config._attn_implementation = before


def _refuse_outsized(config: Any, folder: Path) -> None:
    """Raise ValueError for a configuration of a model far larger than its weights: what is missing would be made up."""
    own = config.get_text_config()
    wide, words, layers = (getattr(own, name, 0) for name in ("hidden_size", "vocab_size", "num_hidden_layers"))
    least = wide * words + layers * wide * (wide + (getattr(own, "intermediate_size", 0) or 0))
    files = list(folder.glob("*.safetensors"))
    there, tensors = sum(path.stat().st_size for path in files), sum(len(read_header(path).shapes) for path in files)
    if layers > tensors:  # a thousand layers take seconds to build, even of nothing
        raise ValueError(f"its configuration is of a model of {layers:,} layers, its files have {tensors:,} tensors")
    if least > 16 * there + 10_000_000:
        raise ValueError(f"its configuration is of a model of {least:,} weights, its files have {there:,} bytes")


def _without_dropout(config: Any) -> None:
    """Frozen weights are not trained, so their own dropout, which older models have, would only be noise."""
    for name, value in vars(config).items():
        if isinstance(value, float) and ("drop" in name):
            setattr(config, name, 0.0)


def _fetch(source: Source, weights: bool) -> Path:
    """The local folder of a hub model; its configuration comes first, so that another kind is refused early."""
    with hub_explained(source.path, source.revision, MODEL_KEY, _NO_MODEL):
        hf_hub_download(source.path, "config.json", revision=source.revision)
        wanted = [name for name in _FILES if weights or name != "*.safetensors"]
        folder = Path(snapshot_download(source.path, revision=source.revision, allow_patterns=wanted))
    problems = [p for p in folder_problems(folder) if weights or "safetensors" not in p.rule]
    if problems:
        raise ModelError([Problem(p.key, p.rule.replace(str(folder), source.path), p.hint) for p in problems])
    return folder


def _converted_model(path: Path, dtype: torch.dtype) -> Path:
    """The weights of a GGUF file as a folder of safetensors in ``dtype``."""

    def make(folder: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True, dtype=dtype,
            quantization_config=GgufConfig(dequantize=True),
        )  # fmt: skip
        model.save_pretrained(folder)

    return _made_once(path, str(dtype), make)


def _converted_tokenizer(path: Path) -> Path:
    """The tokenizer of a GGUF file as a folder."""

    def make(folder: Path) -> None:
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True).save_pretrained(folder)

    return _made_once(path, "tokenizer", make)


@contextmanager
def _read_once() -> Iterator[None]:
    """Inside, one thread at a time, gguf gives what it has read or made before.

    transformers reads a file's header for the settings and for the weights again, and makes the table of all names once
    for every module of the model: two thirds of the time that a conversion takes.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    with _CONVERTING:
        slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
        bar, reader.tqdm = reader.tqdm, functools.partial(reader.tqdm, disable=True)  # not one of transformers' own
        try:
            for name, made in slow.items():
                setattr(gguf, name, functools.cache(made))
            yield
        finally:
            reader.tqdm = bar
            for name, made in slow.items():
                setattr(gguf, name, made)


def _made_once(path: Path, what: str, make: Callable[[Path], None]) -> Path:
    """What ``make`` writes from a GGUF file, kept in the cache: reading one takes half a minute, a folder a second."""
    facts = path.stat()
    key = hashlib.blake2b(f"{path.name} {facts.st_size} {facts.st_mtime_ns} {what}".encode(), digest_size=8)
    folder = paths.cache_folder() / "bases" / key.hexdigest()
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    if _is_whole(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with explained(path.stem, MODEL_KEY, _BROKEN), no_progress_bar(), _read_once():
        try:
            make(partial)
            sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
            (partial / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")
            if not folder.is_dir():
                os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a converted model is as it was written, as far as can be seen at once; else it is made again."""
    try:
        sizes = read_object(folder / _SIZES)
        same = sizes == {file.name: file.stat().st_size for file in folder.iterdir() if file.name != _SIZES}
        for weights in folder.glob("*.safetensors"):
            tensor_files.read(weights)
    except (Unreadable, OSError, tensor_files.HeaderError):
        return False
    return same
