"""The part of the command evaluate that is for picture models."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import evaluations, runs, terminal
from .cli_draw import bar, out_of_bounds, unquantised
from .config import EMBEDDED, Config, ConfigError, Problem
from .evaluations import Checkpoint, PictureRow, Pictures, figure
from .image.data import Picture, open_picture, scan
from .image.request import AdapterChoice, DrawRequest, leave_out_quantisation
from .paths import expanded
from .processes import importing_libraries

if TYPE_CHECKING:
    from PIL import Image

    from .image.metrics import Figures, Seen


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
    checkpoints: list[Checkpoint] | None
    """The adapters, where several are measured; None: the one of the requests."""
    command: str

    def measure(
        self,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Figures]:
        """Base and adapted, prompt by prompt and over all prompts; the pictures are kept in ``out``.

        Raises DrawCancelled where ``cancelled`` says so.
        """
        leave_out_quantisation()
        with importing_libraries():
            from .image import encoder, metrics
            from .image.generate import Hooks

        resolved = encoder.find(self.encoder)
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
        choices = None
        if self.checkpoints is not None:
            choices = {one.step: AdapterChoice(str(one.adapter.loaded)) for one in self.checkpoints}
        hooks = Hooks(progress, cancelled)
        return metrics.measure(self.requests, self.references, resolved, self._keep, hooks, choices)

    def _keep(self, seen: Seen) -> None:
        if self.out:
            number = [request.prompt for request in self.requests].index(seen.prompt)
            words = "-".join(re.findall(r"\w+", seen.prompt))[:60]
            kind = "adapted" if seen.drawn.adapted else "base"
            kind = f"step{seen.step}" if seen.step is not None else kind
            seen.drawn.image.save(self.out / f"{number}-{words}-seed{seen.drawn.seed}-{kind}.png")

    def record(self, rows: Sequence[Figures]) -> Pictures:
        """What is kept of it."""
        best = {one.step for one in self.checkpoints or () if one.best}
        table = [
            PictureRow(
                step=row.step, best=row.step in best, prompt=row.prompt,
                references=figure(row.references), words=figure(row.words),
            )
            for row in rows
        ]  # fmt: skip
        return Pictures(
            command=self.command, made=time.time(), encoder=self.encoder, count=self.requests[0].count,
            references=len(self.references), rows=tuple(table),
        )  # fmt: skip


def evaluation(run: runs.Run, given: Mapping[str, Any], dashes: str = "--") -> Evaluation:
    """What ``evaluate`` measures.

    ``given``: its options by name; ``dashes``: what an error writes before such a name. Raises UserError.
    """
    cfg, steps = run.config(), given["steps"]
    checkpoints = evaluations.chosen(run, steps, f"{dashes}steps") if steps is not None else None
    requests = _evaluated(run, cfg, given, dashes)
    folder = given["references"] or Path(cfg.data.instance)
    pictures = scan(folder, "reference" if given["references"] else cfg.data.prompt)
    references = [_framed(picture, cfg.data.background) for picture in pictures]
    names = ("steps", "step", *EVALUATE_OPTIONS, "device", "precision")
    command = evaluations.command("evaluate", [run.name], {name: given[name] for name in names})
    return Evaluation(requests, references, given["encoder"] or EMBEDDED, given["out"], checkpoints, command)


def _framed(picture: Picture, background: str) -> Image.Image:
    """A reference as training sees it: the part inside of its frame. Raises DataError."""
    whole = open_picture(picture.path, background)
    return whole.crop(picture.box) if picture.box else whole


def evaluate(run: runs.Run, options: argparse.Namespace) -> int:
    """Draw the run's prompts with base and adapter: how like are they to its pictures, and to what the prompts say?"""
    evaluated = evaluation(run, vars(options))
    with bar() as progress:
        rows = evaluated.measure(progress)
    facts = f"{evaluated.requests[0].count}, references {len(evaluated.references)}, encoder {evaluated.encoder}"
    print(f"{run.name}: pictures of each prompt {facts}")
    best = {one.step for one in evaluated.checkpoints or () if one.best}
    for row in rows:
        if not row.adapted:
            print(row.prompt or "all prompts")
        words = "" if row.words is None else f"  to the prompt {row.words:.3f}"
        mark = "  lowest validation loss" if row.step in best else ""
        name = "base" if not row.adapted else "adapted" if row.step is None else f"step {row.step}"
        print(f"  {name:8} to the references {row.references:.3f}{words}{mark}")
    if evaluated.checkpoints is not None:
        evaluations.write(run, evaluated.record(rows))
    return terminal.DONE


def _evaluated(run: runs.Run, cfg: Config, given: Mapping[str, Any], dashes: str) -> list[DrawRequest]:
    """A request for each prompt. Raises ConfigError for what is out of bounds or missing."""
    count = PICTURES if given["count"] is None else given["count"]
    seed = given["seed"] or 0
    wrong = out_of_bounds({"count": count, "seed": seed}, dashes)
    prompts = list(dict.fromkeys(given["prompt"] or cfg.sample.prompts))
    if not prompts:
        wrong.append(Problem(f"{dashes}prompt", f"is needed: {run.name} has no sample prompts."))
    if given["steps"] is not None and given["step"] is not None:
        wrong.append(Problem(f"{dashes}step", f"cannot be given beside {dashes}steps.", "Add it to the list of steps."))
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
