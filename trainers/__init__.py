"""What runs inside a training process. It is started (``python -m trainers RUN``), not imported."""

import os

for _library in ("TRANSFORMERS", "DIFFUSERS"):  # their hints are about code, not for the reader of a run's log
    os.environ.setdefault(f"{_library}_VERBOSITY", "error")
