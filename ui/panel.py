"""What a tab that trains asks of the part above its settings, where the data comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lowrank_diffusion.config import Config
from lowrank_diffusion.runs import Run

from .launch import Data
from .toolkit import gr

if TYPE_CHECKING:
    from .train import TrainTab


class Panel(Protocol):
    """The part of the tab above the settings: where the data comes from."""

    task: ClassVar[str]
    title: ClassVar[str]
    first_preset: ClassVar[str]
    """The preset whose settings the tab shows first."""

    def place(self) -> None:
        """Make the components here."""
        ...

    def connect(self, demo: gr.Blocks, tab: TrainTab) -> None:
        """Bind the events."""
        ...

    @property
    def inputs(self) -> set[Any]:
        """The components that :meth:`chosen` and :meth:`own` look at."""
        ...

    def chosen(self, data: dict[Any, Any]) -> Data:
        """What is in the panel. Raises UserError."""
        ...

    @property
    def kept(self) -> dict[str, Any]:
        """The components whose values outlive the page, by name."""
        ...

    @property
    def changes(self) -> list[Any]:
        """The events after which there is something else to learn from."""
        ...

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`restore` may change."""
        ...

    def restore(self, values: dict[str, Any]) -> dict[Any, Any]:
        """What a handler returns to show values of :attr:`kept` again, whatever they are."""
        ...

    def of_run(self, run: Run, config: Config) -> dict[str, Any]:
        """What :meth:`restore` takes, and settings, to show the data of a run. Raises UserError."""
        ...

    def own(self, preset: dict[str, Any], data: dict[Any, Any] | None) -> dict[str, Any]:
        """Settings that a preset has no say in with what is in the panel (None: nothing): it may name example data."""
        ...
