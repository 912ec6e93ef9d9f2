"""``lowrank-studio``: open the app of an installed package, as ``python app.py`` does in the project's folder."""

from __future__ import annotations

import runpy
import sys

from .paths import PROJECT


def main() -> None:
    """Run the app; does not return before it ends."""
    sys.path.insert(0, str(PROJECT))  # where ui and trainers lie, in an installed package too
    sys.argv[0] = "lowrank-studio"
    runpy.run_path(str(PROJECT / "app.py"), run_name="__main__")
