"""The event log: what is written is read, whatever happens to the writer, the reader or the disk."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lowrank_diffusion import events
from lowrank_diffusion.events import EventLog, Note, Record, Stepped, tail
from lowrank_diffusion.status import Status

TEXTS = ["plain", "Füchse 🦊 \u2028 'x' \"y\" \\ \n\r\t\x00", "not utf-8: \udcff.png", ""]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def read(path: Path) -> list[events.Event]:
    return [record.event for record in tail(path)[0]]


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """Files cannot grow by more than ``room`` bytes over the size of ``path``; a write over it is cut short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", events.KINDS.values(), ids=events.KINDS)
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_every_kind_comes_back_as_it_was(path: Path, kind: type[events.Event], text: str):
    name = text.replace("\x00", "")  # no file has it in its name
    values: dict[str, Any] = {"int": 3, "float": 1.25e-7, "str": text, "tuple[str, ...]": (name, "b"), "bool": False}
    given = {field.name: values[str(field.type)] for field in dataclasses.fields(kind)}
    event = kind(**given | ({"path": name} if "path" in given else {}))
    before = time.time()
    EventLog(path).append(event)
    ((record,), offset) = tail(path)
    assert record.event == event and before - 0.01 <= record.time <= time.time() + 0.01
    assert offset == path.stat().st_size and path.read_bytes().count(b"\n") == 1


def test_a_loss_that_is_no_number_comes_back(path: Path):
    EventLog(path).append(Stepped(1, float("nan"), 0.1, float("inf"), 1.0))
    (event,) = read(path)
    assert isinstance(event, Stepped) and event.loss != event.loss and event.grad_norm == float("inf")


def test_several_readers_go_on_from_their_own_offsets(path: Path):
    assert tail(path) == ([], 0)
    log, first, second, seen = EventLog(path), 0, 0, []
    for number in range(6):
        log.append(Note(f"{number}"))
        records, first = tail(path, first)
        assert [record.event for record in records] == [Note(f"{number}")]
        if number % 3 == 2:
            records, second = tail(path, second)
            seen += [record.event for record in records]
    assert tail(path, first) == ([], first) and first == second
    assert seen == read(path) == [Note(f"{number}") for number in range(6)]


def test_a_line_that_is_not_finished_waits_for_the_next_look(path: Path):
    EventLog(path).append(Note("one"))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        records, offset = tail(path)
        assert [record.event for record in records] == [Note("one")] and offset == len(whole)
    path.write_bytes(whole + whole)
    assert [record.event for record in tail(path, offset)[0]] == [Note("one")]


def test_a_new_writer_ends_the_line_of_one_that_was_killed(path: Path):
    EventLog(path).append(Note("one"))
    with path.open("ab") as file:
        file.write('{"kind": "note", "message": "thé'.encode()[:-1])
    _, offset = tail(path)
    log = EventLog(path)
    log.append(Note("two"))
    assert read(path) == [Note("one"), Note("two")]
    assert [record.event for record in tail(path, offset)[0]] == [Note("two")]
    assert path.read_bytes().count(b"\n") == 3
    EventLog(path)
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "teleported", "time": 1.0},
        {"kind": "event", "time": 1.0},
        {"kind": ["note"], "time": 1.0, "message": "x"},
        {"kind": "note", "time": 1.0},
        {"kind": "note", "message": "x"},
        {"kind": "note", "time": None, "message": "x"},
        {"time": 1.0, "message": "x"},
        "note",
        None,
        [1],
    ],
)
def test_what_is_not_understood_is_passed_over(path: Path, line: Any):
    log = EventLog(path)
    log.append(Note("one"))
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n\nnot json\n")
    log.append(Note("two"))
    assert read(path) == [Note("one"), Note("two")]


def test_facts_that_a_newer_version_added_are_left_out(path: Path):
    path.write_text('{"kind": "note", "time": 2.5, "message": "x", "colour": "red"}\n')
    assert tail(path)[0] == [Record(2.5, Note("x"))]


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_full_disk_keeps_every_event_in_order_and_no_half_line(path: Path, room: int):
    log = EventLog(path)
    log.append(Note("before"))
    size = path.stat().st_size
    with full_disk(path, room):
        for number in range(3):
            log.append(Note(f"full {number} " + "x" * 100))
        assert not log.flush()
        assert path.stat().st_size == size and read(path) == [Note("before")]
    log.append(Note("after"))
    assert [event.message.split(" x")[0] for event in read(path) if isinstance(event, Note)] == [
        "before", "full 0", "full 1", "full 2", "after",
    ]  # fmt: skip
    times = [record.time for record in tail(path)[0]]
    assert times == sorted(times) and log.flush()


