"""The tokenizer: byte-level BPE in CLIP's format, trained on the captions themselves.

"sks" is kept as one token, so that personalisation has a word to attach to. Start and end tokens are the
last two ids; the end token also pads.
"""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from . import words
from .captions import unknown
from .settings import CONTEXT

START, END = "<|startoftext|>", "<|endoftext|>"


def train(captions: list[str], extra: list[str], vocabulary: int, folder: Path, seed: int = 0) -> None:
    """Learn `vocabulary` tokens and write a folder that CLIPTokenizer loads.

    `extra` are words to know beside those of the captions (tags, synonyms).
    """
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    blank = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[])
    draft = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    draft.normalizer, draft.pre_tokenizer = _normal_form(blank, normalizers, pre_tokenizers)
    draft.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    rng = random.Random(seed)
    spread = [unknown(rng) for _ in range(len(captions) // 10)]
    often = [" ".join(words.PLACEHOLDERS[:1] * 8)] * max(200, len(captions) // 20)
    # Every printable character as a word of its own, or it would be read as the end of the caption.
    single = [" ".join(string.printable.strip().lower())] * 3
    draft.train_from_iterator([*captions, *extra, *spread, *often, *single], trainer)
    learnt = json.loads(draft.to_str())["model"]
    tokens = sorted(learnt["vocab"], key=learnt["vocab"].get)[: vocabulary - 2]
    tokens += [START, END]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    result = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=CONTEXT)
    result.save_pretrained(folder)
    if len(encode(load(folder), ["sks"])[0].nonzero()[0]) == 0 or result.tokenize("sks") != ["sks</w>"]:
        raise ValueError(f'tokenizer: "sks" must be one token, got {result.tokenize("sks")}; raise the vocabulary')


def _normal_form(blank: Any, normalizers: Any, pre_tokenizers: Any) -> tuple[Any, Any]:
    """Take CLIP's own normaliser and splitter, so that training sees words as inference will."""
    backend = blank.backend_tokenizer if hasattr(blank, "backend_tokenizer") else blank._tokenizer
    return backend.normalizer, backend.pre_tokenizer


def load(folder: Path) -> Tokenizer:
    """The fast tokenizer alone: all that training needs."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def encode(tokenizer: Tokenizer, captions: list[str]) -> np.ndarray:
    """(N, CONTEXT) int16 ids: start, caption cut to fit, end, end, ..."""
    end = tokenizer.token_to_id(END)
    ids = np.full((len(captions), CONTEXT), end, np.int16)
    for row, item in enumerate(tokenizer.encode_batch(captions)):
        found = item.ids[:CONTEXT]
        ids[row, : len(found)] = found
        ids[row, -1] = end
    return ids
