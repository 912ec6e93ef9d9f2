"""Data sets as zip files: unpacking one that anybody may have made, and making one."""

from __future__ import annotations

import re
import shutil
import stat
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import MOST, DataError, of_disk
from . import listing
from .numbered import is_numbered

MOST_FILES = 20_000
LARGEST = 20_000_000_000
"""Bytes of all files together, unpacked."""
LARGEST_RATIO = 200
"""So many times may a file of more than a megabyte be longer than it is packed; pictures are hardly packed at all."""
_DEEPEST = 8
_PIECE = 1_000_000
_DRIVE = re.compile(r"[A-Za-z]:")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip file into an existing empty folder.

    Files that systems leave in archives by themselves are passed over. Nothing is written outside of ``folder``,
    whatever the archive says: absolute names, "..", links and encrypted files are refused before anything is written,
    and so is what would become far larger than pictures do.

    Returns:
        The folder with what was packed: ``folder``, or the one inside it where the archive holds a folder as a whole.

    Raises:
        DataError: with every file that is refused, or why the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for info, parts in _wanted(archive, packed):
                _write(packed, info, folder.joinpath(*parts))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError([f"{archive}: does not exist. Check the path."]) from None
    except OSError as error:
        raise DataError([of_disk(error)]) from None
    except Exception as error:  # zipfile and zlib raise many things of a broken archive
        raise DataError([f"{archive}: is damaged or no zip file ({error}). Make or download it again."]) from None
    return inner(folder)


def _write(packed: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """One file, no longer than the archive says, which was added up before. Raises ValueError for more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with packed.open(info) as source, target.open("xb") as file:
        while piece := source.read(_PIECE):
            count += len(piece)
            if count > info.file_size:
                raise ValueError("a file is longer than the archive says")
            file.write(piece)


def _wanted(archive: Path, packed: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """The files to unpack with the parts of their names. Raises DataError."""
    infos = packed.infolist()
    if len(infos) > MOST_FILES:
        raise DataError([f"{archive}: holds {len(infos):,} files; at most {MOST_FILES:,} are unpacked."])
    total = sum(info.file_size for info in infos)
    if total > LARGEST:
        raise DataError([f"{archive}: becomes {total / 1e9:.1f} GB; at most {LARGEST / 1e9:.0f} GB are unpacked."])
    wanted, problems, taken = [], [], set()
    for info in infos:
        parts = PurePosixPath(info.filename.replace("\\", "/")).parts
        if info.is_dir() or any(listing.is_junk(part) for part in parts if part != ".."):
            continue
        spelt = "/".join(parts).casefold()
        problem = _problem(info, parts) or ("is in it twice" if spelt in taken else "")
        if problem and len(problems) < MOST:
            problems.append(f"{archive}: {info.filename[:200]!r} {problem}. Pack the folder again.")
        taken.add(spelt)
        wanted.append((info, parts))
    if problems:
        raise DataError(problems)
    return wanted


def _problem(info: zipfile.ZipInfo, parts: tuple[str, ...]) -> str:
    """Why a file is not unpacked, or nothing."""
    if not parts or ".." in parts or parts[0] == "/" or _DRIVE.match(parts[0]) or "\0" in info.filename:
        return "leads out of the folder that it is unpacked to"
    if len(parts) > _DEEPEST or max(len(part.encode(errors="replace")) for part in parts) > 255:
        return "has a name that is too long or too deep"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.file_size > _PIECE and info.file_size > LARGEST_RATIO * max(1, info.compress_size):
        return f"becomes {info.file_size / max(1, info.compress_size):,.0f} times as long as it is packed"
    return ""


def inner(folder: Path) -> Path:
    """Down to where the set begins: an archive often holds one folder with everything in it."""
    for _ in range(_DEEPEST):
        inside = [path for path in folder.iterdir() if not listing.is_junk(path.name)]
        if len(inside) != 1 or not inside[0].is_dir() or is_numbered(inside[0]):
            break
        (folder,) = inside
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """Make a zip file of a folder, whole or not at all; pictures are stored as they are.

    Returns:
        ``archive``.

    Raises:
        DataError: there is such a file already, or it cannot be written.
    """
    if archive.exists():
        raise DataError([f"{archive}: is there already. Choose another name, or remove it."])
    partial = archive.with_name(f".{archive.name}.{uuid.uuid4().hex}.partial")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as packed:
            for path in sorted(_files(folder)):
                packed.write(path, path.relative_to(folder).as_posix())
        partial.rename(archive)
    except OSError as error:
        raise DataError([of_disk(error)]) from None
    finally:
        partial.unlink(missing_ok=True)
    return archive


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def is_archive(path: Path) -> bool:
    """Whether a file is meant as one, by its name or how it begins."""
    if path.suffix.lower() == ".zip":
        return True
    try:
        return path.is_file() and zipfile.is_zipfile(path)
    except OSError:
        return False


def copy_in(path: Path, folder: Path) -> None:
    """A loose file into a folder by its own name. Raises DataError where there is one of that name."""
    target = folder / path.name
    if target.exists():
        raise DataError([f"{path}: there is another file of this name among those given. Rename one of them."])
    try:
        shutil.copyfile(path, target)
    except OSError as error:
        raise DataError([of_disk(error)]) from None
