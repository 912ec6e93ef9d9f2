"""What a picture costs: SDXL's UNet and VAE at their real size, ordinary and captured, and the embedded base.

    python -m benchmarks.generate_speed [--batch 1 4] [--compile] [--tiny]

Random weights, prompt embeddings given, 20 steps with guidance (two UNet rows per picture) and decoding. Rows:
ordinary           diffusers' pipeline as it is; + LoRA: PEFT's layers on all attention projections
captured           the same pipeline with its UNet calls replayed from CUDA graphs; + LoRA: in static tensors
captured+compiled  with the repeated blocks compiled beforehand (only with --compile: it takes a minute)
other adapter      captured + LoRA, after another adapter at another strength was chosen; "switch ms" is what that took
embedded           the base that comes with the project, on this device, from its files to pictures
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
from diffusers.utils.peft_utils import set_adapter_layers, set_weights_and_activate_adapters

from lowrank_diffusion import devices
from lowrank_diffusion.image.generate import Studio
from lowrank_diffusion.image.model import draw
from lowrank_diffusion.image.replay import Replay
from lowrank_diffusion.image.request import DrawRequest
from lowrank_diffusion.paths import ASSETS

from . import report, sdxl

KEYS = ("row", "batch", "first s", "s/picture", "x ordinary", "switch ms", "graphs", "peak GiB", "message")
TINY_VAE = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}


class Bench:
    """A pipeline without text encoders, and its rows."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, devices.pick("auto")
        self.dtype = torch.float32 if args.tiny else torch.bfloat16
        self.begin, self.rows, self.ordinary = time.monotonic(), list[dict[str, Any]](), dict[tuple[str, int], float]()
        torch.manual_seed(0)
        unet: Any = sdxl.build(self.device, self.dtype, args.tiny).eval().requires_grad_(False)
        self.unet = unet.to(memory_format=torch.channels_last)
        self.pristine = sdxl.Pristine(self.unet)
        config = json.loads((ASSETS / "sdxl" / "vae" / "config.json").read_text(encoding="utf-8"))
        with self.device:
            vae: Any = AutoencoderKL.from_config(config | (TINY_VAE if args.tiny else {}))
        facts: Any = EulerDiscreteScheduler.load_config(ASSETS / "sdxl" / "scheduler")
        scheduler: Any = EulerDiscreteScheduler.from_config(facts)
        self.pipeline = StableDiffusionXLPipeline(
            vae.eval(), None, None, None, None, unet, scheduler, force_zeros_for_empty_prompt=True  # type: ignore[arg-type]
        )  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)
        one = sdxl.inputs(unet, 1, args.resolution)
        self.prompt = {"prompt_embeds": one.tokens, "pooled_prompt_embeds": one.pooled}
        self.prompt |= {f"negative_{name}": torch.zeros_like(value) for name, value in self.prompt.items()}

    def run(self) -> None:
        """All rows, batch by batch."""
        for batch in self.args.batch:
            self.row("ordinary", batch, None)
            self.row("captured", batch, Replay(self.unet))
            if self.args.compile:
                self.unet.compile_repeated_blocks(dynamic=False)  # type: ignore[operator]
                self.row("captured+compiled", batch, Replay(self.unet))
                self.clear()
            self.adapters()
            self.row("ordinary + LoRA", batch, None)
            replay = Replay(self.unet)
            self.row("captured + LoRA", batch, replay)
            self.row("other adapter", batch, replay, self.switch(replay))
            del replay
            self.clear()
        self.embedded()

    def adapters(self) -> None:
        """Two of them, the first switched on."""
        for name in ("one", "other"):
            config = peft.LoraConfig(r=self.args.rank, lora_alpha=self.args.rank, target_modules=sdxl.TARGETS)
            self.unet.add_adapter(config, name)  # type: ignore[operator]
        for name, parameter in self.unet.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter, dtype=self.dtype) * 0.01
        self.unet.requires_grad_(False)
        use(self.unet, "one", 1.0)

    def switch(self, replay: Replay) -> float:
        """Milliseconds until another adapter at another strength is in effect."""
        begin = time.perf_counter()
        use(self.unet, "other", 0.5)
        replay.adapters.update()
        sdxl.synchronise(self.device)
        return 1e3 * (time.perf_counter() - begin)

    def clear(self) -> None:
        """Nothing of adapters, graphs and compiled code is left."""
        self.pristine.restore()
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.compiler.reset()
        gc.collect()
        devices.release(self.device)

    def pictures(self, batch: int, steps: int, replay: Replay | None) -> float:
        """Seconds for one batch."""
        sdxl.synchronise(self.device)
        begin = time.perf_counter()
        with replay.active() if replay else contextlib.nullcontext():
            draw(
                self.pipeline, self.prompt, range(batch), num_inference_steps=steps, guidance_scale=5.0,
                width=self.args.resolution, height=self.args.resolution,
            )  # fmt: skip
        return time.perf_counter() - begin  # the pictures are on the host: nothing is under way

    def row(self, name: str, batch: int, replay: Replay | None, switch: float | str = "") -> None:
        """Measure a row: a first picture (with a batch, a few steps of it), then whole ones."""
        args = self.args
        if time.monotonic() - self.begin > args.seconds:
            self.add({"row": name, "batch": batch, "message": f"not started: {args.seconds:g} s were over"})
            return
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            first = self.pictures(batch, args.steps if batch == 1 else 4, replay)
            took = min(self.pictures(batch, args.steps, replay) for _ in range(2 if batch == 1 else 1)) / batch
        except RuntimeError as error:
            self.add({"row": name, "batch": batch, "message": str(error).partition("\n")[0][:150].replace("|", "/")})
            return
        with_lora = "LoRA" if "LoRA" in name or "other" in name else ""
        if replay is None:
            self.ordinary[with_lora, batch] = took
        figures: dict[str, Any] = {"row": name, "batch": batch, "s/picture": took, "switch ms": switch}
        figures["first s"] = first if batch == 1 else ""
        figures["x ordinary"] = self.ordinary.get((with_lora, batch), took) / took
        figures["graphs"], figures["message"] = (replay.graphs, replay.obstacle) if replay else ("", "")
        self.add(figures | peak(self.device))

    def embedded(self) -> None:
        """The embedded base through the studio: first picture with loading, then again, then four seeds at once."""
        for name, ordinary in (("embedded, ordinary", True), ("embedded", False)):
            if ordinary and self.device.type != "cuda":
                continue  # the same as the other
            studio, begin = Studio(), time.perf_counter()
            request = DrawRequest(prompt="an emoji of a fox", steps=self.args.steps)
            replay = studio.prepare(request)[1]
            if ordinary:
                replay.release("asked for")
            list(studio.draw(request))
            first = time.perf_counter() - begin
            for count in (1, 4):
                request = DrawRequest(prompt="an emoji of a fox", steps=self.args.steps, count=count)
                took = min(seconds(lambda: list(studio.draw(request))) for _ in range(2)) / count  # noqa: B023
                if ordinary:
                    self.ordinary["embedded", count] = took
                figures = {"row": name, "batch": count, "first s": first if count == 1 else "", "s/picture": took}
                times = self.ordinary.get(("embedded", count), took) / took
                self.add(figures | {"x ordinary": times, "graphs": replay.graphs, "message": replay.obstacle})
            studio.release()

    def add(self, figures: dict[str, Any]) -> None:
        self.rows.append(dict.fromkeys(KEYS, "") | figures)
        print(json.dumps(figures), flush=True)
        folder = self.args.out or (None if self.args.tiny else report.RESULTS)
        if folder:
            report.write(self.args.name, self.rows, self.notes(), folder)

    def notes(self) -> str:
        args = self.args
        size = sum(parameter.numel() for parameter in self.unet.parameters()) / 1e9
        return (
            f"UNet of {size:.3f} G parameters in {str(self.dtype).removeprefix('torch.')}, VAE in float32, random "
            f"weights; {args.resolution} x {args.resolution} pixels, {args.steps} steps with guidance, LoRA of rank "
            f"{args.rank} on all attention projections; no text encoders. s/picture: with decoding, the better of two; "
            "first s: the very first picture, capture included (embedded: from its files on); x ordinary: times "
            "faster than the ordinary row with as many adapters and pictures."
        )


