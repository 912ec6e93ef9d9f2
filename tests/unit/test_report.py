"""What a benchmark writes down about itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import report

WORDS = ["-m", "benchmarks.memory", "--only", "mine:sdxl-12gb;train.batch=2", "--out", "/somewhere/else", "--jobs", "3"]


def test_the_command_repeats_it_in_a_shell_and_names_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "orig_argv", ["python3", *WORDS])
    table = report.write("some", [{"row": "a", "ms": 1 / 3}], "Notes.", tmp_path)
    content = json.loads((tmp_path / "some.json").read_text())
    assert content["command"] == "-m benchmarks.memory --only 'mine:sdxl-12gb;train.batch=2' --jobs 3"
    assert content["rows"] == [{"row": "a", "ms": 1 / 3}]
    assert table == "| row | ms |\n| --- | --- |\n| a | 0.3333 |"
    assert f"`python {content['command']}`" in (tmp_path / "some.md").read_text()
