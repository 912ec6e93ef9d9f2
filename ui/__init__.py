"""The app: it knows config keys and run directories, not tensors, and imports no torch in its own process."""
