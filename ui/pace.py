"""How often a page looks for what is new: every look costs a browser a quarter of a second of a core."""

from __future__ import annotations

from lowrank_diffusion.runs import Status

from . import watching

AT_WORK = 2
ON_CPU = 4
"""While training wants the cores that a look takes."""
IDLE = 20
"""What is then started elsewhere, by a command or another page, is seen that much later."""


def of(status: Status, busy: bool = False) -> int:
    """Seconds to the next look of a page that shows a run; ``busy``: something else that it shows is at work."""
    if busy or (status.active and status.device != "cpu"):
        return AT_WORK
    return ON_CPU if watching.active() else IDLE
