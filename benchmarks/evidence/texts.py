"""One run on a language model: its loss on rows, and on what is further from what it learnt."""

from __future__ import annotations

import copy
import functools
import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lowrank_diffusion import adapters, devices, presets
from lowrank_diffusion.config import BaseModelConfig, Config
from lowrank_diffusion.text.batches import Batches
from lowrank_diffusion.text.encode import Encoded, pad_id
from lowrank_diffusion.text.model import CAUSAL, Base, attention
from lowrank_diffusion.text.packing import IGNORED, collate
from trainers.llm import LanguageModel

from . import four_bits, wordnet
from .design import Job
from .of_texts import COMMON, Texts
from .text_rows import BITS, KINDS, Rows
from .training import trained

TOKENS = 8192
"""Measured in one forward pass."""


def prepare(data: Texts) -> None:
    """Convert a GGUF file once, not once in each process. Raises UserError: what is needed is not there."""
    if data.made == "glosses":
        wordnet.definitions(Path(data.wordnet))
    _loaded(data.path, "cpu", devices.dtype(COMMON["train.precision"], devices.pick("auto")))
    _loaded.cache_clear()


def train(job: Job) -> tuple[list[dict[str, float]], str]:
    """(measures, device); see :func:`.training.train`."""
    data = job.data
    assert isinstance(data, Texts)
    cfg = presets.build({}, job.settings | {"base.path": data.path})
    device = devices.pick(cfg.train.device)
    dtype = devices.dtype(cfg.train.precision, device)
    gc.collect()  # the model and the graphs of the run before
    model, tokenizer = _loaded(data.path, str(device), dtype)
    rows = KINDS[data.made](data, job.seed, tokenizer, cfg.text.length)
    task = Task(cfg, device, copy.deepcopy(model), tokenizer, rows.learnt)
    return trained(task, cfg, job, dtype, Measure(task, rows, data.outside)), devices.describe(device)


@functools.cache
def _loaded(path: str, device: str, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """A base and its tokenizer, once for all runs of a process; each run trains a copy."""
    base = Base.of(BaseModelConfig(path=path), torch.device(device), dtype)
    return base.model(), base.tokenizer()


class Task(LanguageModel):
    """The trainer's task on rows that are made, not read, and with a model that is there already."""

    def __init__(
        self, cfg: Config, device: torch.device, model: Any, tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Encoded],
    ):  # fmt: skip
        self.cfg, self.device, self.model, self.tokenizer = cfg, device, model, tokenizer
        self.pad = pad_id(tokenizer)
        self.batches = Batches(rows, cfg.text, cfg.train.batch, cfg.seed, self.pad)
        self.layers = adapters.attach(model, cfg.adapter, cfg.seed)


class Measure:
    """Mean negative log-likelihood of the targets in nats a token, of every set of rows.

    Beside it "exact", the share of scoring rows whose answer greedy decoding gives to the letter; and of facts "bits",
    what is known of all of them, and "bits a parameter", the same of each that is trained.
    """

    def __init__(self, task: Task, rows: Rows, in_four_bits: bool):
        self.task, self.rows, self.in_four_bits = task, rows, in_four_bits
        self.parameters = sum(p.numel() for p in adapters.trainable(task.model).values())

    def __call__(self) -> dict[str, float]:
        """Of the task's model as it is."""
        losses, right = self._of(self.rows.scoring)
        found = {"scoring": float(losses.mean()), "exact": float(right.double().mean())}
        found |= {name: self._mean(rows) for name, rows in self.rows.outside.items()}
        same = self.rows.validation is self.rows.scoring
        found["validation"] = found["scoring"] if same else self._mean(self.rows.validation)
        if self.in_four_bits:
            with four_bits.merged(self.task.layers), adapters.disabled(self.task.model):
                found["4 bits"] = self._mean(self.rows.scoring)
        if self.rows.facts:
            found["bits"] = self.rows.facts * BITS - float(losses.sum()) / math.log(2)
            found["bits a parameter"] = found["bits"] / self.parameters
        return found

    def beside(self) -> dict[str, float]:
        """Nothing: all is measured at both strengths."""
        return {}

    def _mean(self, examples: Sequence[Encoded]) -> float:
        return float(self._of(examples)[0].mean())

    @torch.no_grad()
    def _of(self, examples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Losses of all targets (T,) float64 nats, and which rows are right to the letter (N,) bool, on the CPU.

        Each token is predicted from the wanted ones before it: where all of a row's are the likeliest, greedy decoding
        says just these.
        """
        losses, right = [], []
        count = max(TOKENS // max(len(example.ids) for example in examples), 1)
        for start in range(0, len(examples), count):
            chosen = examples[start : start + count]
            size = max(len(example.ids) for example in chosen)
            packed = collate([[example] for example in chosen], size, self.task.pad)
            targets = packed.labels[:, 1:].to(self.task.device)  # (B, S - 1)
            learn = targets.ne(IGNORED)
            with attention(self.task.model, CAUSAL):
                logits = self.task.model(input_ids=packed.ids.to(self.task.device), use_cache=False).logits
            said, wanted = logits[:, :-1][learn].float(), targets[learn]  # (T, V), (T,)
            losses.append(torch.nn.functional.cross_entropy(said, wanted, reduction="none").double().cpu())
            missed = torch.zeros_like(learn)
            missed[learn] = said.argmax(dim=1) != wanted
            right.append(~missed.any(dim=1).cpu())
        return torch.cat(losses), torch.cat(right)
