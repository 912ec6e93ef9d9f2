"""Personalise diffusion models with GraLoRA and LoRA, trained flat."""

import os

# OpenMP's threads spin while they wait for each other. With anything else on the same cores (a second run, a browser
# drawing pictures) the one they wait for is not running: a training step on 2 busy cores took 6.2 s instead of 0.9 s.
# It counts only if it is set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
