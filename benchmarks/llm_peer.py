"""Training as most people run it: transformers.Trainer with PEFT's LoRA, timed between steps."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from . import sdxl

LR = 1e-3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Figures:
    """What was measured of one way to train."""

    seconds: float
    """Of one step: the mean."""
    loss: float
    """Mean of the measured steps."""
    setup: float
    """Seconds until the first measured step."""
    mode: str = "eager"
    message: str = ""


class Rows(Dataset):
    """Full sequences, (N, S) int64 on the CPU; as everywhere, the first token of one is no target."""

    def __init__(self, rows: Tensor):
        self.ids = rows
        self.labels = rows.clone()
        self.labels[:, 0] = -100

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


class Clock(TrainerCallback):
    """Synchronised times at the end of the warm-up and of the run; the Trainer logs its mean loss at both."""

    def __init__(self, warmup: int, device: torch.device):
        self.warmup, self.device, self.ends = warmup, device, list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step in (self.warmup, state.max_steps):
            sdxl.synchronise(self.device)
            self.ends.append(time.perf_counter())
            control.should_log = True
        return control


def train(model: PreTrainedModel, rows: Tensor, rank: int, batch: int, warmup: int) -> Figures:
    """One epoch over ``rows`` in the model's precision, with the Trainer's defaults but for what is not training."""
    begin, device, narrow = time.perf_counter(), model.device, model.dtype == torch.bfloat16
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    clock = Clock(warmup, device)
    with tempfile.TemporaryDirectory() as folder:
        how = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch, num_train_epochs=1, learning_rate=LR, bf16=narrow,
            lr_scheduler_type="constant", logging_strategy="no", save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=device.type == "cpu",
        )  # fmt: skip
        how._n_gpu = min(how.n_gpu, 1)  # else it would spread every batch over all GPUs there are
        wrapped: Any = peft.get_peft_model(model, config)  # its adapter is float32, as PEFT has it for training
        trainer = Trainer(wrapped, how, train_dataset=Rows(rows), callbacks=[clock])
        trainer.remove_callback(PrinterCallback)  # standard output is for rows
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    first, last = clock.ends
    seconds = (last - first) / (trainer.state.max_steps - warmup)
    return Figures(seconds, losses[-1], first - begin, message=f"optim={how.to_dict()['optim']}")
