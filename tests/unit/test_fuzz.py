"""Some files of every kind, real ones changed at random and hostile ones: nothing but a UserError may come out.

``python -m benchmarks.fuzz all`` tries hundreds, and watches time and memory too.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.fuzz import cases, doors, originals

SEED = 5
FILES = {
    "yaml": 24,
    "rows": 24,
    "pictures": 24,
    "safetensors": 36,
    "gguf": 16,
    "folders": 4,
    "language": 22,
    "runs": 16,
    "sets": 40,
}
SLOW = {
    "yaml": ("keys",),
    "rows": ("lines", "blank"),
    "pictures": ("megapixels", "thread", "pieces"),
    "safetensors": ("many",),
    "sets": ("bomb", "many"),
}
"""By hand, and only in the long form."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_few_files_of_each_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    began = time.monotonic()
    for number in range(FILES[kind]):
        case = cases.make(kind, SEED, number)
        if any(word in case.about for word in SLOW.get(kind, ())):
            continue
        home, folder = tmp_path / str(number) / "home", tmp_path / str(number) / "files"
        folder.mkdir(parents=True)
        monkeypatch.setenv("LOWRANK_HOME", str(home))
        doors.write(case, folder)
        try:
            doors.run(kind, folder)
        except Exception as error:
            pytest.fail(f"{kind} --seed {SEED} --only {number} ({case.about}): {type(error).__name__}: {error}")
    print(f"{kind}: {FILES[kind]} files of seed {SEED} in {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("kind", FILES)
def test_the_originals_are_right(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the changed ones would be refused at once, and prove nothing."""
    refused = {"safetensors": {"base.safetensors"}, "rows": set()}  # which is whole by its names only
    for number, files in enumerate(originals.of(kind)):
        if refused.get(kind, set()) & files.keys():
            continue
        folder = tmp_path / str(number) / "files"
        folder.mkdir(parents=True)
        monkeypatch.setenv("LOWRANK_HOME", str(tmp_path / str(number) / "home"))
        doors.write(cases.Case("", files), folder)
        for step in doors.steps(kind, folder):
            if kind in ("rows", "yaml"):  # presets with blanks, and sets without captions, are refused in part
                continue
            step()


def test_a_case_is_the_same_whenever_it_is_made():
    for kind in cases.KINDS:
        assert cases.make(kind, 3, 90) == cases.make(kind, 3, 90)
        assert cases.make(kind, 3, 90) != cases.make(kind, 4, 90)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
