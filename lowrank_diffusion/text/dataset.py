"""The rows of a run as tokens: what is trained on, and what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from .. import seeds
from ..config import Config
from ..errors import DataError
from ..marks import listed
from .encode import Encoded, encode_all
from .rows import Row, survey


@dataclass(frozen=True)
class Dataset:
    """Examples as tokens; the held-out rows also as they are, to be answered."""

    train: list[Encoded]
    held_out: list[Encoded]
    held_out_rows: list[Row]
    notes: list[str]
    """What is not learnt of the files, for a person."""


def dataset(cfg: Config, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Read, split and encode what ``data.instance``, ``text.held_out`` and ``validation.holdout`` say.

    Raises:
        DataError: with everything that is wrong with a file, each with its line.
    """
    path = Path(cfg.data.instance)
    first = survey(path)
    rows, held_out = split(first.rows, cfg)
    other, notes = path, first.notes()
    if cfg.text.held_out:
        other = Path(cfg.text.held_out)
        second = survey(other)
        held_out, notes = second.rows, notes + [f"Held out: {note}" for note in second.notes()]
    how = (tokenizer, cfg.text.loss_on, cfg.text.length, cfg.text.overlong)
    train, held = encode_all(rows, *how, path), encode_all(held_out, *how, other)
    for name, examples in (("", train), ("Held out: ", held)):
        notes += [f"{name}{note}" for note in _cut(examples, cfg.text.length)]
    return Dataset(train, held, held_out, notes)


def _cut(examples: list[Encoded], length: int) -> list[str]:
    """Which rows have lost their end."""
    cut = [example for example in examples if example.cut]
    if not cut:
        return []
    lines = listed(f"line {example.line} (its last {example.cut} tokens)" for example in cut)
    rows = "1 row is" if len(cut) == 1 else f"{len(cut)} rows are"
    return [
        f"{rows} longer than text.length={length} and cut (text.overlong=cut): {lines}. "
        f"Set text.length={length + max(example.cut for example in cut)} to learn them whole."
    ]


def split(rows: list[Row], cfg: Config) -> tuple[list[Row], list[Row]]:
    """(training, held out): ``validation.holdout`` rows drawn by the seed. Raises DataError if none is left."""
    holdout = cfg.validation.holdout
    if obstacle := cfg.validation.obstacle(len(rows), "rows"):
        raise DataError([f"validation.holdout: {obstacle}"])
    drawn = set(torch.randperm(len(rows), generator=seeds.generator(cfg.seed, 0, "holdout")).tolist()[:holdout])
    return (
        [row for index, row in enumerate(rows) if index not in drawn],
        [row for index, row in enumerate(rows) if index in drawn],
    )
