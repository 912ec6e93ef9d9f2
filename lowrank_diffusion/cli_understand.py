"""The command understand: how flat a run's minimum is, and what its update is made of."""

from __future__ import annotations

import argparse

from . import evaluations, terminal
from .cli_draw import bar
from .cli_text import DEVICES, PRECISIONS
from .errors import UserError
from .evaluations import Flatness, Spectra
from .image import kept
from .understanding import DRAWS, EXAMPLES, LARGEST_SIGMA, SIGMAS, flatness_plan, mean_and_spread, spectra_plan


def add_understand(sub: argparse.ArgumentParser) -> None:
    """Options of ``understand``."""
    sub.add_argument("of", nargs="+", metavar="RUN_OR_FILE", help="a run, RUN:STEP, or with --spectra any adapter")
    sub.add_argument("--flatness", action="store_true", help="loss under weight noise, of the base and of each run")
    sub.add_argument("--spectra", action="store_true", help="singular values, ranks and sizes of the update by layer")
    sub.add_argument("--sigmas", help=f"strengths of the noise, 0 to {LARGEST_SIGMA:g} (default: {SIGMAS})")
    sub.add_argument("--draws", type=int, help=f"of the noise at each strength (default: {DRAWS})")
    sub.add_argument("--examples", type=int, help=f"held-out ones, else of training, at most (default: {EXAMPLES})")
    sub.add_argument("--base", help="with --spectra of a file: what it was trained on, to tell relative sizes")
    sub.add_argument("--device", default="auto", choices=DEVICES)
    sub.add_argument("--precision", default="auto", choices=PRECISIONS)


def understand(options: argparse.Namespace) -> int:
    """Say how flat the minimum is that a run stands in, and what its update is made of; kept in the run's folder."""
    given, every = vars(options), not (options.flatness or options.spectra)
    if options.flatness or (every and all(_named(name) for name in options.of)):
        plan = flatness_plan(options.of, given)
        with bar() as progress:
            measured = plan.measure(progress)
        print(_flatness_text(measured))
        evaluations.write(plan.chosen[0][0], measured)
    if options.spectra or every:
        for name in options.of:
            of = spectra_plan(name, given)
            with bar() as progress:
                update = of.measure(progress)
            print(_spectra_text(name, update))
            if of.run:
                evaluations.write(of.run, update)
    return terminal.DONE


def _named(name: str) -> bool:
    try:
        kept.named(name)
    except UserError:
        return False
    return True


def _flatness_text(measured: Flatness) -> str:
    """Mean and spread over the draws, a line for each model."""
    whose = "held-out" if measured.held_out else "training"
    lines = [f"loss on {measured.examples} {whose} examples, noise on {measured.layers} layers, {measured.draws} draws"]
    lines.append("sigma     " + "".join(f"{sigma:>18g}" for sigma in measured.sigmas))
    for curve in measured.curves:
        cells = [mean_and_spread(row) for row in curve.losses]
        shown = "".join(f"{f'{mean:.5f} ±{spread:.5f}':>18}" for mean, spread in cells)
        lines.append(f"{curve.title[:10]:10}{shown}")
    return "\n".join(lines)


def _spectra_text(name: str, measured: Spectra) -> str:
    lines = [f"{name}: {len(measured.layers)} layers"]
    width = max(len(layer.path) for layer in measured.layers)
    lines.append(f"{'layer':{width}}  rank  effective  stable  size       relative")
    for layer in measured.layers:
        relative = "" if not layer.base else f"{layer.norm / layer.base:.3%}"
        ranks = f"{layer.rank:>4}  {layer.effective or 0:>9.2f}  {layer.stable or 0:>6.2f}"
        lines.append(f"{layer.path:{width}}  {ranks}  {layer.norm:<9.4g}  {relative}")
    return "\n".join(lines)
