"""How well a base model obeys: retrieval per family of prompts, colours, backgrounds, PSNR, seconds per picture.

    python -m benchmarks.base_quality assets/base --encoder assets/base-encoder
    python -m benchmarks.base_quality NEW OLD --names new,old --pictures build/pretrain/pictures

Every model answers the same prompts with the same noise. A picture counts as right when its concept is the
nearest one (top 1) among the concepts of its family, by the encoder's gallery; "of all" is the same among
all of the gallery's concepts, many of which look alike. Results: benchmarks/results/base_quality.{json,md}
and one contact sheet per model and family.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lowrank_diffusion.paths import EMBEDDED_ENCODER
from recipes.embedded_base import measure, rasterise, splits
from recipes.embedded_base.measure import Catalogue, Eye, Prompt

ROOT = Path(__file__).resolve().parents[1]

STEPS, GUIDANCE = 20, 5.0
THUMB = 64  # px on a contact sheet
ACROSS = 20  # thumbnails per row


def generate(pipe: Any, prompts: list[str], batch: int) -> list[Image.Image]:
    """One picture per prompt; the noise depends on the prompt's place only, on every device."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [int.from_bytes(hashlib.sha256(f"{start + i}".encode()).digest()[:6], "big") for i in range(len(part))]
        noise = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        made = pipe(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise)
        pictures += made.images
    return pictures


def judge(pictures: list[Image.Image], prompts: list[Prompt], eye: Eye, book: Catalogue) -> dict[str, float]:
    """Figures of one family."""
    if len(prompts[0].concepts) == 2:
        return _both(pictures, prompts, eye)
    seen = eye.embed(pictures)
    right = torch.tensor([p.concepts[0] for p in prompts])
    inside = sorted(set(right.tolist()))
    within = measure.rank(seen @ eye.concepts[inside].T, torch.tensor([inside.index(r) for r in right.tolist()]))
    overall = measure.rank(seen @ eye.concepts.T, right)
    texts = eye.read([p.text for p in prompts])
    found = {
        "pictures": len(prompts),
        "top1": (within == 0).float().mean().item(),
        "top5": (within < 5).float().mean().item(),
        "top1_of_all": (overall == 0).float().mean().item(),
        "top5_of_all": (overall < 5).float().mean().item(),
        "cosine_reference": (seen * eye.concepts[right]).sum(1).mean().item(),
        "cosine_text": (seen * texts).sum(1).mean().item(),
    }
    if all(p.style in book.styles for p in prompts):
        kept = [i for i, s in enumerate(book.styles) if s in measure.SHARED_STYLES]
        nearest = [book.styles[kept[k]] for k in (seen @ eye.styles[kept].T).argmax(1).tolist()]
        found["style"] = statistics.mean(n == p.style for n, p in zip(nearest, prompts, strict=True))
    return {**found, **_colours(pictures, prompts, (within < 5).tolist())}


def _colours(pictures: list[Image.Image], prompts: list[Prompt], known: list[bool]) -> dict[str, float]:
    """Share of pictures whose thing or background has the colour that was asked for."""
    found = {}
    if prompts[0].colour:
        obeyed = [
            measure.obeys(measure.colour_shares(image, border=False), p.colour or "")
            for image, p in zip(pictures, prompts, strict=True)
        ]
        found["colour"] = statistics.mean(obeyed)
        found["colour_and_thing"] = statistics.mean(c and k for c, k in zip(obeyed, known, strict=True))
    if prompts[0].ground:
        shares = [measure.colour_shares(image, border=True) for image in pictures]
        hits = [max(s, key=s.__getitem__) == p.ground for s, p in zip(shares, prompts, strict=True)]
        found["background"] = statistics.mean(hits)
    return found


def _both(pictures: list[Image.Image], prompts: list[Prompt], eye: Eye) -> dict[str, float]:
    """Two things side by side: each half of the picture, enlarged, against the concepts of the family."""
    inside = sorted({c for p in prompts for c in p.concepts})
    hits, either = [], []
    halves = [p.crop((x, 32, x + 64, 96)).resize((128, 128)) for p in pictures for x in (0, 64)]
    nearest = (eye.embed(halves) @ eye.concepts[inside].T).topk(min(5, len(inside)), dim=1).indices
    for k, prompt in enumerate(prompts):
        found = [{inside[i] for i in row} for row in nearest[2 * k : 2 * k + 2].tolist()]
        one, two = prompt.concepts[0] in found[0], prompt.concepts[1] in found[1]
        hits.append(one and two)
        either.append(one or two)
    return {"pictures": len(prompts), "both_top5": statistics.mean(hits), "one_top5": statistics.mean(either)}


