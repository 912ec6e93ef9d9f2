"""Jobs that no page owns, for real: what is on the disk, what is shown, what was deleted and comes back."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lowrank_diffusion import presets, runs
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.image import grid, parameters
from lowrank_diffusion.image.items import several
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest
from ui import canvas, draw_form, jobs, records, safe
from ui.engine import Engine
from ui.image_worker import ImageWorker
from ui.jobs import Jobs
from ui.records import Record

SMALL: dict[str, Any] = {"width": 64, "height": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(ImageWorker)
    yield engine
    engine.close()


def ended(every: Jobs, name: str) -> Record:
    deadline = time.monotonic() + 120
    while every.live(name) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    record = records.read(name)
    assert record is not None
    return record


def test_a_job_is_drawn_by_nobodys_page(engine: Engine, home: Path) -> None:
    every = Jobs(engine)
    name = every.start(several(["a fox", "a cat"], DrawRequest("", steps=2, seed=3, **SMALL)))
    assert every.live(name) is not None and every.foremost() == name
    assert "progressbar" in canvas.progress_html(records.read(name), every.live(name))
    record = ended(every, name)
    assert (record.state, [file.name for _, file in record.pictures]) == ("done", ["000-3-base.png", "001-3-base.png"])
    assert record.seconds > 0 and canvas.progress_html(record, None) == ""
    assert "64 × 64 px" in canvas.facts_html(record)
    shown = canvas.pictures_html(name, record)
    assert shown.count('class="open"') == 2 and "a cat · seed 3 · base" in shown
    with zipfile.ZipFile(records.zipped(name)) as packed:
        assert {Path(path).name for path in packed.namelist()} == {"000-3-base.png", "001-3-base.png", "job.json"}


def test_a_cancelled_grid_is_kept_and_gone_on_with(engine: Engine, home: Path) -> None:
    every = Jobs(engine)
    plan = grid.make(DrawRequest("a fox", steps=30, **SMALL), [("seed", "1-3"), ("guidance", "1, 5")], str)
    name = every.start([cell.item for cell in plan.cells], plan.axes)
    deadline = time.monotonic() + 120
    while not (records.read(name) or pytest.fail()).pictures:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert every.cancel(name)
    record = ended(every, name)
    assert record.state == "cancelled" and 1 <= len(record.pictures) < 6
    assert "What was done is kept" in canvas.progress_html(record, None)
    assert canvas.pictures_html(name, record).count("to-come") == 6 - len(record.pictures)
    first = record.folder / record.pictures[0][1].name
    before = first.stat().st_mtime_ns
    assert every.go_on(name) == name
    record = ended(every, name)
    assert record.state == "done" and len(record.pictures) == 6 and first.stat().st_mtime_ns == before
    assert Image.open(record.folder / "grid.png").width > 128
    assert json.loads((record.folder / "grid.json").read_text())["axes"][0]["values"] == ["1", "2", "3"]
    text = canvas.facts_html(record)
    assert "seed: 1, 2, 3 · 30 steps · guidance: 1, 5" in text


def test_what_cannot_be_drawn_is_said_on_the_job(engine: Engine, home: Path) -> None:
    every = Jobs(engine)
    request = DrawRequest("x", adapters=(AdapterChoice("/nowhere.safetensors"),), steps=1, **SMALL)
    record = ended(every, every.start(several(["x"], request)))
    assert record.state == "failed" and "nowhere" in record.message


def kept(name: str, request: DrawRequest, state: str = "done") -> Record:
    record = Record(name, 0.0, state, tuple(several([request.prompt], request)))
    records.write(record)
    for item in record.items:
        for file in item.files:
            picture = Image.new("RGB", (64, 64))
            parameters.save(picture, record.folder / file.name, item.request, file.seed, file.adapted, "Euler")
    return record


def test_deleting_can_be_undone(home: Path) -> None:
    name = "20260101-120000-aaaaaa"
    kept(name, DrawRequest("a", count=2))
    token = jobs.delete(name, "0-base.png")
    assert len((records.read(name) or pytest.fail()).pictures) == 1
    assert jobs.undo(token) == name
    assert len((records.read(name) or pytest.fail()).pictures) == 2
    token = jobs.delete(name)
    assert records.names() == [] and records.read(name) is None
    assert jobs.undo(token) == name and records.names() == [name]
    for wrong in ("", "../..", "0" * 20, token):
        with pytest.raises(UserError, match="kept for ten minutes"):
            jobs.undo(wrong)
    for wrong in ("..", ".bin", "/etc", "gone", ""):
        with pytest.raises(UserError):
            jobs.delete(wrong)
    with pytest.raises(UserError):
        records.picture_of(name, "../../../etc/passwd")


def test_the_bin_is_emptied(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "20260101-120000-aaaaaa"
    kept(name, DrawRequest("a", count=2))
    token = jobs.delete(name, "0-base.png")
    monkeypatch.setattr(jobs, "BIN_SECONDS", -1)
    jobs.delete(name, "1-base.png")
    assert not (safe.pictures_folder() / jobs.BIN / token).exists()


def test_a_job_that_the_app_did_not_survive_can_be_continued(home: Path) -> None:
    record = kept("20260101-120000-aaaaaa", DrawRequest("a"), "waiting")
    assert "Continue draws the rest" in canvas.progress_html(records.read(record.name), None)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"items": 5}', "[" * 5000, '{"items": [], "axes": [{"kind": 1}]}']
)
def test_a_strangers_folder_costs_only_its_own_place(home: Path, content: str) -> None:
    folder = safe.pictures_folder() / "20250101-000000-old"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(content)
    Image.new("RGB", (64, 64)).save(folder / "5-base.png")
    (folder / "6-base.png").write_bytes(b"no picture")
    assert records.read(folder.name) is None
    assert canvas.pictures_html(folder.name, None).count('class="open"') == 2
    assert canvas.strip_html(records.names(), 0, folder.name, []).count("data-job") == 1
    with pytest.raises(UserError, match="is not known any more"):
        Jobs(Engine(ImageWorker)).go_on(folder.name)


def test_the_strip_has_pages(home: Path) -> None:
    names = [f"20260101-1200{number:02d}-aaaaaa" for number in range(30)]
    shown = canvas.strip_html(names, 1, names[12], [names[13]])
    assert shown.count("data-job") == canvas.PAGE and "page 2 of 3" in shown
    assert "01 Jan 12:00" in shown and shown.count("drawing") == 1
    assert "page 3 of 3" in canvas.strip_html(names, 99, "", [])


def test_a_pictures_adapters_are_found_by_file_and_by_name(home: Path, uploads: Path) -> None:
    run = runs.create(presets.build(), "cats")
    for folder in (run.checkpoint(50), run.checkpoint(100)):
        folder.mkdir(parents=True)
        for name in ("state.safetensors", *(f"cats{end}" for end in runs.FORMS["image"])):
            (folder / name).touch()
    early, late = (str(run.checkpoint(step) / "cats-diffusers.safetensors") for step in (50, 100))
    assert draw_form.choice_of(AdapterChoice(early), []) == f"run:{run.name}@50"
    assert draw_form.choice_of(AdapterChoice(late), []) == f"run:{run.name}"
    for name in ("cats", "cats-comfyui-forge"):
        assert draw_form.choice_of(AdapterChoice(name), []) == f"run:{run.name}"
    upload = str(uploads / "mine.safetensors")
    assert draw_form.choice_of(AdapterChoice("mine"), [upload]) == f"file:{upload}"
    for unknown in ("dogs", "/etc/passwd", "../x", ""):
        assert draw_form.choice_of(AdapterChoice(unknown), [upload]) == ""
    axis = {"cats": late, "cats:50": early, run.name: late, f"{run.name}:100": late}
    assert {name: draw_form.file_of(name, []) for name in axis} == axis
    with pytest.raises(UserError, match="no adapter files yet of step 70"):
        draw_form.file_of("cats:70", [])
    for unknown in ("dogs", "/etc/passwd", "dogs:5", ":"):
        with pytest.raises(UserError, match="there is no adapter"):
            draw_form.file_of(unknown, [])


def test_prompts_in_turn_are_not_endless() -> None:
    assert draw_form.prompts(" a \n\nb ", True) == ["a", "b"]
    assert draw_form.prompts(" a\nb ", False) == ["a\nb"] and draw_form.prompts(" ", True) == [""]
    with pytest.raises(draw_form.RequestError, match="500 lines; at most 400"):
        draw_form.prompts("x\n" * 500, True)
