"""Run directories: their names, the state that their events and processes add up to, their files, and finding them."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowrank_diffusion import events, paths, presets, requests, runs, supervisor, terminal
from lowrank_diffusion.config import Config, ConfigError
from lowrank_diffusion.events import EventLog
from lowrank_diffusion.paths import PROJECT, write_text
from lowrank_diffusion.runs import Run, RunError, Watch


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runs.create(Config(), "cats", tmp_path)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen]:
    """A live process that stands for a training one."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    end(process)


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def tell(run: Run, *happened: events.Event) -> None:
    log = EventLog(run.events_path)
    for event in happened:
        log.append(event)


STAGE = events.Stage("Encoding pictures", 3, 20)
STARTED = events.Started(0, 60, "cpu", "float32", 1234)


def step(number: int, loss: float = 0.5, seconds: float = 2.0) -> events.Stepped:
    return events.Stepped(number, loss, 1e-4, 1.0, seconds)


# names


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("cats", "cats"),
        ("My Cats, 2nd try!", "My-Cats-2nd-try"),
        ("../../etc", "etc"),
        ("2-cats", "2-cats"),
        ("1_2-x", "1_2-x"),
        ("café 猫", "caf"),
        ("猫", "run"),
        ("x" * 80, "x" * 60),
    ],
)
def test_a_name_becomes_a_directory_and_comes_back_as_the_title(tmp_path: Path, name: str, slug: str):
    first, second = runs.create(Config(), name, tmp_path), runs.create(Config(), name, tmp_path)
    for run in (first, second):
        assert run.path.parent == tmp_path and run.name.endswith(f"-{slug}")
        assert run.title == name and run.stem == slug
        assert runs.find(run.name, tmp_path).path == run.path
    assert runs.find(slug, tmp_path).path == runs.find(name, tmp_path).path == second.path


@pytest.mark.parametrize("name", ["", " ", "...", "--"])
def test_a_name_of_nothing_is_refused(tmp_path: Path, name: str):
    with pytest.raises(RunError, match="name: must hold a letter or a digit"):
        runs.create(Config(), name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="name: must have at most 80 characters, got 81"):
        runs.create(Config(), "x" * 81, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_made_in_the_same_second_are_all_there_newest_first(tmp_path: Path):
    made = [runs.create(Config(), "same", tmp_path) for _ in range(4)]
    assert len({run.path for run in made}) == 4
    assert [run.path for run in runs.all_runs(tmp_path)] == [run.path for run in reversed(made)]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"file/.*-cats: cannot be made: .* LOWRANK_HOME"):
        runs.create(Config(), "cats", tmp_path / "file")


