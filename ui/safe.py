"""What comes from a page is not trusted: paths must lie where the app put things, names must be known."""

from __future__ import annotations

import html
import urllib.parse
from pathlib import Path

from lowrank_diffusion import runs
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.paths import EXAMPLES, datasets_folder, home, runs_folder

from .toolkit import uploads_folder


class RefusedError(UserError):
    """A page asked for something outside the folders it may use."""


def pictures_folder() -> Path:
    """Where the Generate tab keeps what it drew."""
    return home() / "pictures"


def runs_root() -> Path:
    """Where the runs are that a page may name."""
    return runs_folder().resolve()


def thumbnails_folder() -> Path:
    """Small versions of uploaded pictures; safe to delete."""
    return home() / "cache" / "thumbnails"


def served_folders() -> list[str]:
    """The only folders whose files pages may load."""
    folders = [runs_folder(), pictures_folder(), thumbnails_folder(), downloads_folder(), EXAMPLES]
    return [str(folder.resolve()) for folder in folders]


def downloads_folder() -> Path:
    """Zips made for a download; safe to delete."""
    return home() / "cache" / "downloads"


def inside(path: str | Path, *roots: Path) -> Path:
    """``path`` resolved, if it is a file or folder under one of ``roots``. Raises RefusedError."""
    try:
        target = Path(path).resolve(strict=True)
    except (OSError, ValueError):
        shown = str(path).replace("\0", "")
        raise RefusedError(f"{shown[:120]}{'…' if len(shown) > 120 else ''}: there is no such file.") from None
    if any(target.is_relative_to(root.resolve()) for root in roots):
        return target
    raise RefusedError(f"{target.name}: lies outside the folders of this app. Upload it instead.")


def by_name(error: UserError, path: str | Path) -> str:
    """The error's text with the file's name for its whole path: where the upload is kept says nothing to a person."""
    try:
        file = Path(str(path))
        return str(error).replace(str(file.resolve()), file.name).replace(str(file), file.name)
    except (OSError, ValueError):
        return str(error)


def uploaded(path: str | Path) -> Path:
    """A file that came through the page, is of a run or a saved set, or ships as an example. Raises RefusedError."""
    return inside(path, uploads_folder(), EXAMPLES, runs_folder(), datasets_folder())


def run(name: str | None) -> runs.Run:
    """The run with exactly this directory name; a path is not a name. Raises RunError."""
    if not name or not isinstance(name, str):
        raise runs.RunError("No run is selected. Choose one, or start one.")
    path = runs_folder() / name
    try:
        known = Path(name).name == name and (path / "config.yaml").is_file()
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte
        known = False
    if not known:
        raise runs.RunError(f"There is no run {name[:80]!r} any more. Choose another one.")
    return runs.Run(path)


def url(path: Path) -> str:
    """The address of a served file, for an HTML attribute."""
    return html.escape(f"gradio_api/file={urllib.parse.quote(str(path))}")


def make_folders() -> None:
    """Make the served folders that are the app's own. Raises RefusedError where the disk does not let it."""
    for folder in (runs_folder(), pictures_folder(), thumbnails_folder(), downloads_folder()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "Set LOWRANK_HOME to a folder that can be written."
            raise RefusedError(f"{folder}: cannot be made: {error.strerror}. {hint}") from None


def in_words(error: Exception) -> str:
    """What a person is told of an error that no handler expected."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        name = str(error.filename or "")
        place = f"{name[:120]}{'…' if len(name) > 120 else ''}: " if name else ""
        return f"{place}{error.strerror or type(error).__name__}. Check the path, or free some space."
    if isinstance(error, ValueError):
        words = "; ".join(" ".join(str(error).split())[:300].splitlines())
        return f"A value cannot be used: {words}. Check what was typed."
    return f"This did not work ({type(error).__name__}). The terminal that the app runs in shows where."
