"""Tokens per second of training language models, ours beside what others run.

    python -m benchmarks.llm_speed [--models smollm2-135m llama-1.2b] [--only a lora ...] [--batch 4] [--tiny]

Llamas of true size with random weights, which no speed depends on, so nothing is downloaded; adapters on attention and
MLP, every row of the data a full sequence, one process on one device. Rows:
a  transformers.Trainer with PEFT's LoRA: bfloat16 base under autocast, float32 adapter, the Trainer's own optimiser
lora, gralora (k=2), each also with +flat (sigma 0.05): ours, through the trainer's own task and step. Settings of one
row follow a colon: `lora+flat:flat.keep=false;train.checkpointing=true`.

Every row is printed as a JSON line when it is measured, and files are written again after each: a run that is killed
has still said something. A row that fails says why and the next one goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from lowrank_diffusion import adapters, devices
from lowrank_diffusion.config import Config
from lowrank_diffusion.presets import build, parse_overrides
from lowrank_diffusion.text.batches import Batches
from lowrank_diffusion.text.encode import Encoded
from trainers import fast
from trainers.llm import LanguageModel

from . import report, sdxl
from .llm_peer import LR, Figures, train
from .step_speed import SIGMA, Case, memory, timed

MODELS: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152,
    },
    "llama-1.2b": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "vocab_size": 128256,
    },
}  # fmt: skip
TINY: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 512}
"""Differences that, with heads 16 wide, leave a model's parts and make it run anywhere in milliseconds."""
PEER = "a"
OURS = [f"{kind}{flat}" for kind in ("lora", "gralora") for flat in ("", "+flat")]
ROWS = [PEER, "lora", "gralora", "lora+flat", "lora+flat:flat.keep=false"]


class CachedLanguageModel(LanguageModel):
    """The trainer's own task, its batches and its loss, with given tokens in place of a file and a tokenizer."""

    def __init__(self, model: PreTrainedModel, cfg: Config, rows: torch.Tensor):
        self.cfg, self.device = cfg, model.device
        learn = (False, *[True] * (rows.shape[1] - 1))
        examples = [Encoded(tuple(row), learn) for row in rows.tolist()]
        self.batches = Batches(examples, cfg.text, cfg.train.batch, cfg.seed, pad=0)
        self.model = model
        self.layers = adapters.attach(model, cfg.adapter, cfg.seed)
        if cfg.train.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})


class Ours(sdxl.Ours):
    """The trainer's step on that task, in the mode that ``train.execution`` asks for."""

    def __init__(self, model: PreTrainedModel, cfg: Config, rows: torch.Tensor):
        self.state = fast.build(CachedLanguageModel(model, cfg, rows), cfg, model.device, model.dtype)
        self.mode, self.reason = self.state.plan.mode, self.state.plan.why_not_faster


class Bench:
    """What all rows are measured with."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, devices.pick("auto")
        self.dtype = torch.float32 if args.tiny else torch.bfloat16

    def model(self, name: str) -> PreTrainedModel:
        """A new one for every row, with the same weights, made where and as it is used, in training mode."""
        sizes = MODELS[name]
        if self.args.tiny:
            sizes = sizes | TINY | {"hidden_size": 16 * sizes["num_attention_heads"]}
        config = LlamaConfig(**sizes, tie_word_embeddings=True, max_position_embeddings=8192)
        torch.manual_seed(0)
        with self.device:
            return AutoModelForCausalLM.from_config(config, dtype=self.dtype, attn_implementation="sdpa").train()

    def rows(self, words: int) -> torch.Tensor:
        """A full sequence for every place of the run, (N, S) int64, of few distinct tokens: that much can be learnt."""
        count = (self.args.warmup + self.args.steps) * self.args.batch
        draw = torch.Generator().manual_seed(0)
        return torch.randint(max(words // 64, 8), (count, self.args.length), generator=draw)

    def config(self, case: Case) -> Config:
        """The run that a row of ours stands for; its optimiser is set as the Trainer's."""
        kind, _, settings = case.name.partition(":")
        family, _, flat = kind.partition("+")
        values: dict[str, Any] = {
            "task": "text",
            "adapter.kind": family,
            "adapter.rank": self.args.rank,
            "adapter.k": 2,
            "adapter.targets": "attention+mlp",
            "flat.sigma": SIGMA if flat else 0.0,
            "optimizer.lr": LR,
            "optimizer.weight_decay": 0.0,
            "text.length": self.args.length,
            "text.packing": False,  # no row has room for another
            "text.loss_on": "all",
            "train.steps": self.args.warmup + self.args.steps,
            "train.batch": case.batch,
            "train.precision": "fp32" if self.args.tiny else "bf16",
            "train.execution": case.mode,
        }
        return build(overrides=values | parse_overrides(filter(None, settings.split(";"))))

    def measure(self, name: str, case: Case) -> dict[str, Any]:
        """The row's figures, or a message in their place."""
        self.clear()
        try:
            figures = self._peer(name, case) if case.kind == PEER else self._ours(name, case)
        except Exception as error:  # out of memory, a capture that fails: part of the result
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0]
            return {"message": f"{type(error).__name__}: {first}"[:200].replace("|", "/")}
        return {
            "tokens/s": case.batch * self.args.length / figures.seconds, "ms/step": 1e3 * figures.seconds,
            "mode": figures.mode, "set-up s": round(figures.setup, 1), "peak GiB": memory(self.device)["peak GiB"],
            "loss": figures.loss, "message": figures.message,
        }  # fmt: skip

    def _peer(self, name: str, case: Case) -> Figures:
        model = self.model(name)
        return train(model, self.rows(model.config.vocab_size), self.args.rank, case.batch, self.args.warmup)

    def _ours(self, name: str, case: Case) -> Figures:
        model, warmup, steps = self.model(name), self.args.warmup, self.args.steps
        rows, begin = self.rows(model.config.vocab_size), time.perf_counter()
        runner = Ours(model, self.config(case), rows)
        for step in range(warmup):
            runner(step)
        runner.drain()
        sdxl.synchronise(self.device)
        setup = time.perf_counter() - begin
        _, mean, losses = timed(runner, range(warmup, warmup + steps), self.device)
        return Figures(mean, statistics.fmean(losses), setup, runner.mode, runner.reason)

    def clear(self) -> None:
        """Nothing of the row before is left: no model, compiled code, captured graph, cached memory or peak."""
        torch.compiler.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def notes(self) -> str:
        args, dtype = self.args, str(self.dtype).removeprefix("torch.")
        return (
            f"Llamas with random weights, {dtype}, {args.batch} sequences of {args.length} tokens a step, each full; "
            f"adapters of total rank {args.rank} on attention and MLP; {args.steps} steps measured after "
            f"{args.warmup}.\nms/step: synchronised clock over the measured steps, divided by their number; x a: "
            "the tokens/s over those of row a (transformers.Trainer and PEFT's LoRA, its own optimiser and settings, "
            "measured before any of our settings of the device); gralora/lora, flat/plain: time of the row over the "
            "same row with LoRA, without +flat; set-up: compiling, capturing and the first steps; loss: mean of the "
            "measured steps."
        )


