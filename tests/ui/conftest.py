"""Fixtures of the app's tests: uploads as Gradio keeps them, and small pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from ui.engine import Engine
from ui.language_worker import LanguageWorker


@pytest.fixture(autouse=True)
def uploads(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for Gradio's uploads in this test."""
    folder = home / "cache" / "uploads"
    folder.mkdir(parents=True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
def upload(uploads: Path) -> Callable[..., Path]:
    """Put a file where an upload of it would be: a picture of one colour, or the given bytes."""

    def put(name: str, content: bytes | None = None, colour: str = "red") -> Path:
        path = uploads / f"{len(list(uploads.iterdir())):032x}" / name
        path.parent.mkdir()
        if content is None:
            Image.new("RGB", (160, 128), colour).save(path)
        else:
            path.write_bytes(content)
        return path

    return put


@pytest.fixture(scope="session")
def language_engine() -> Iterator[Engine]:
    """The language process, one for all tests: loading torch takes it seconds."""
    engine = Engine(LanguageWorker)
    yield engine
    engine.close()
