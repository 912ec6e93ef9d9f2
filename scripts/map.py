"""Write docs/map.md: every Python file of the project with the first sentence of its docstring.

python -m scripts.map
"""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

from lowrank_diffusion.paths import PROJECT

PLACES = ("app.py", "lowrank_diffusion", "trainers", "ui", "benchmarks", "recipes", "scripts")
TARGET = PROJECT / "docs" / "map.md"
HEAD = """# Every file

The first sentence of each module, written by `python -m scripts.map`; a test compares it with the tree.
"""


def files() -> list[Path]:
    """The Python files of :data:`PLACES`, relative to the project: folders in that order, files by name."""
    found = []
    for place in PLACES:
        root = PROJECT / place
        inside = [root] if root.is_file() else sorted(root.rglob("*.py"), key=lambda path: (path.parent, path.name))
        found += [path.relative_to(PROJECT) for path in inside if "__pycache__" not in path.parts]
    return found


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring as Markdown. Raises ValueError for a module that has none."""
    text = ast.get_docstring(ast.parse((PROJECT / path).read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path}: begin it with a docstring that says what it is.")
    paragraph = " ".join(text.split("\n\n")[0].split())
    first = re.split(r"(?<=[.?!])\s", paragraph, maxsplit=1)[0]
    return re.sub(r":\w+:`(?:[^<`]*<)?\.*([\w.]+)>?`", r"`\1`", first).replace("``", "`")


def text() -> str:
    """The whole of docs/map.md."""
    parts = [HEAD]
    for folder, inside in groupby(files(), key=lambda path: path.parent):
        name = "" if str(folder) == "." else f"\n## {folder.as_posix()}/\n"
        parts.append(name + "\n" + "\n".join(f"* `{path.name}`: {sentence(path)}" for path in inside) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"{TARGET.relative_to(PROJECT)}: {len(files())} files")
