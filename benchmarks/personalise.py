"""Does personalisation do what it promises? Trains the two example presets as a user would and looks at the pictures.

    python -m benchmarks.personalise [style] [subject] [key=value ...] [--guidance 2.5 5] [--out DIR]

style: `emoji-style`, then "a 3d icon of X" for 100 objects that were not in its set, base and adapted from the same
noise. Counted: objects whose cosine to the true 3D icon of X rises over the base's, as the mean of ``--draws`` pictures
of each, so that it does not hang on the luck of one noise, and of each first picture alone; the same for the style
alone, as the part of an embedding that its object does not explain, against the mean of the other 99 true icons; and,
per hundred pictures, those whose nearest concept among the 100 is still X.
subject: `emoji-subject`, then the subject in 8 contexts. Recognised: the picture is nearer to the mean of the training
pictures than to any cat of the gallery (twelve concepts), and nearer than the base's picture.

All by the small encoder in assets/base-encoder, which never saw a 3D icon. Writes a contact sheet of each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from lowrank_diffusion import devices
from lowrank_diffusion.image.apply import load_adapter
from lowrank_diffusion.paths import EMBEDDED_ENCODER
from recipes.embedded_base.measure import Eye

from . import report
from .evidence.held_out import HELD_OUT

ROOT = Path(__file__).resolve().parents[1]
SUBJECT = ROOT / "assets" / "examples" / "subject-cat"
CONTEXTS = (
    "a photo of sks cat on a blue background",
    "a photo of sks cat on a green background",
    "a photo of sks cat wearing a hat",
    "a photo of sks cat and a pizza",
    "a photo of sks cat and a rocket",
    "an icon of sks cat",
    "a picture of sks cat on a red background",
    "sks cat and a sunflower",
)
ANOTHER_NAME = {
    "car": "automobile",
    "headphones": "headphone",
    "hourglass": "hourglass done",
    "lock": "locked",
    "t-shirt": "t shirt",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="style|subject|key=value")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each preset, every one with a seed of its own")
    parser.add_argument("--draws", type=int, default=4, help="style: pictures of every object, from other noises")
    parser.add_argument(
        "--guidance", type=float, nargs="+", default=[5.0], help="style: one row for each; the first is shown"
    )
    parser.add_argument("--batch", type=int, default=10, help="pictures drawn at once")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    settings = [word for word in options.words if "=" in word]
    parts = [word for word in options.words if "=" not in word] or ["style", "subject"]
    measures = {"style": style, "subject": subject}
    rows = [
        row
        for part in parts
        for seed in range(options.seeds)
        for row in measures[part](adapter(f"emoji-{part}", [*settings, f"seed={seed}"]), seed, options)
    ]
    for part in parts:
        mine = [row for row in rows if row["part"] == part]
        print(report.write(f"personalise_{part}", mine, f"{' '.join(settings)}", options.out))


def adapter(preset: str, settings: list[str]) -> Path:
    """The adapter file of a run of ``preset``, in a process of its own, through the command line."""
    home = tempfile.mkdtemp(prefix="personalise-")
    command = [sys.executable, "-m", "lowrank_diffusion", "train", preset, *settings, "sample.prompts=[]"]
    subprocess.run(command, env={**os.environ, "LOWRANK_HOME": home}, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return next(path for path in sorted(Path(home).glob("runs/*/*-diffusers.safetensors")))


class Easel:
    """The base with one adapter that can be switched off."""

    def __init__(self, file: Path, batch: int):
        device = devices.pick("auto")
        self.batch = batch
        self.pipe = StableDiffusionXLPipeline.from_pretrained(ROOT / "assets" / "base").to(device)
        self.pipe.set_progress_bar_config(disable=True)
        load_adapter(self.pipe, file, "trained")
        self.eye = Eye(EMBEDDED_ENCODER, device)

    def pairs(self, prompts: list[str], guidance: float, draw: int = 0) -> tuple[list[Image.Image], list[Image.Image]]:
        """Pictures of the base and of the adapted model from the same noise."""
        self.pipe.disable_lora()
        base = self._draw(prompts, guidance, draw)
        self.pipe.enable_lora()
        return base, self._draw(prompts, guidance, draw)

    def _draw(self, prompts: list[str], guidance: float, draw: int) -> list[Image.Image]:
        drawn: list[Image.Image] = []
        for start in range(0, len(prompts), self.batch):
            part = prompts[start : start + self.batch]
            noise = [torch.Generator().manual_seed(draw * 10_000 + start + k) for k in range(len(part))]
            made: Any = self.pipe(part, num_inference_steps=20, guidance_scale=guidance, generator=noise)
            drawn += made.images
        return drawn


def style(file: Path, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """100 objects that the style's set does not hold, at every guidance."""
    easel = Easel(file, options.batch)
    facts = [json.loads(line) for line in (HELD_OUT / "captions.jsonl").read_text().splitlines()]
    true = [Image.open(HELD_OUT / fact["file_name"]).convert("RGB") for fact in facts]
    prompts = [fact["text"] for fact in facts]
    for guidance in options.guidance:
        draws = [easel.pairs(prompts, guidance, draw) for draw in range(options.draws)]
        if guidance == options.guidance[0]:
            sheet([true, *draws[0]], options.out / f"personalise_style-seed{seed}.webp", across=20)
        yield {"part": "style", "seed": seed, "guidance": guidance, **style_row(easel.eye, true, prompts, draws)}


