"""What a run's folder has for a person: adapter files, PEFT's folders as a zip, settings, the end of its log."""

from __future__ import annotations

import zipfile
from pathlib import Path

from lowrank_diffusion.errors import UserError
from lowrank_diffusion.files import Unreadable, read_part
from lowrank_diffusion.runs import Run, RunError

from . import safe

LOG_BYTES = 20_000


def files_of(run: Run) -> list[str]:
    """Adapter files to download: the finished ones, else those of the newest checkpoint."""
    return [str(path) for path in _paths(run) if path.is_file()]


def peft_folders(run: Run) -> list[Path]:
    """The newest PEFT folders of a run: the native adapter, and for texts the same as a plain LoRA."""
    return [path for path in _paths(run) if path.is_dir()]


def _paths(run: Run) -> list[Path]:
    adapter = run.newest_adapter()
    return adapter.paths if adapter else []


def zipped_peft(run: Run) -> Path:
    """The PEFT folders in one zip. Raises RunError where there are none yet, UserError for a full disk."""
    folders = peft_folders(run)
    if not folders:
        raise RunError(f"{run.name} has no PEFT folder yet. Wait for its first checkpoint.")
    target = safe.downloads_folder() / run.name / f"{run.title}-peft.zip"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            whole = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
            for path in sorted(path for path in whole if path.resolve().is_relative_to(run.path.resolve())):
                packed.write(path, path.relative_to(folders[0].parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}. Free some space.") from None
    return target


def beginning(path: Path) -> str:
    """A text file as far as a page shows it."""
    try:
        return read_part(path, LOG_BYTES)
    except Unreadable as error:
        return f"{path.name} {error}"


def log_tail(run: Run) -> str:
    """The end of what the process printed."""
    try:
        return read_part(run.log_path, LOG_BYTES, end=True)
    except Unreadable:
        return ""
