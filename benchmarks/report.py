"""Results of a benchmark on disk: NAME.json with everything needed to judge it, NAME.md with the table."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """What the numbers were taken on and with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    packages = {}
    for name in ("torch", "diffusers", "transformers", "peft"):
        packages[name] = version(name)
    return {"device": device, "python": platform.python_version(), **packages}


def command() -> str:
    """What repeats this benchmark: this process's words, less where its results go."""
    words = sys.orig_argv[1:]
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return shlex.join(words)


def write(name: str, rows: list[dict[str, Any]], notes: str = "", folder: Path = RESULTS) -> str:
    """Write both files into ``folder`` and return the table."""
    table = markdown(rows)
    facts = {"date": time.strftime("%Y-%m-%d"), "command": command(), "machine": machine()}
    folder.mkdir(parents=True, exist_ok=True)
    content = {**facts, "notes": notes, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    where = ", ".join(f"{key} {value}" for key, value in facts["machine"].items())
    head = f"# {name}\n\n{facts['date']}, {where}\n\n`python {facts['command']}`\n\n"
    (folder / f"{name}.md").write_text(f"{head}{notes}\n\n{table}\n", encoding="utf-8")
    return table


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table with the keys of the first row as its head; floats get four digits."""
    keys = list(rows[0])
    lines = [keys, ["---"] * len(keys), *([_text(row[key]) for key in keys] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(name: str) -> str:
    """A row's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in ".-_" else "-" for letter in name)
