"""How many tokens a prompt has and where it is cut, told with a base's own tokenizer and without torch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bases import MODEL_KEY
from ..files import Unreadable, read_object
from ..loading import explained
from .source import Source

_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""CLIP's words (OpenAI's simple_tokenizer.py)."""


@dataclass(frozen=True)
class Cut:
    """A prompt that is longer than what is read of it."""

    tokens: int
    """All it has."""
    lost: str
    """The words from where it is cut."""


class Reader:
    """What of prompts a base reads: ``chunks`` times ``chunk`` tokens, the marks of begin and end not counted."""

    def __init__(self, source: Source, chunks: int):
        with explained(f"{source.label}: its tokenizer", MODEL_KEY, "Download or copy it again."):
            self._tokenizer, self.chunk = _tokenizer(source.config(source.family.tokenizers[0]))
        self.room = chunks * self.chunk

    def cut(self, prompt: str) -> Cut | None:
        """Where a prompt is cut; None if it is read whole."""
        with explained("The base's tokenizer", MODEL_KEY, "Download or copy it again."):
            encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
        if len(encoding.ids) <= self.room:
            return None
        # Offsets are those of the normalised text's characters in the prompt as it is.
        return Cut(len(encoding.ids), prompt[encoding.offsets[self.room][0] :].strip())


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> tuple[Any, int]:
    """A CLIP tokenizer and the tokens of one chunk, from a folder of the layout of transformers."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    else:
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
        spaces = normalizers.Replace(Regex(r"\s+"), " ")
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
        words = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    try:
        length = read_object(folder / "tokenizer_config.json").get("model_max_length", 77)
    except Unreadable:
        length = 77
    return tokenizer, length - 2 if isinstance(length, int) and 2 < length <= 10_000 else 75
