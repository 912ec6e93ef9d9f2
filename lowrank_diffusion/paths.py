"""Where things live: what ships with the project, and the folder that runs and caches are written to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
INSTALLED = not (_HERE.parent / "presets").is_dir()
"""Whether this is an installed package, in which the rest of the project lies inside of this one."""
PROJECT = _HERE / "studio" if INSTALLED else _HERE.parent
PRESETS = PROJECT / "presets"
ASSETS = PROJECT / "assets"
EMBEDDED_BASE = ASSETS / "base"
EMBEDDED_ENCODER = ASSETS / "base-encoder"
EXAMPLES = ASSETS / "examples"


def home() -> Path:
    """The writable folder: ``LOWRANK_HOME`` if set, else the project's own; an installed package's is the user's."""
    own = "~/lowrank-diffusion" if INSTALLED else str(PROJECT)
    return expanded(os.environ.get("LOWRANK_HOME") or own).resolve()


def expanded(name: str) -> Path:
    """A path as a person writes it: quotes, ``--out=~/x`` and unit files hold a "~" that no shell has seen.

    That of a user who does not exist stays as it is, and does not exist as a path.
    """
    return Path(os.path.expanduser(name))


def own_presets_folder() -> Path:
    """Where the presets are that a person keeps."""
    return home() / "my-presets"


def runs_folder() -> Path:
    """Where run directories are."""
    return home() / "runs"


def cache_folder() -> Path:
    """Where latents, embeddings and class pictures are kept between runs; safe to delete."""
    return home() / "cache"


def datasets_folder() -> Path:
    """Where saved data sets are."""
    return home() / "datasets"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none, and have it on the disk, whatever happens next. Raises OSError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk, so that a power cut cannot undo it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a folder cannot be opened on Windows, where names are safe without it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # a file system that has no such thing
            raise
    finally:
        os.close(handle)


def too_long(path: str | None) -> bool:
    """Whether no file system has such a name; asking for it would be an error rather than a no."""
    names = [name.encode(errors="replace") for name in (path or "").split("/")]
    return max(map(len, names)) > 255 or len(b"/".join(names)) > 4095
