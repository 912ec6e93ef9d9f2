"""The drawing process for real: the embedded base, few steps."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lowrank_diffusion.config import BaseModelConfig
from lowrank_diffusion.image.items import several
from lowrank_diffusion.image.request import AdapterChoice, DrawRequest
from ui.engine import CancelledError, Engine, EngineError
from ui.image_worker import Done, ImageWorker, Job, Picture, Preview, Progress
from ui.process import Waiting

SHORT = DrawRequest(prompt="an emoji of a fox", steps=2, seed=5, count=2)
LONG = DrawRequest(prompt="an emoji of a fox", steps=200, count=16)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(ImageWorker)
    yield engine
    engine.close()


def job_of(request: DrawRequest, folder: Path) -> Job:
    return Job(tuple(several([request.prompt], request)), folder)


def draw(engine: Engine, folder: Path, request: DrawRequest = SHORT, name: str = "page") -> Done:
    *_, done = engine.run(name, job_of(request, folder))
    assert isinstance(done, Done)
    return done


def test_pictures_come_with_progress_and_their_settings_inside(engine: Engine, tmp_path: Path) -> None:
    engine.warm()
    warmed = engine.pid
    *steps, done = engine.run("page", job_of(SHORT, tmp_path / "out"))
    assert warmed is not None and engine.pid == warmed, "the worker that was started before takes the job"
    assert isinstance(done, Done)
    assert tuple(step for step in steps if isinstance(step, Picture)) == done.pictures
    assert all(isinstance(step, Progress | Picture | Preview) for step in steps)
    assert [(picture.seed, picture.adapted) for picture in done.pictures] == [(5, False), (6, False)]
    with Image.open(done.pictures[1].path) as image:
        image.load()
        facts = json.loads(image.text["lowrank_diffusion"])
        assert image.size == (128, 128)
    assert (facts["seed"], facts["steps"], facts["prompt"], facts["adapters"]) == (6, 2, SHORT.prompt, [])


def test_the_same_request_gives_the_same_picture_from_the_same_process(engine: Engine, tmp_path: Path) -> None:
    first, before = draw(engine, tmp_path / "a"), engine.pid
    second = draw(engine, tmp_path / "b")
    assert engine.pid == before
    pairs = zip(first.pictures, second.pictures, strict=True)
    assert all(Image.open(a.path).tobytes() == Image.open(b.path).tobytes() for a, b in pairs)


def test_cancel_ends_only_the_job_of_who_asked(engine: Engine, tmp_path: Path) -> None:
    job = engine.run("mine", job_of(LONG, tmp_path / "out"))
    while not (isinstance(step := next(job), Progress) and step.done):
        pass
    assert not engine.cancel("somebody else's")
    assert isinstance(next(job), Progress | Preview)
    assert engine.cancel("mine")
    with pytest.raises(CancelledError):
        list(job)
    assert len(draw(engine, tmp_path / "next").pictures) == 2


def test_a_page_that_is_closed_gives_its_turn_to_the_next(engine: Engine, tmp_path: Path) -> None:
    job = engine.run("closed page", job_of(LONG, tmp_path / "out"))
    while not (isinstance(step := next(job), Progress) and step.done):
        pass
    job.close()
    updates = list(engine.run("other page", job_of(SHORT, tmp_path / "next")))
    assert isinstance(updates[-1], Done)


def test_a_second_page_waits_and_can_give_up_waiting(engine: Engine, tmp_path: Path) -> None:
    first = engine.run("first", job_of(LONG, tmp_path / "out"))
    next(first)
    second = engine.run("second", job_of(SHORT, tmp_path / "never"))
    assert isinstance(next(second), Waiting)
    engine.cancel("second")
    with pytest.raises(CancelledError):
        list(second)
    engine.cancel("first")
    with pytest.raises(CancelledError):
        list(first)


def test_a_killed_worker_is_said_plainly_and_replaced(engine: Engine, tmp_path: Path) -> None:
    job = engine.run("page", job_of(LONG, tmp_path / "out"))
    while not (isinstance(step := next(job), Progress) and step.done):
        pass
    killed = engine.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(EngineError) as error:
        list(job)
    assert str(error.value) == ImageWorker.died
    assert len(draw(engine, tmp_path / "next").pictures) == 2
    assert engine.pid not in (None, killed)


def test_errors_for_people_come_through_and_the_worker_stays(engine: Engine, tmp_path: Path) -> None:
    draw(engine, tmp_path / "first")
    before = engine.pid
    with pytest.raises(EngineError, match="/no/such/model"):
        draw(engine, tmp_path / "a", DrawRequest(prompt="x", base=BaseModelConfig(path="/no/such/model")))
    with pytest.raises(EngineError, match="nowhere"):
        draw(engine, tmp_path / "b", DrawRequest(prompt="x", adapters=(AdapterChoice("/nowhere.safetensors"),)))
    assert engine.pid == before


def test_release_waits_for_the_job_and_then_frees_the_memory(engine: Engine, tmp_path: Path) -> None:
    job = engine.run("page", job_of(SHORT, tmp_path / "out"))
    next(job)
    engine.release()
    assert engine.pid is not None
    *_, done = job
    assert isinstance(done, Done)
    assert engine.pid is None


def test_an_idle_worker_goes_away(tmp_path: Path) -> None:
    engine = Engine(ImageWorker, idle_seconds=0.2)
    draw(engine, tmp_path / "out", DrawRequest(prompt="x", steps=1))
    gone = threading.Event()
    for _ in range(100):
        if engine.pid is None:
            gone.set()
            break
        time.sleep(0.1)
    assert gone.is_set()