def use(unet: Any, name: str, strength: float) -> None:
    """What a pipeline's set_adapters does to its UNet."""
    set_adapter_layers(unet, enabled=True)
    set_weights_and_activate_adapters(unet, [name], [strength])


def seconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak(device: torch.device) -> dict[str, float]:
    """GiB reserved at most since the last reset, graphs' pools included; nothing is known of a CPU."""
    return {"peak GiB": torch.cuda.max_memory_reserved() / 2**30} if device.type == "cuda" else {}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generate_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--resolution", type=int, default=None, metavar="PX", help="1024, or 64 with --tiny")
    parser.add_argument("--rank", type=int, default=None, help="32, or 4 with --tiny")
    parser.add_argument("--compile", action="store_true", help="also with compiled blocks")
    parser.add_argument("--seconds", type=float, default=70.0, help="no row of the real size is started after this")
    parser.add_argument("--tiny", action="store_true", help="a toy UNet in float32: does every row run?")
    parser.add_argument("--out", type=Path, help="folder of the results; with --tiny none is the default")
    parser.add_argument("--name", default="generate_speed")
    args = parser.parse_args(argv)
    args.resolution = args.resolution or (64 if args.tiny else 1024)
    args.rank = args.rank or (4 if args.tiny else 32)
    return args


def main() -> int:
    bench = Bench(arguments())
    print(bench.notes(), flush=True)
    bench.run()
    print(report.markdown(bench.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
