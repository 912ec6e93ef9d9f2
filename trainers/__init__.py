"""What runs inside a training process. It is started (``python -m trainers RUN``), not imported."""

from lowrank_diffusion.processes import without_hints

without_hints()
