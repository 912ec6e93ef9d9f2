"""What runs inside a training process. It is started (``python -m trainers RUN``), not imported."""
