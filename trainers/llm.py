"""Language models: rows of text in, an adapter of the model's linear layers out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank_diffusion import adapters, events, requests
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.runs import Run
from lowrank_diffusion.text import loss, metrics
from lowrank_diffusion.text.batches import Batches
from lowrank_diffusion.text.dataset import dataset
from lowrank_diffusion.text.encode import pad_id
from lowrank_diffusion.text.export import Facts, export
from lowrank_diffusion.text.generate import stream
from lowrank_diffusion.text.model import Base, problems
from lowrank_diffusion.text.request import Settings
from lowrank_diffusion.text.rows import Message

from .task import Counted, uncounted

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Batch:
    """A micro-batch; all tensors are (B, S) int64 on the device."""

    ids: Tensor
    labels: Tensor
    """Not shifted; see :mod:`lowrank_diffusion.text.packing`."""
    positions: Tensor | None
    """Of packed sequences; padded ones have none."""
    segments: Tensor | None
    count: float
    """Targets in it: a step's loss is the mean over those of all its micro-batches."""


class LanguageModel:
    """The task. Sequences come packed, all of ``text.length``, or one row each, padded to one of a few lengths."""

    def __init__(
        self,
        run: Run,
        cfg: Config,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        tell: Callable[[events.Event], None],
    ):
        self.run, self.cfg, self.device, self.dtype, self.tell = run, cfg, device, dtype, tell
        self.base = Base.of(cfg.base, device, dtype)
        progress("Loading the tokenizer (a GGUF file is converted, once)", 0, 1)
        self.tokenizer = self.base.tokenizer(cfg.text.template)
        progress("Reading the rows", 0, 1)
        self.data = dataset(cfg, self.tokenizer)
        self.pad = pad_id(self.tokenizer)
        self.batches = Batches(self.data.train, cfg.text, cfg.train.batch, cfg.seed, self.pad)
        self._describe()
        progress("Loading the model (a GGUF file is converted, once)", 0, 1)
        self.model: Any = self.base.model()
        if unusable := problems(self.model, cfg.text):
            raise ConfigError(unusable)
        self.layers = adapters.attach(self.model, cfg.adapter, cfg.seed)
        if cfg.train.checkpointing:
            # The only random numbers of a forward pass are those of dropout.
            how = {"use_reentrant": False, "preserve_rng_state": cfg.adapter.dropout > 0}
            self.model.gradient_checkpointing_enable(how)

    def _describe(self) -> None:
        """Say what became of the rows."""
        for note in self.data.notes:
            self.tell(events.Note(note))
        lengths = [len(example.ids) for example in self.data.train]
        if self.cfg.text.packing:
            share = sum(lengths) / (self.batches.packs * self.cfg.text.length)
            packs = f"packed into {self.batches.packs} sequences of {self.cfg.text.length} tokens, {share:.0%} full"
        else:
            packs = "one to a sequence"
        held_out = f", {len(self.data.held_out)} held out" if self.data.held_out else ""
        self.tell(
            events.Note(f"{len(lengths)} examples of {min(lengths)} to {max(lengths)} tokens, {packs}{held_out}.")
        )

    def content(self) -> dict[str, Any]:
        """The rows as tokens and targets, by their place in the file's order."""
        marks = (hashlib.sha256(repr((row.ids, row.learn)).encode()).hexdigest()[:16] for row in self.data.train)
        return {"rows": {str(place): mark for place, mark in enumerate(marks, 1)}}

    def batch(self, step: int, micro: int) -> Batch:
        """Micro-batch ``micro`` of ``step``: sequences by epoch in a drawn order."""
        cfg = self.cfg.train
        packed = self.batches.at(step * cfg.accumulate * cfg.gpus + micro)
        together = self.cfg.text.packing
        return Batch(
            ids=self._moved(packed.ids),
            labels=self._moved(packed.labels),
            positions=self._moved(packed.positions) if together else None,
            segments=self._moved(packed.segments) if together else None,
            count=packed.count,
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the device; from pinned memory, CUDA copies without making the CPU wait."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """Cross entropies of every sequence's targets, summed (B,), and the number of targets."""
        losses = loss.sequence_losses(self.model, batch.ids, batch.labels, batch.positions, batch.segments)
        return losses, batch.count

    def validate(self, progress: Counted = uncounted) -> float | None:
        """Mean cross entropy of the held-out targets; with ``text.answers``, held-out rows are answered as well."""
        if not self.data.held_out:
            return None
        tokens = self.cfg.train.batch * self.cfg.text.length
        scored = self.data.held_out[: self.cfg.text.scored or None]
        rows = metrics.answerable(self.data.held_out_rows)[: self.cfg.text.answers]
        every, total = len(scored), len(scored) + len(rows)
        mean = metrics.token_loss(self.model, scored, self.pad, tokens, lambda done: progress(done, total))
        self.tell(events.Measured("perplexity", metrics.perplexity(mean)))
        if rows:
            longest = self.cfg.sample.tokens
            answers = metrics.answer(
                self.model, self.tokenizer, rows, longest, lambda done: progress(every + done, total)
            )
            self.tell(events.Measured("exact match", answers.exact_match))
            self.tell(events.Measured("tokens/s", answers.tokens_per_second))
        return mean

    def sample(self, step: int, prompts: tuple[str, ...] = (), progress: Counted = uncounted) -> list[tuple[str, Path]]:
        """The answer to each of ``prompts``, or of the run's own, from the model as it is, as a text file."""
        cfg = self.cfg.sample
        folder = self.run.path / "samples"
        system = [Message("system", cfg.system)] if cfg.system else []
        settings = Settings(cfg.temperature, 1.0, cfg.tokens, cfg.seed)
        written = []
        wanted = prompts or cfg.prompts
        for number, prompt in enumerate(wanted):
            progress(number, len(wanted))
            folder.mkdir(exist_ok=True)
            path = folder / requests.file_name(step, prompt, None if prompts else number, ".txt")
            said = stream(self.model, self.tokenizer, [*system, Message("user", prompt)], settings)
            path.write_text("".join(said), encoding="utf-8")
            written.append((prompt, path))
        return written

    def export(self, folder: Path, step: int, loss: float | None) -> list[Path]:
        """The adapter as PEFT folders; see :mod:`lowrank_diffusion.text.export`."""
        template, precision = str(self.tokenizer.chat_template), str(self.dtype).removeprefix("torch.")
        facts = Facts(self.run.stem, self.cfg, self.base.source.public, template, step, loss, precision)
        made = export(self.model, folder, facts)
        if made.note and folder == self.run.path:
            self.tell(events.Note(made.note))
        return made.paths