KEYS = (
    "row", "model", "tokens/s", "ms/step", "x a", "gralora/lora", "flat/plain", "peak GiB", "loss", "mode", "set-up s",
    "message",
)  # fmt: skip


class Table:
    """Rows with the same keys; ratios need rows that were measured before."""

    def __init__(self, save: Callable[[list[dict[str, Any]]], Any]):
        self.rows: list[dict[str, Any]] = []
        self._save = save
        self._taken: dict[tuple[str, str], float] = {}

    def add(self, model: str, case: Case, figures: dict[str, Any]) -> None:
        label = f"{case.name}  LoRA, Trainer + PEFT" if case.kind == PEER else case.name
        row = dict.fromkeys(KEYS, "") | {"row": label, "model": model} | figures
        taken = figures.get("ms/step")
        if taken:
            self._taken[model, case.name] = taken
            row["x a"] = self._ratio(taken, model, PEER, inverse=True)
            if "+flat" in case.name:
                row["flat/plain"] = self._ratio(taken, model, case.plain[0])
            if case.kind.startswith("gralora"):
                row["gralora/lora"] = self._ratio(taken, model, case.name.removeprefix("gra"))
        self.rows.append(row)
        print(json.dumps({key: value for key, value in row.items() if value != ""}), flush=True)
        self._save(self.rows)

    def _ratio(self, taken: float, model: str, other: str, *, inverse: bool = False) -> float | str:
        """A row's time over that of another of the same model, or the inverse; empty if that one has no figures."""
        base = self._taken.get((model, other))
        if not base:
            return ""
        return base / taken if inverse else taken / base


def cases(args: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Row a of all models comes first: our step makes the whole process's sums repeatable, which costs time."""
    names = args.only or ROWS
    order = [(model, name) for model in args.models for name in names]
    for model, name in sorted(order, key=lambda pair: pair[1] != PEER):
        yield model, Case(name, args.batch, "eager" if name == PEER else "auto")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    known = [PEER, *OURS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"from {' '.join(known)}")
    parser.add_argument("--batch", type=int, default=None, help="sequences of a step: 4, or 2 with --tiny")
    parser.add_argument("--length", type=int, default=None, help="tokens of a sequence: 1024, or 64 with --tiny")
    parser.add_argument("--rank", type=int, default=None, help="32, or 4 with --tiny")
    parser.add_argument("--steps", type=int, default=None, help="measured steps: 30, or 4 with --tiny")
    parser.add_argument("--warmup", type=int, default=None, help="steps before that: 5, or 2 with --tiny")
    parser.add_argument("--minutes", type=float, default=4.0, help="no row is started after this")
    parser.add_argument("--tiny", action="store_true", help="toy models in float32: does every row run?")
    parser.add_argument("--out", type=Path, help="folder of the results; with --tiny none is the default")
    parser.add_argument("--name", default="llm_speed")
    args = parser.parse_args(argv)
    for key, value, tiny in (
        ("batch", 4, 2),
        ("length", 1024, 64),
        ("rank", 32, 4),
        ("steps", 30, 4),
        ("warmup", 5, 2),
    ):
        given = getattr(args, key)
        if given is not None and given < 1:
            parser.error(f"--{key} must be at least 1, got {given}")
        setattr(args, key, given or (tiny if args.tiny else value))
    wrong = [name for name in args.only or [] if name.partition(":")[0] not in known]
    if wrong:
        parser.error(f"no such row: {' '.join(wrong)}. Rows: {' '.join(known)}")
    return args


def main() -> int:
    begin = time.monotonic()
    args = arguments()
    bench = Bench(args)
    notes = bench.notes()
    print(notes, flush=True)
    folder = args.out or (None if args.tiny else report.RESULTS)
    table = Table(lambda rows: report.write(args.name, rows, notes, folder) if folder else None)
    for model, case in cases(args):
        late = time.monotonic() - begin > 60 * args.minutes
        figures = (
            {"message": f"not started: {args.minutes:g} minutes were over"} if late else bench.measure(model, case)
        )
        table.add(model, case, figures)
    print(report.markdown(table.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
