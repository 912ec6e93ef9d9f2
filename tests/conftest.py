"""Shared fixtures: every test has its own home folder, so that runs and caches never mix with a person's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty LOWRANK_HOME."""
    monkeypatch.setenv("LOWRANK_HOME", str(tmp_path))
    return tmp_path