def test_a_full_disk_leaves_no_run_behind(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(RunError, match="Free some space"):
            runs.create(Config(), "cats", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


# settings


def test_settings_come_back(tmp_path: Path):
    config = presets.build({}, {"adapter.rank": 6, "data.trigger": "12e4", "sample.prompts": ["a", "b"]})
    assert runs.create(config, "cats", tmp_path).config() == config


@pytest.mark.parametrize("content", [None, b"- a", b"\xff", b"adapter: {rnak: 2}", b"a: b: c"])
def test_settings_that_cannot_be_read_name_the_file_or_key(run: Run, content: bytes | None):
    path = run.path / "config.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        run.config()
    assert ("adapter.rnak" if content and b"rnak" in content else str(path)) in str(caught.value)


def test_paths_inside_a_run_move_with_it(tmp_path: Path):
    run = runs.create(Config(), "cats", tmp_path)
    pictures, elsewhere = run.path / "data" / "instance", tmp_path / "elsewhere"
    for folder in (pictures, elsewhere):
        folder.mkdir(parents=True)
    config = presets.build({}, {"data.instance": str(pictures), "prior.pictures": str(elsewhere)})
    run.write_config(config)
    assert run.config() == config
    assert (
        str(tmp_path) not in presets.to_yaml(Config())
        and "instance: data/instance" in (run.path / "config.yaml").read_text()
    )
    moved = Run(run.path.rename(tmp_path / "moved"))
    assert moved.config().data.instance == str(moved.path / "data" / "instance")
    assert moved.config().prior.pictures == str(elsewhere)


def test_a_run_whose_own_paths_are_absolute_is_moved_too(tmp_path: Path):
    run = runs.create(Config(), "cats", tmp_path)
    config = presets.build({}, {"data.instance": str(run.path / "data" / "rows.jsonl")})
    write_text(run.path / "config.yaml", presets.to_yaml(config))
    (tmp_path / "other").mkdir()
    moved = Run(run.path.rename(tmp_path / "other" / run.name))
    assert moved.config().data.instance == str(run.path / "data" / "rows.jsonl"), "there is nothing of that name"
    (moved.path / "data").mkdir()
    (moved.path / "data" / "rows.jsonl").touch()
    assert moved.config().data.instance == str(moved.path / "data" / "rows.jsonl")


def test_folders_become_absolute_from_here_or_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("pictures", "base", "embedded", "vae"):
        (tmp_path / name).mkdir()
    given = {"data.instance": "pictures", "prior.pictures": "assets/examples", "base.path": "base", "base.vae": "~/vae"}
    config = presets.with_absolute_paths(presets.build({}, given))
    assert config.data.instance == str(tmp_path / "pictures")
    assert config.prior.pictures == str(PROJECT / "assets/examples")
    assert (config.base.path, config.base.vae) == (str(tmp_path / "base"), str(tmp_path / "vae"))
    assert presets.with_absolute_paths(config) == config
    unchanged = presets.build({}, {"data.instance": "gone", "base.path": "owner/name"})
    assert presets.with_absolute_paths(unchanged) == unchanged
    assert presets.with_absolute_paths(Config()) == Config()  # 'embedded' is a word, not the folder of that name


# states


def test_states_as_events_come_in(run: Run, sleeper: subprocess.Popen):
    assert run.status().state == "new" and not run.status().active
    run.write_process(sleeper.pid, 1)
    log = EventLog(run.events_path)
    assert run.status().state == "starting"
    for event, state in (
        (events.Began(1), "starting"),
        (events.Waiting("Another run is training."), "waiting"),
        (STAGE, "preparing"),
        (STARTED, "training"),
        (step(1), "training"),
        (events.Validated(1, 0.4), "training"),
        (events.Saved(1, "checkpoints/step-000001"), "training"),
        (events.Note("a word"), "training"),
    ):
        log.append(event)
        assert run.status().state == state and run.status().active
    for event, state in (
        (events.Stopped(1), "stopped"),
        (events.Finished(1), "finished"),
        (events.Failed("x"), "failed"),
    ):
        log.append(event)
        assert run.status().state == state and not run.status().active


def test_a_run_that_waits_says_why(run: Run, sleeper: subprocess.Popen):
    run.write_process(sleeper.pid, 1)
    tell(run, events.Began(1), events.Waiting("because"))
    assert run.status().message == "because"
    tell(run, STAGE)
    assert run.status().message == ""


def test_what_a_status_holds(run: Run):
    tell(run, STAGE)
    status = run.status()
    assert (status.stage, status.stage_done, status.stage_total) == ("Encoding pictures", 3, 20)
    sampled = events.Sampled(2, "a fox", "samples/x.png")
    note = events.Note("mind the gap")
    tell(
        run, STARTED, step(1, 0.5, 2.0), step(2, 0.25, 4.0), events.Validated(2, 0.3), sampled, note, events.Stopped(2)
    )
    status = run.status()
    assert (status.device, status.precision, status.parameters, status.stage) == ("cpu", "float32", 1234, "")
    assert (status.step, status.steps) == (2, 60)
    assert status.losses == [(1, 0.5), (2, 0.25)] and status.rates == [(1, 1e-4), (2, 1e-4)]
    assert status.validation == [(2, 0.3)] and status.samples == [(2, "a fox", "samples/x.png")]
    assert status.notes == ["mind the gap"] and status.memory == 0
    assert status.seconds_per_step == pytest.approx(0.9 * 2 + 0.1 * 4)
    assert status.eta == pytest.approx(58 * status.seconds_per_step)
    assert 0 < status.started <= status.updated <= time.time() + 1


def test_the_most_memory_of_all_stages_is_what_a_run_took(run: Run):
    tell(run, STARTED, events.Memory("steps", 5, 8), events.Memory("samples", 4, 9), events.Memory("steps", 6, 7))
    assert run.status().memory == 9


def test_a_failure_says_why_until_the_next_start(run: Run):
    tell(run, STARTED, events.Failed("Out of memory."))
    assert (run.status().state, run.status().message) == ("failed", "Out of memory.")
    tell(run, STARTED, events.Finished(60))
    assert (run.status().state, run.status().message) == ("finished", "")


def test_a_process_that_died_without_a_word(run: Run, sleeper: subprocess.Popen):
    watch = Watch(run)
    run.write_process(sleeper.pid, 1)
    tell(run, events.Began(1), STARTED, step(1))
    assert watch.refresh().state == "training"
    end(sleeper)
    for status in (watch.refresh(), run.status()):
        assert status.state == "interrupted" and str(run.log_path) in status.message and not status.active
    tell(run, step(2), events.Stopped(2))
    assert watch.refresh().state == run.status().state == "stopped"


def test_a_zombie_is_dead(run: Run):
    process = subprocess.Popen([sys.executable, "-c", ""])
    run.write_process(process.pid, 1)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it yet
    assert run.process() is None and run.status().state == "interrupted"
    process.wait()


def test_a_process_that_dies_before_its_first_event(run: Run, sleeper: subprocess.Popen):
    run.write_launch(sleeper.pid, 1)
    end(sleeper)
    assert run.status().state == "interrupted"


@pytest.mark.parametrize("last", [events.Stopped(1), events.Failed("x"), step(1)])
def test_a_resumed_run_is_starting_until_it_speaks(run: Run, sleeper: subprocess.Popen, last: events.Event):
    """For a follower and for a fresh look."""
    watch = Watch(run)
    tell(run, events.Began(1), STARTED, step(1), last)
    before = "interrupted" if isinstance(last, events.Stepped) else type(last).__name__.lower()
    assert watch.refresh().state == before
    run.write_launch(sleeper.pid, 2)
    for status in (watch.refresh(), run.status()):
        assert (status.state, status.message) == ("starting", "")
    end(sleeper)
    for status in (watch.refresh(), run.status()):
        assert status.state == "interrupted"
    tell(run, events.Began(2), STAGE, events.Failed("again"))
    for status in (watch.refresh(), run.status()):
        assert (status.state, status.message, status.starts) == ("failed", "again", 2)


@pytest.mark.parametrize("set_back", [3600, -3600, 10**8])
@pytest.mark.parametrize("last", [events.Finished(2), events.Stopped(2), events.Failed("x")])
def test_a_clock_that_is_set_changes_no_state(
    run: Run, sleeper: subprocess.Popen, last: events.Event, set_back: float, monkeypatch: pytest.MonkeyPatch
):
    run.write_launch(sleeper.pid, 1)
    run.write_process(sleeper.pid, 1)
    tell(run, events.Began(1), STARTED, step(1))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - set_back)
    assert run.status().state == "training"
    tell(run, step(2), last)
    end(sleeper)
    status = run.status()
    assert status.state == type(last).__name__.lower() and status.took >= 0
    monkeypatch.setattr(time, "time", real)
    assert run.status().state == status.state


def test_of_two_that_were_started_the_one_that_works_is_the_runs_process(run: Run, sleeper: subprocess.Popen):
    """A double click, or app and terminal: the second finds the lock taken, and ends."""
    run.write_launch(sleeper.pid, 1)
    run.write_process(sleeper.pid, 1)
    tell(run, events.Began(1), STARTED, step(1))
    second = subprocess.Popen([sys.executable, "-c", ""])
    run.write_launch(second.pid, 1)
    second.wait()
    process = run.process()
    assert process is not None and process.pid == sleeper.pid and run.status().state == "training"
    supervisor.stop(run)
    assert run.requested("stop")


def test_a_process_that_has_said_its_last_word_is_not_at_work(run: Run, sleeper: subprocess.Popen):
    run.write_process(sleeper.pid, 1)
    tell(run, events.Began(1), STARTED, events.Stopped(0))
    assert run.process() is not None and run.status().state == "stopped"


@pytest.mark.parametrize("changed", [{"born": "1"}, {"boot": "another"}, {"pid": os.getpid()}, {"pid": 2**31 - 1}])
def test_a_pid_that_was_used_again_is_another_process(run: Run, sleeper: subprocess.Popen, changed: dict[str, object]):
    run.write_process(sleeper.pid, 1)
    assert run.process() is not None
    facts = json.loads((run.path / "process.json").read_text())
    write_text(run.path / "process.json", json.dumps(facts | changed))
    tell(run, events.Began(1), STARTED)
    assert run.process() is None and run.status().state == "interrupted"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "5", "{}", "[" * 5000, '{"pid": "x", "born": "1"}', '{"pid": -1, "born": 1, "boot": []}',
     '{"pid": 1, "created": 1e999}', '{"pid": 1e400, "start": "9"}', '{"start": -5}', " " * 100_000],
)  # fmt: skip
@pytest.mark.parametrize("name", ["process.json", "launch.json"])
def test_a_damaged_process_file_means_no_process(run: Run, content: str, name: str):
    (run.path / name).write_text(content)
    assert run.process() is None and run.newest_start == 0
    tell(run, STARTED)
    assert run.status().state == "interrupted"


