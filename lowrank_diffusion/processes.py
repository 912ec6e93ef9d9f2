"""Which process is meant: pids are used again and clocks are set, but a pid with its start and its boot is one process.

A record is a small JSON file that names a process and the number of the start it belongs to.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from .files import Unreadable, read_object
from .paths import write_text

_LARGEST = 10_000
"""Bytes of a record."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def write(path: Path, pid: int, number: int) -> None:
    """Record that the process ``pid`` is start ``number``. Raises OSError; a process that has gone is nobody's."""
    try:
        write_text(path, json.dumps({"pid": pid, "born": _born(pid), "boot": _boot(), "start": number}))
    except psutil.Error:
        return  # it has ended already, and its start counts by its events


def alive(path: Path) -> psutil.Process | None:
    """The recorded process, if it is still the same one and has not ended."""
    facts = _facts(path)
    pid, born = facts.get("pid"), facts.get("born")
    if type(pid) is not int or not 0 < pid < 2**31 or not isinstance(born, str) or facts.get("boot") != _boot():
        return None
    try:
        process = psutil.Process(pid)
        return process if _born(pid) == born and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def number(path: Path) -> int:
    """The recorded start's number; 0 where there is no record."""
    start = _facts(path).get("start")
    return start if type(start) is int and 0 <= start < 2**31 else 0


def _facts(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, _LARGEST)
    except Unreadable:
        return {}


def _boot() -> str:
    """Linux's name of this boot. Elsewhere a process's time of creation is kept by the kernel, and enough."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When the process was started, by a clock that nobody sets: Linux counts ticks since the boot."""
    try:
        # The second field is the program's name in brackets and may hold anything; the ticks are the 22nd.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return repr(psutil.Process(pid).create_time())


def without_hints() -> None:
    """Quieten the libraries of this process before it loads them, unless a person has asked for their hints.

    What they say is about code, and not for whoever reads a terminal or a run's log.
    """
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


@contextmanager
def importing_libraries() -> Iterator[None]:
    """Inside, torch and the models' libraries are imported without garbage collection, if they are not there already.

    They make a million objects that stay: collections during the import take a quarter of its time, and each full one
    afterwards a third of a second. So collections wait until the end, and leave out what is there by then.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