def sheet(pictures: list[Image.Image], path: Path) -> None:
    """All pictures of a family, in prompt order."""
    rows = -(-len(pictures) // ACROSS)
    page = Image.new("RGB", (ACROSS * THUMB, rows * THUMB), "white")
    for k, picture in enumerate(pictures):
        page.paste(picture.resize((THUMB, THUMB)), (k % ACROSS * THUMB, k // ACROSS * THUMB))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=82)


def seconds(pipe: Any, repeats: int = 5) -> float:
    """Median wall time of one picture on this machine."""
    times = []
    for k in range(repeats + 1):
        begin = time.perf_counter()
        pipe("an icon of a rocket", num_inference_steps=STEPS, guidance_scale=GUIDANCE)
        if k:  # the first one warms up
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def psnr(pipe: Any, pictures: np.ndarray) -> float:
    """Mean PSNR in dB of the autoencoder on (N, H, W, 3) bytes."""
    from recipes.embedded_base import vae

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(pipe.device)
    return vae.psnr(pipe.vae, pixels)


def real(folder: Path, eye: Eye) -> dict[str, float]:
    """What the encoder makes of true drawings that it never saw: the ceiling of every other figure."""
    library = rasterise.load(folder)
    rows = np.flatnonzero(library.held)
    rows = np.random.default_rng(0).choice(rows, min(200, len(rows)), replace=False)
    seen = eye.embed([Image.fromarray(p) for p in rasterise.on_white(library.pixels[rows])])
    right = torch.from_numpy(library.concept[rows]).long()
    inside = sorted(set(right.tolist()))
    within = measure.rank(seen @ eye.concepts[inside].T, torch.tensor([inside.index(r) for r in right.tolist()]))
    overall = measure.rank(seen @ eye.concepts.T, right)
    return {
        "pictures": len(rows),
        "top1": (within == 0).float().mean().item(),
        "top5": (within < 5).float().mean().item(),
        "top1_of_all": (overall == 0).float().mean().item(),
    }


def targets(folder: Path) -> np.ndarray:
    """The set that no training opened, at 128 px on white: (N, 128, 128, 3) bytes."""
    found = [rasterise.framed(Image.open(path)) for path in sorted(folder.glob("*.webp"))[::12]]
    return rasterise.on_white(np.stack(found))


def measure_model(folder: Path, name: str, options: argparse.Namespace, eye: Eye, book: Catalogue) -> dict[str, Any]:
    """Everything about one model."""
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(folder).to(options.device)
    pipe.set_progress_bar_config(disable=True)
    result: dict[str, Any] = {
        "parameters": sum(
            sum(p.numel() for p in part.parameters())
            for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
        ),
        "mb": round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6, 1),
        "families": {},
    }
    if options.seconds:
        result["seconds_per_picture"] = round(seconds(pipe), 2)
    if options.pictures:
        library = rasterise.load(options.pictures)
        held = np.flatnonzero(library.held)[:400]
        result["psnr_heldout_db"] = round(psnr(pipe, rasterise.on_white(library.pixels[held])), 2)
    if options.target:
        result["psnr_unseen_set_db"] = round(psnr(pipe, targets(options.target)), 2)
    chosen = options.families.split(";") if options.families else None
    for family, prompts in measure.families(book, options.limit).items():
        if chosen and family not in chosen:
            continue
        made = generate(pipe, [p.text for p in prompts], options.batch)
        figures = judge(made, prompts, eye, book)
        result["families"][family] = {k: round(v, 3) for k, v in figures.items()}
        print(name, family, result["families"][family], flush=True)
        sheet(made, options.out / "base_quality" / f"{name}-{family.replace(' ', '-').replace(',', '')}.webp")
    return result


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    models = report["models"]
    lines = [f"# Base quality, {report['date']}, {report['machine']}", "", f"{report['note']}", ""]
    lines += ["| family | figure | " + " | ".join(models) + " |", "| --- " * (len(models) + 2) + "|"]
    for key in ("parameters", "mb", "seconds_per_picture", "psnr_heldout_db", "psnr_unseen_set_db"):
        lines.append(f"| | {key} | " + " | ".join(str(m.get(key, "")) for m in models.values()) + " |")
    first = next(iter(models.values()))
    for family, figures in first["families"].items():
        for key in figures:
            values = (str(m["families"][family].get(key, "")) for m in models.values())
            lines.append(f"| {family} | {key} | " + " | ".join(values) + " |")
    if report.get("real_heldout_drawings"):
        ceiling = report["real_heldout_drawings"].items()
        lines += ["", "True held-out drawings seen by the encoder: " + ", ".join(f"{k} {v:.3f}" for k, v in ceiling)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure the named models and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*", default=[ROOT / "assets" / "base"])
    parser.add_argument("--names", default=None, help="names in the report, separated by commas")
    parser.add_argument("--encoder", type=Path, default=EMBEDDED_ENCODER)
    parser.add_argument("--pictures", type=Path, default=None, help="folder of `prepare`: PSNR, ceiling of the encoder")
    parser.add_argument("--target", type=Path, default=None, help="folder of the unseen set's pictures, for PSNR")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--families", default=None, help="only these, separated by semicolons")
    parser.add_argument("--limit", type=int, default=None, help="at most so many prompts per family")
    parser.add_argument("--seconds", action="store_true", help="also time one picture")
    options = parser.parse_args(arguments)
    names = options.names.split(",") if options.names else [folder.name for folder in options.models]
    eye = Eye(options.encoder, torch.device(options.device))
    book = measure.catalogue(options.encoder, splits.load())
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {options.device}",
        "note": f"{STEPS} steps, guidance {GUIDANCE}, same prompts and noise for every model.",
        "models": {},
    }
    if options.pictures:
        report["real_heldout_drawings"] = real(options.pictures, eye)
    for folder, name in zip(options.models, names, strict=True):
        report["models"][name] = measure_model(folder, name, options, eye, book)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "base_quality.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "base_quality.md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
