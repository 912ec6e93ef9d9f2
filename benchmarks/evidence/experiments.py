"""Every experiment, by name."""

from __future__ import annotations

from . import of_candidates, of_pictures, of_texts
from .design import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    **of_pictures.EXPERIMENTS, **of_candidates.EXPERIMENTS, **of_texts.EXPERIMENTS,
}  # fmt: skip