def test_a_pipe_in_a_runs_place_is_not_waited_for(run: Run):
    for name in ("events.jsonl", "process.json", "launch.json"):
        os.mkfifo(run.path / name)
    (run.path / "config.yaml").unlink()
    os.mkfifo(run.path / "config.yaml")
    assert run.status().state == "new" and run.process() is None
    with pytest.raises(ConfigError, match="not a regular file"):
        run.config()


def test_resuming_drops_what_is_repeated(run: Run):
    tell(run, STARTED, events.Validated(0, 9.0), events.Sampled(0, "a", "0.png"))
    tell(run, *(step(number, loss=number) for number in range(1, 34)))
    tell(run, *(events.Validated(at, at) for at in (10, 25, 30)), *(events.Sampled(at, "a", "x") for at in (25, 30)))
    tell(run, dataclasses.replace(STARTED, step=25), step(26, loss=-1), events.Validated(30, -1))
    status = run.status()
    assert status.losses == [(number, number) for number in range(1, 26)] + [(26, -1)]
    assert [at for at, _ in status.rates] == list(range(1, 27))
    assert status.validation == [(0, 9.0), (10, 10), (25, 25), (30, -1)]
    assert [at for at, _, _ in status.samples] == [0, 25] and status.step == 26


def test_resuming_from_nothing_repeats_the_look_before_the_first_step_too(run: Run):
    once = [STARTED, events.Validated(0, 9.0), events.Sampled(0, "a", "0.png")]
    tell(run, *once, step(1), step(2), *once)
    status = run.status()
    assert status.losses == status.rates == []
    assert status.validation == [(0, 9.0)] and status.samples == [(0, "a", "0.png")]


