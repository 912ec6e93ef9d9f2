"""The part of the command evaluate that is for picture models."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import runs, terminal
from .cli_draw import bar, out_of_bounds, unquantised
from .config import EMBEDDED, Config, ConfigError, Problem
from .image.data import open_picture, scan
from .image.request import AdapterChoice, DrawRequest, leave_out_quantisation
from .paths import expanded

if TYPE_CHECKING:
    from PIL import Image

    from .image.generate import Drawn
    from .image.metrics import Figures


def add_evaluate(sub: argparse.ArgumentParser) -> None:
    """Options of ``evaluate`` for runs of pictures."""
    of = sub.add_argument_group("pictures")
    of.add_argument("--prompt", action="append", help="what to draw; may be repeated (default: the run's own)")
    of.add_argument(
        "--references", type=expanded, metavar="FOLDER", help="pictures to be like (default: the run's own)"
    )
    of.add_argument("--count", type=int, help=f"pictures of each prompt, base and adapted (default: {PICTURES})")
    of.add_argument("--seed", type=int, help="of the first of them (default: 0)")
    of.add_argument("--encoder", help="'embedded', or folder or hub id of a CLIP, SigLIP or DINO (default: embedded)")
    of.add_argument("--out", type=expanded, metavar="FOLDER", help="keep the pictures there")


EVALUATE_OPTIONS = ("prompt", "references", "count", "seed", "encoder", "out")
PICTURES = 4


@dataclass(frozen=True)
class Evaluation:
    """What is drawn of a run, and what the pictures are compared with."""

    requests: list[DrawRequest]
    references: list[Image.Image]
    encoder: str
    out: Path | None

    def measure(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Figures]:
        """Base and adapted, prompt by prompt and over all prompts; the pictures are kept in ``out``."""
        leave_out_quantisation()
        from .image import encoder, metrics  # torch

        resolved = encoder.find(self.encoder)
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
        return metrics.measure(self.requests, self.references, resolved, self._keep, progress)

    def _keep(self, prompt: str, drawn: Drawn) -> None:
        if self.out:
            number = [request.prompt for request in self.requests].index(prompt)
            words = "-".join(re.findall(r"\w+", prompt))[:60]
            kind = "adapted" if drawn.adapted else "base"
            drawn.image.save(self.out / f"{number}-{words}-seed{drawn.seed}-{kind}.png")


def evaluation(run: runs.Run, given: Mapping[str, Any], dashes: str = "--") -> Evaluation:
    """What ``evaluate`` measures.

    ``given``: its options by name; ``dashes``: what an error writes before such a name. Raises UserError.
    """
    cfg = run.config()
    requests = _evaluated(run, cfg, given, dashes)
    folder = given["references"] or Path(cfg.data.instance)
    paths = [picture.path for picture in scan(folder, "reference" if given["references"] else cfg.data.prompt)]
    references = [open_picture(path, cfg.data.background) for path in paths]
    return Evaluation(requests, references, given["encoder"] or EMBEDDED, given["out"])


def evaluate(run: runs.Run, options: argparse.Namespace) -> int:
    """Draw the run's prompts with base and adapter: how like are they to its pictures, and to what the prompts say?"""
    evaluated = evaluation(run, vars(options))
    with bar() as progress:
        rows = evaluated.measure(progress)
    facts = f"{evaluated.requests[0].count}, references {len(evaluated.references)}, encoder {evaluated.encoder}"
    print(f"{run.name}: pictures of each prompt {facts}")
    for row in rows:
        if not row.adapted:
            print(row.prompt or "all prompts")
        words = "" if row.words is None else f"  to the prompt {row.words:.3f}"
        print(f"  {'adapted' if row.adapted else 'base':8} to the references {row.references:.3f}{words}")
    return terminal.DONE


def _evaluated(run: runs.Run, cfg: Config, given: Mapping[str, Any], dashes: str) -> list[DrawRequest]:
    """A request for each prompt. Raises ConfigError for what is out of bounds or missing."""
    count = PICTURES if given["count"] is None else given["count"]
    seed = given["seed"] or 0
    wrong = out_of_bounds({"count": count, "seed": seed}, dashes)
    prompts = list(dict.fromkeys(given["prompt"] or cfg.sample.prompts))
    if not prompts:
        wrong.append(Problem(f"{dashes}prompt", f"is needed: {run.name} has no sample prompts."))
    if wrong:
        raise ConfigError(wrong)
    adapter, sample = AdapterChoice(str(run.files(given["step"])[0])), cfg.sample
    return [
        DrawRequest(
            prompt, base=unquantised(cfg), adapters=(adapter,), negative=sample.negative, seed=seed, count=count,
            steps=sample.steps, guidance=sample.guidance, device=given["device"], precision=given["precision"],
        )
        for prompt in prompts
    ]  # fmt: skip
