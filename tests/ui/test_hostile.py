"""A run folder of a stranger: the page shows all that is in it as text, waits for nothing, gives nothing else away."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import presets, runs
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.runs import Run, Status
from ui import curve, handlers, live, queue_bar, run_folder, run_table, watching
from ui.toolkit import gr

MARKUP = "<img src=x onerror=alert(1)>\"'"


@pytest.fixture
def run(home: Path) -> Run:
    """A run that nothing was done with yet."""
    return runs.create(presets.build(), "x")


def shown(run: Run) -> str:
    """All that the page makes of a run."""
    watching.forget(run)
    status = watching.status(run)
    parts = [
        live.status_html(run, status),
        live.samples_html(run, status),
        curve.of_run("x", status),
        queue_bar.html_of(),
    ]
    return "".join([*parts, run_table.html_of(run.name), *(text for text, _ in live.choices("image"))])


def write(run: Run, *events: dict[str, Any]) -> None:
    run.events_path.write_text("".join(json.dumps(event) + "\n" for event in events))


START = {"kind": "started", "time": 1.0, "step": 0, "steps": 9, "device": "cpu", "precision": "fp32", "parameters": 5}


@pytest.mark.parametrize(
    "event",
    [
        START | {"device": MARKUP, "precision": MARKUP, "mode": MARKUP, "reason": MARKUP},
        START | {"steps": MARKUP},
        {"kind": "note", "time": 1.0, "message": MARKUP},
        {"kind": "measured", "time": 1.0, "name": MARKUP, "value": 1.0},
        {"kind": "measured", "time": 1.0, "name": "x", "value": MARKUP},
        {"kind": "sampled", "time": 1.0, "step": 1, "prompt": MARKUP, "path": MARKUP},
        {"kind": "sampled", "time": 1.0, "step": MARKUP, "prompt": "x", "path": "x"},
        {"kind": "stage", "time": 1.0, "name": MARKUP, "done": 1, "total": 2},
        {"kind": "stepped", "time": 1.0, "step": MARKUP, "loss": MARKUP, "lr": 1, "grad_norm": 1, "seconds": 1},
        {"kind": "failed", "time": 1.0, "message": MARKUP},
        {"kind": "waiting", "time": 1.0, "reason": MARKUP},
    ],
    ids=lambda event: f"{event['kind']} {[key for key, value in event.items() if value == MARKUP]}",
)
def test_markup_is_shown_as_text(run: Run, event: dict[str, Any]) -> None:
    write(run, START, event)
    assert "<img src=x" not in shown(run) and "onerror=alert(1)>" not in shown(run)


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "stepped", "step": 10**400, "loss": 1.0, "lr": 1.0, "grad_norm": 1.0, "seconds": 1.0},
        {"kind": "stepped", "step": -5, "loss": 1.0, "lr": 1.0, "grad_norm": 1.0, "seconds": 1.0},
        {"kind": "stepped", "step": 5, "loss": float("nan"), "lr": float("inf"), "grad_norm": 1.0, "seconds": 1.0},
        {"kind": "stepped", "step": 5, "loss": 1e299, "lr": 1.0, "grad_norm": 1.0, "seconds": 1e299},
        {"kind": "stepped", "step": 5, "loss": -1e299, "lr": 1.0, "grad_norm": 1.0, "seconds": float("nan")},
        {"kind": "validated", "step": 5, "loss": float("inf")},
        {"kind": "validated", "step": 5, "loss": float("nan")},
        {"kind": "measured", "name": "exact match", "value": float("inf")},
        {"kind": "memory", "stage": "steps", "allocated": 1, "reserved": 10**30},
        {"kind": "note", "message": "x", "time": float("nan")},
        {"kind": "stopped", "step": 1, "time": 1e300},
        {"kind": "sampled", "step": 10**400, "prompt": "x", "path": "x"},
        {"kind": "sampled", "step": 1, "prompt": "x", "path": "\0"},
        {"kind": "sampled", "step": 1, "prompt": "x", "path": "../../../etc/passwd.txt"},
    ],
    ids=lambda event: str(event)[:70],
)  # fmt: skip
def test_numbers_that_are_none_break_nothing(run: Run, event: dict[str, Any]) -> None:
    step = {"kind": "stepped", "time": 1.0, "step": 1, "loss": 0.5, "lr": 1.0, "grad_norm": 1.0, "seconds": 1.0}
    write(run, START, step, {"time": 2.0} | event)
    assert run.title in shown(run)


def test_what_is_no_file_is_not_waited_for(run: Run) -> None:
    write(run, START, {"kind": "sampled", "time": 2.0, "step": 1, "prompt": "p", "path": "said.txt"})
    for name in ("said.txt", "log.txt"):
        (run.path / name).unlink(missing_ok=True)
        os.mkfifo(run.path / name)
    run.log_path.unlink(missing_ok=True)
    os.mkfifo(run.log_path)
    assert "(its file is gone)" in shown(run)
    assert run_folder.log_tail(run) == "" and "not a regular file" in run_folder.beginning(run.log_path)


def test_a_zip_holds_nothing_from_outside_the_run(run: Run, home: Path) -> None:
    (home / "secret.txt").write_text("secret")
    for end in runs.FORMS["image"][:2]:
        (run.path / f"x{end}").touch()
    folder = run.path / "x-peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").symlink_to(home / "secret.txt")
    with zipfile.ZipFile(run_folder.zipped_peft(run)) as packed:
        assert packed.namelist() == ["x-peft/adapter_config.json"]


def test_a_curve_of_nothing_finite() -> None:
    nan, inf = float("nan"), float("inf")
    status = Status(losses=[(1, 1.0), (2, nan)], validation=[(1, inf), (2, nan)], steps=5)
    assert json.loads(curve.of_run("x", status))["series"][0]["raw"] == [[1, 1.0]]
    assert (
        live.duration(inf) == live.duration(nan) == live.duration(1e300) == "unknown" and live.duration(90) != "unknown"
    )


def test_an_alert_shows_markup_as_text(run: Run) -> None:
    """Gradio shows an alert's text as HTML."""

    def fails() -> None:
        raise UserError(MARKUP)

    with pytest.raises(gr.Error) as caught:
        handlers.guarded(fails, lambda error: handlers._message(None, error))()
    assert "<" not in str(caught.value.message) and "&lt;img" in str(caught.value.message)