def test_following_adds_up_to_the_same_as_reading_at_once(run: Run, sleeper: subprocess.Popen):
    run.write_process(sleeper.pid, 0)
    watch, log = Watch(run), EventLog(run.events_path)
    story = [STAGE, STARTED, step(1), events.Note("n"), step(2), events.Saved(2, "x"), events.Sampled(2, "p", "q")]
    story += [step(3), dataclasses.replace(STARTED, step=2), step(3), events.Validated(3, 0.1), events.Finished(3)]
    for event in story:
        log.append(event)
        with run.events_path.open("ab") as file:  # a torn line, then the same line whole
            file.write(b'{"kind": "no')
        assert watch.refresh() == run.status()
        os.truncate(run.events_path, run.events_path.stat().st_size - len(b'{"kind": "no'))
    end(sleeper)
    assert watch.refresh() == run.status() and watch.refresh().state == "finished"


# files


def write_files(folder: Path, title: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{title}{end}" for end in runs.FORMS["image"]]
    for path in paths[:2]:
        path.write_bytes(b"x")
    paths[2].mkdir()
    return paths


def test_files_of_the_newest_state_or_of_one_checkpoint(run: Run):
    with pytest.raises(RunError, match=r"has no adapter files yet\. Kept steps: none"):
        run.files()
    written = {step: write_files(run.path / f"checkpoints/step-{step:06d}", "cats") for step in (0, 20, 100)}
    for step in (0, 20, 100):
        (run.path / f"checkpoints/step-{step:06d}/state.safetensors").write_bytes(b"x")
    unfinished = write_files(run.path / "checkpoints/step-000120", "cats")  # no state: it cannot be resumed from
    assert [path.name for path in run.checkpoints] == ["step-000000", "step-000020", "step-000100"]
    assert run.files() == written[100] and run.files(20) == written[20] and run.files(120) == unfinished
    written[100][1].unlink()
    assert run.files() == written[20]
    for step in (0, 7):
        written[0][0].unlink(missing_ok=True)
        with pytest.raises(RunError, match=rf"no adapter files yet of step {step}\. Kept steps: 20"):
            run.files(step)
    assert run.files() == written[20]
    final = write_files(run.path, "cats")
    assert run.files() == final


def test_find_by_path_name_or_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RunError, match=r"There is no run 'dogs'\. Newest runs: none yet"):
        runs.find("dogs", tmp_path)
    old, new = (runs.create(Config(), "cats", tmp_path) for _ in range(2))
    assert runs.find("cats", tmp_path).path == new.path
    assert runs.find(old.name, tmp_path).path == old.path
    assert runs.find(str(old.path), tmp_path / "elsewhere").path == old.path
    monkeypatch.chdir(old.path.parent)
    assert runs.find(old.name, tmp_path / "elsewhere").path == old.path
    with pytest.raises(RunError) as caught:
        runs.find("dogs", tmp_path)
    assert old.name in str(caught.value) and new.name in str(caught.value)


