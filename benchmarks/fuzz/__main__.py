"""``python -m benchmarks.fuzz KIND... [--count 300] [--seed N]``: hostile files, and what the project makes of them.

Each kind has a child process that reads one file after another; what is watched from outside is whether anything but a
UserError comes out, how long it takes and how much memory it takes. ``--only NUMBER`` repeats a single case and shows
the traceback. The exit code is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

LONGEST = 10.0
"""Seconds for a file."""
MOST_MEMORY = 500 * 2**20
"""Bytes more than before."""
_STUCK, _TOO_MUCH = 60.0, 3 * 2**30
"""Where a child is ended."""


def main() -> int:
    """Try files; 1 if anything was found."""
    from .cases import KINDS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", metavar="KIND", help=f"{', '.join(KINDS)}, or all")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this case alone, with its traceback")
    parser.add_argument("--child", type=int, metavar="FIRST", help=argparse.SUPPRESS)
    options = parser.parse_args()
    kinds = KINDS if options.kinds == ["all"] else options.kinds
    if options.child is not None:
        return _child(kinds[0], options.seed, options.child, options.count)
    if options.only is not None:
        _try(kinds[0], options.seed, options.only)
        return 0
    found = sum(_kind(kind, options.seed, options.count) for kind in kinds)
    return int(found > 0)


def _kind(kind: str, seed: int, count: int) -> int:
    """Try the files of one kind; how many findings there are."""
    began, findings, first, slowest, largest = time.monotonic(), [], 0, 0.0, 0
    while first < count:
        for answer in _Child(kind, seed, first, count):
            first = answer["number"] + 1
            slowest, largest = max(slowest, answer["seconds"]), max(largest, answer["memory"])
            for what in _told(answer):
                findings.append(what)
                print(f"{kind} --seed {seed} --only {answer['number']}: {what} ({answer['about']})", flush=True)
    print(
        f"{kind}: {count} files, seed {seed}: {len(findings)} findings, slowest {slowest:.1f} s, "
        f"most memory {largest / 2**20:.0f} MiB, {time.monotonic() - began:.0f} s in all",
        flush=True,
    )
    return len(findings)


def _told(answer: dict[str, Any]) -> list[str]:
    found = [answer["error"]] if answer["error"] else []
    if answer["seconds"] > LONGEST:
        found.append(f"took {answer['seconds']:.1f} s")
    if answer["memory"] > MOST_MEMORY:
        found.append(f"took {answer['memory'] / 2**20:.0f} MiB")
    return found


class _Child:
    """Iterates over the answers of a child, and ends with one of its own where the child is stuck or gone."""

    def __init__(self, kind: str, seed: int, first: int, count: int):
        words = [kind, "--seed", str(seed), "--count", str(count), "--child", str(first)]
        self.number, self.seed, self.kind = first, seed, kind
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __iter__(self) -> Any:
        try:
            while True:
                answer = self._next()
                if answer is None:
                    return
                yield answer
                self.number = answer["number"] + 1
        finally:
            self.process.kill()
            self.process.wait()

    def _next(self) -> dict[str, Any] | None:
        began = before = 0.0
        most = 0
        while True:
            out = self.process.stdout
            assert out is not None
            ready, _, _ = select.select([out], [], [], 0.1)
            now = time.monotonic()
            if ready:
                line = out.readline()
                if not line:
                    return None if self.process.wait() == 0 else self._own(began, most, "the process died")
                said = json.loads(line)
                if "error" in said:
                    return said
                self.number, began, before = said["number"], now, said["rss"]
            elif began:
                most = max(most, self._rss() - int(before))
                if now - began > _STUCK or most > _TOO_MUCH:
                    return self._own(began, most, "ended")

    def _own(self, began: float, memory: int, error: str) -> dict[str, Any]:
        seconds = time.monotonic() - began if began else 0.0
        return {"number": self.number, "seconds": seconds, "memory": memory, "error": error, "about": ""}

    def _rss(self) -> int:
        try:
            return psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:
            return 0


def _child(kind: str, seed: int, first: int, count: int) -> int:
    """Try cases and say a line before and after each."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print
    _try(kind, seed, first)  # imports and what is loaded once do not count
    for number in range(first, count):
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        print(json.dumps({"number": number, "rss": before}), file=out)
        began, error = time.monotonic(), ""
        try:
            about = _try(kind, seed, number)
        except Exception as caught:
            about, error = "", f"{type(caught).__name__}: {str(caught)[:200]} at {_where(caught)}"
        took = {"seconds": time.monotonic() - began, "memory": _memory("VmHWM") - before}
        print(json.dumps({"number": number, **took, "error": error, "about": about}), file=out)
    return 0


def _try(kind: str, seed: int, number: int) -> str:
    from . import cases, doors

    case = cases.make(kind, seed, number)
    with tempfile.TemporaryDirectory() as home:
        os.environ["LOWRANK_HOME"] = str(Path(home) / "home")
        folder = Path(home) / "files"
        folder.mkdir()
        doors.write(case, folder)
        doors.run(kind, folder)
    return case.about


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _where(error: BaseException) -> str:
    """The last line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main())
