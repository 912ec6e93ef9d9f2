"""Shared fixtures: every test has its own home folder, so that runs and caches never mix with a person's."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lowrank_diffusion.image  # noqa: F401  # before any library, so that those are as quiet as in the commands
from lowrank_diffusion.processes import importing_libraries
from tests import tiny_language as tiny_language_model

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

_MANY = 300
_modules = 0
"""How many modules were imported when the garbage collector was last told to leave out what is there."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collecting the tests imports torch and the models' libraries: as the commands do it."""
    global _modules
    with importing_libraries():
        result = yield
    _modules = len(sys.modules)
    return result


def pytest_runtest_teardown() -> None:
    """What tests import later is left out too, else every full collection, of which there are many, walks it."""
    global _modules
    if len(sys.modules) > _modules + _MANY:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LOWRANK_HOME."""
    monkeypatch.setenv("LOWRANK_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def converted_bases(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Language models that one test converts serve those of all workers: reading a GGUF file takes half a minute."""
    share_bases(home, tmp_path_factory)


def share_bases(home: Path, folders: pytest.TempPathFactory) -> None:
    """Let converted language models be kept where all tests find them."""
    base = folders.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bases"
    shared.mkdir(exist_ok=True)
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache" / "bases").symlink_to(shared)


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a language model that loads at once."""
    return tiny_language_model.write(tmp_path_factory.mktemp("language") / "tiny")