def test_a_torn_line_on_a_full_disk_is_ended_when_there_is_room(path: Path):
    path.write_bytes(b'{"kind": "no')
    with full_disk(path, 0):
        log = EventLog(path)
        log.append(Note("one"))
        assert path.read_bytes() == b'{"kind": "no'
    log.append(Note("two"))
    assert read(path) == [Note("one"), Note("two")]


STEPPED = {"kind": "stepped", "time": 1.5e9, "step": 1, "loss": 0.5, "lr": 1e-4, "grad_norm": 1.0, "seconds": 2.0}


@pytest.mark.parametrize(
    "changed",
    [
        {"step": "<b>1</b>"}, {"step": -1}, {"step": 1.5}, {"step": True}, {"step": 10**30}, {"step": None},
        {"time": "noon"}, {"time": float("nan")}, {"time": float("inf")}, {"time": -1}, {"time": None},
        {"loss": "0.5"}, {"loss": [1]}, {"loss": True}, {"kind": ["stepped"]}, {"kind": "stopped", "step": {}},
        {"kind": "sampled", "prompt": "a", "path": "/etc/passwd"}, {"kind": "sampled", "prompt": "a", "path": 3},
        {"kind": "sampled", "prompt": "a", "path": "samples/../../x.png"},
        {"kind": "sampled", "prompt": "a", "path": "..\\x.png"},
        {"kind": "sampled", "prompt": "a", "path": "C:\\x.png"},
        {"kind": "exported", "paths": ["a", "../b"]}, {"kind": "exported", "paths": "abc"},
        {"kind": "note", "message": {"a": 1}}, {"kind": "note", "message": "x" * 2_000_000},
    ],
    ids=lambda changed: ascii(changed)[:60],
)  # fmt: skip
def test_a_line_that_somebody_made_up_is_none_of_ours(path: Path, changed: dict[str, Any]):
    lines = [STEPPED | changed, STEPPED]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read(path) == [Stepped(1, 0.5, 1e-4, 1.0, 2.0)]


@pytest.mark.parametrize(
    "junk", [b"[" * 50_000, b"\0" * 300, b"9" * 6000, b"\xff\xfe", b"null", b"{}", b'{"kind": {}}']
)
def test_junk_between_lines_costs_itself_only(path: Path, junk: bytes):
    line = json.dumps(STEPPED).encode()
    path.write_bytes(b"\n".join([line, junk, line, b""]))
    assert len(read(path)) == 2


def test_a_log_of_many_megabytes_is_read_whole(path: Path):
    line = json.dumps(STEPPED).encode() + b"\n"
    path.write_bytes(line * 60_000 + b"x" * 9_000_000 + b"\n" + line)
    assert path.stat().st_size > 15_000_000
    records, offset = tail(path)
    assert len(records) == 60_001 and offset == path.stat().st_size


def test_work_between_two_steps_is_named_and_the_run_still_trains():
    status = Status()
    for event in (
        events.Stage("Loading the model", 0, 1),
        events.Started(0, 10, "cpu", "float32", 1, "eager", ""),
        events.Stage("Measuring before training", 12, 100),
    ):
        status.fold(events.Record(1.0, event))
    assert (status.state, status.stage, status.stage_done, status.stage_total) == (
        "training",
        "Measuring before training",
        12,
        100,
    )
    status.fold(events.Record(2.0, events.Validated(0, 1.0)))
    assert status.state == "training" and not status.stage
    status.fold(events.Record(3.0, events.Stage("Sampling after step 5", 0, 2)))
    status.fold(events.Record(4.0, events.Finished(10)))
    assert status.state == "finished" and not status.stage


def test_stages_are_told_a_few_times_a_second_and_at_their_end(path: Path):
    stages = events.Stages(events.EventLog(path))
    for done in range(1001):
        stages("Measuring", done, 1000)
    told = read(path)
    assert told[0] == events.Stage("Measuring", 0, 1000) and told[-1] == events.Stage("Measuring", 1000, 1000)
    assert len(told) < 100