def style_row(eye: Eye, true: list[Image.Image], prompts: list[str], draws: list[Any]) -> dict[str, Any]:
    """What the encoder says of the pictures of base and adapted model, ``draws`` times 2 times N."""
    target, concepts = eye.embed(true), eye.concepts[concepts_of(prompts)]
    styled = styles(target, concepts)
    others = F.normalize(styled.sum(0) - styled, dim=1)
    seen = torch.stack([torch.stack([eye.embed(pictures) for pictures in pair]) for pair in draws])  # (D, 2, N, E)
    before, after = (seen * target).sum(-1).mean(0)
    first_before, first_after = (seen[0] * target).sum(-1)
    stylish = torch.stack([torch.stack([styles(one, concepts) for one in pair]) for pair in seen])
    plain, trained = (stylish * others).sum(-1).mean(0)

    def correct(embedded: torch.Tensor) -> float:
        right = (embedded @ concepts.T).argmax(-1) == torch.arange(len(prompts), device=embedded.device)
        return 100 * right.float().mean().item()

    return {
        "objects": len(prompts), "draws": len(draws),
        "nearer to the true icon": int((after > before).sum()),
        "nearer, first pictures": int((first_after > first_before).sum()),
        "mean cosine, base": before.mean().item(), "mean cosine, adapted": after.mean().item(),
        "nearer to the style": int((trained > plain).sum()),
        "style cosine, base": plain.mean().item(), "style cosine, adapted": trained.mean().item(),
        "object right, base": correct(seen[:, 0]), "object right, adapted": correct(seen[:, 1]),
        "object right, true icons": correct(target),
    }  # fmt: skip


def styles(seen: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """What an embedding holds beside its object's direction, normalised: (N, E), (N, E) -> (N, E)."""
    return F.normalize(seen - (seen * concepts).sum(1, keepdim=True) * concepts, dim=1)


def concepts_of(captions: list[str]) -> list[int]:
    """Index in the gallery of the concept that each caption names."""
    listed = json.loads((EMBEDDED_ENCODER / "concepts.json").read_text(encoding="utf-8"))["concepts"]
    index = {name.lower(): k for k, concept in enumerate(listed) for name in concept["names"]}
    index |= {concept["names"][0].lower(): k for k, concept in enumerate(listed)}
    names = [re.sub("^a 3d icon of (an? |the )?", "", caption) for caption in captions]
    return [index[ANOTHER_NAME.get(name, name)] for name in names]


def cats() -> list[int]:
    """Every cat of the gallery: the subject's rivals."""
    listed = json.loads((EMBEDDED_ENCODER / "concepts.json").read_text(encoding="utf-8"))["concepts"]
    return [k for k, concept in enumerate(listed) if "cat" in " ".join(concept["names"]).split()]


def subject(file: Path, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The cat in 8 contexts."""
    easel = Easel(file, options.batch)
    references = [Image.open(path).convert("RGBA") for path in sorted(SUBJECT.glob("*.png"))]
    white = [Image.alpha_composite(Image.new("RGBA", p.size, "white"), p).convert("RGB") for p in references]
    mean = F.normalize(easel.eye.embed(white).mean(0), dim=0)
    base, adapted = easel.pairs(list(CONTEXTS), guidance=5.0)
    seen, unadapted = easel.eye.embed(adapted), easel.eye.embed(base)
    own, before = seen @ mean, unadapted @ mean
    rivals = (seen @ easel.eye.concepts[cats()].T).amax(1)
    recognised = (own > rivals) & (own > before)
    sheet([white, base, adapted], options.out / f"personalise_subject-seed{seed}.webp", across=8, side=128)
    for prompt, *numbers in zip(CONTEXTS, own.tolist(), before.tolist(), rivals.tolist(), strict=True):
        print(f"{prompt:45} subject {numbers[0]:.3f} (base {numbers[1]:.3f}), nearest other cat {numbers[2]:.3f}")
    yield {
        "part": "subject", "seed": seed, "contexts": len(CONTEXTS), "recognised": int(recognised.sum()),
        "mean cosine, base": before.mean().item(), "mean cosine, adapted": own.mean().item(),
        "nearest other cat": rivals.mean().item(),
    }  # fmt: skip


def sheet(groups: list[list[Image.Image]], path: Path, across: int, side: int = 64) -> None:
    """Lines of the groups under one another (true, base, adapted), ``across`` pictures to a line."""
    blocks = -(-len(groups[0]) // across)
    gap = side // 8
    page = Image.new("RGB", (across * side, blocks * (len(groups) * side + gap)), "white")
    for row, pictures in enumerate(groups):
        for k, picture in enumerate(pictures):
            top = k // across * (len(groups) * side + gap) + row * side
            page.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (k % across * side, top))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=82)


if __name__ == "__main__":
    main()
