"""Does a trained style carry over to objects that were never in the set?

Trains the style set with LoRA, GraLoRA, Flat-LoRA and Flat-GraLoRA, three seeds each, and compares the denoising loss
on 100 3D icons of other objects (fixed timesteps and noise) with the base's own.

    python -m benchmarks.heldout_style [key=value ...] [--seeds 3] [--only GraLoRA] [--jobs 2] [--out DIR]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lowrank_diffusion import adapters, devices, presets, runs
from lowrank_diffusion.image import crops
from lowrank_diffusion.image.data import scan
from lowrank_diffusion.image.dataset import Example
from lowrank_diffusion.image.validation import denoising_loss
from trainers.dreambooth import DreamBooth
from trainers.step import Step

from . import report

HELD_OUT = Path(__file__).parent / "heldout"
PLAIN: dict[str, Any] = {
    "adapter.targets": "attention", "adapter.text_encoders": "none", "flat.sigma": 0.05, "optimizer.lr": 1e-3,
    "optimizer.text_encoder_lr": None, "data.caption_dropout": 0.0, "validation.holdout": 2, "train.steps": 160,
}  # fmt: skip
"""What is compared are adapters of the UNet's attention, as every trainer has them, whatever the preset adds."""
METHODS = {
    "LoRA": {"adapter.kind": "lora", "flat.sigma": 0.0},
    "GraLoRA": {"adapter.kind": "gralora", "flat.sigma": 0.0},
    "Flat-LoRA": {"adapter.kind": "lora"},
    "Flat-GraLoRA": {"adapter.kind": "gralora"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="on top of the preset")
    parser.add_argument("--preset", default="emoji-style")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(METHODS), help="this method; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, sharing the cores")
    parser.add_argument("--name", default="heldout_style", help="of the result files")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    methods = options.only or list(METHODS)
    wanted = [(name, seed) for name in methods for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(_train, wanted, repeat(options)))
    rows = [
        _row(name, [result for (method, _), result in zip(wanted, results, strict=True) if method == name])
        for name in methods
    ]
    notes = (
        f"Preset {options.preset}, adapters of the UNet's attention, {PLAIN['train.steps']} steps, "
        f"{' '.join(options.settings)}; mean denoising loss on 100 held-out 3D icons, "
        f"8 timesteps each; spread is the standard deviation over {options.seeds} seeds. Seconds are of training "
        f"alone, {options.jobs} runs at once."
    )
    print(report.write(options.name, rows, notes, options.out))


def _row(name: str, results: list[dict[str, float]]) -> dict[str, Any]:
    base, losses = results[0]["base"], [result["loss"] for result in results]
    gains = [100 * (base - loss) / base for loss in losses]
    return {
        "method": name,
        "base": base,
        **{f"seed {seed}": loss for seed, loss in enumerate(losses)},
        "mean": statistics.mean(losses),
        "spread": statistics.stdev(losses) if len(losses) > 1 else 0.0,
        "% below base": statistics.mean(gains),
        "worst %": min(gains),
        "s/run": statistics.mean(result["seconds"] for result in results),
    }


def _train(wanted: tuple[str, int], options: argparse.Namespace) -> dict[str, float]:
    """One run, without its files: the loss on the held-out pictures after it, and of the base (once per method)."""
    method, seed = wanted
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.jobs))
    preset = presets.find_preset(options.preset)
    settings = PLAIN | presets.parse_overrides(options.settings) | METHODS[method] | {"seed": seed}
    cfg = presets.build(preset.values, settings)
    device = devices.pick(cfg.train.device)
    with tempfile.TemporaryDirectory() as folder:
        run = runs.create(cfg, "heldout", Path(folder))
        task = DreamBooth(run, run.config(), device, torch.float32, lambda *_: None)
        state = Step(task, run.config(), device, torch.float32)
        examples = held_out_examples(task)
        begin = time.perf_counter()
        for step in range(cfg.train.steps):
            state(step)
        result = {"seconds": time.perf_counter() - begin}
        with state.evaluating():
            result["loss"] = denoising_loss(task, examples, seed=0)
            with adapters.disabled(task.model):
                result["base"] = denoising_loss(task, examples, seed=0) if seed == 0 else float("nan")
    print(method, seed, result, flush=True)
    return result


def held_out_examples(task: DreamBooth) -> list[Example]:
    """The 100 pictures as the task's model needs them."""
    found, side = scan(HELD_OUT), task.data.side
    pictures = crops.fit(found, [(side, side)] * len(found), task.cfg.data, seed=0)
    task.data.prompts |= task.data.embeddings([picture[0].caption for picture in pictures], lambda *_: None)
    return [variants[0] for variants in task.data.examples([[p[:1] for p in pictures]], lambda *_: None)[0]]


if __name__ == "__main__":
    main()
