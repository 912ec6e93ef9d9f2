"""Personalise diffusion models with LoRA, GraLoRA and LoKr, trained flat."""

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import draw, evaluate, flatness, grid, load, spectra, train

# OpenMP's threads spin while they wait for each other, by default for milliseconds. With anything else on the same
# cores (pictures drawn while a run trains) the one they wait for is often not running: a step of 0.2 s then took 9.5 s
# on two cores. Threads that never spin have to be woken, and a step takes 0.3 to 0.4 s on an idle machine. With some
# microseconds of spinning it takes 0.2 s there, and 0.9 s beside other work. Counts only if set before torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# What libraries say about each other is not for whoever trains: PEFT asks transformers' models by an old name, and
# bitsandbytes knows a faster 4-bit product for some CPUs in a package that it does not need.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = ["draw", "evaluate", "flatness", "grid", "load", "spectra", "train"]


def __getattr__(name: str) -> Any:
    """What :mod:`.api` has, imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)