def test_runs_live_in_the_home_folder(home: Path):
    run = runs.create(Config(), "cats")
    assert run.path.parent == home / "runs" and runs.find("cats").path == run.path
    (home / "runs" / "not-a-run").mkdir()
    assert [found.path for found in runs.all_runs()] == [run.path]


# requests


def test_requests_are_files_that_come_and_go(run: Run):
    for what in ("stop", "sample"):
        assert not run.requested(what)
        run.request(what)
        run.request(what)
        assert run.requested(what)
        run.clear(what)
        run.clear(what)
        assert not run.requested(what)


def test_a_run_that_is_not_running_cannot_be_stopped_or_asked_for_samples(run: Run):
    with pytest.raises(RunError, match=r"is not running \(it is new\)"):
        supervisor.stop(run)
    with pytest.raises(RunError, match="is not running"):
        requests.sample_now(run)
    tell(run, STARTED, events.Finished(60))
    with pytest.raises(RunError, match=r"is not running \(it is finished\)"):
        supervisor.stop(run, kill_after=1)
    with pytest.raises(RunError, match=r"is finished\. Start a new run"):
        supervisor.start(run)
    assert not run.requested("stop") and not run.requested("sample")


def test_samples_need_a_prompt(run: Run, sleeper: subprocess.Popen):
    run.write_process(sleeper.pid, 1)
    with pytest.raises(RunError, match=r"sample\.prompts is empty"):
        requests.sample_now(run)
    assert not run.requested("sample")


def test_stop_kills_a_process_that_does_not_listen(run: Run, sleeper: subprocess.Popen):
    run.write_process(sleeper.pid, 1)
    tell(run, STARTED, step(1))
    with pytest.raises(RunError, match="is running already"):
        supervisor.start(run)
    supervisor.stop(run, kill_after=0.2)
    assert run.requested("stop") and sleeper.wait(10) != 0
    assert run.status().state == "interrupted"


# writing


def test_a_text_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old é")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            write_text(path, "n" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text(encoding="utf-8") == "old é"
    write_text(path, "new")
    assert path.read_text() == "new" and [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_home_with_a_tilde_is_the_persons_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOWRANK_HOME", "~/studio")
    assert paths.home() == tmp_path.resolve() / "studio"


@pytest.mark.parametrize("steps", [(), (step(1),), (step(1, float("nan")),)])
def test_a_terminal_says_a_loss_only_where_there_is_one(
    run: Run, sleeper: subprocess.Popen, steps: tuple[events.Event, ...], capsys: pytest.CaptureFixture[str]
):
    """A text run is scored before its first step; then nothing has been lost yet."""
    run.write_process(sleeper.pid, 1)
    tell(run, events.Began(1), STARTED, events.Validated(0, 2.5), *steps)
    terminal.Screen(run).show(run.status())
    shown = capsys.readouterr().out
    assert ("loss" in shown) == bool(steps) and ("step 0/" not in shown)
    assert ("nan" in shown) == ("nan" in str(steps)), "which is told where it is so"


@pytest.mark.parametrize("title", ["state", "config", "events", "process", "checkpoints"])
def test_no_name_of_a_run_is_that_of_a_file_it_keeps(title: str, home: Path):
    run = runs.create(Config(), title)
    kept = {"state", "config", "events", "process", "launch", "checkpoints", "samples", "data", "log"}
    for task in runs.FORMS:
        names = {f"{run.title}{end}" for end in runs.FORMS[task]}
        assert len(names) == len(runs.FORMS[task]) and not {name.partition(".")[0] for name in names} & kept
