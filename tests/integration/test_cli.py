"""The command line as a person meets it: real processes, their exit codes, and what they print."""

from __future__ import annotations

import os
import pickle
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from safetensors import safe_open
from safetensors.torch import load_file

from lowrank_diffusion import runs
from lowrank_diffusion.config import fields
from lowrank_diffusion.paths import PRESETS, PROJECT
from lowrank_diffusion.runs import Run

from .conftest import command, wait, wait_for_step

SMALL = ("data.instance=assets/examples/subject-cat", "data.resolution=64", "train.batch=1", "adapter.rank=4")
PROMPT = "an emoji of a fox, 3d icon"

no_gpu = pytest.mark.skipif(
    Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists(), reason="needs a machine without"
)


def lines_of(done: subprocess.CompletedProcess[str], code: int) -> list[str]:
    """The lines that a command printed on stdout, or on stderr if it failed; never a traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return (done.stderr if code else done.stdout).splitlines()


def _as_in_a_terminal() -> None:
    """A background shell ignores Ctrl-C, and nohup a closed terminal; what they start would do so too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def begin(*arguments: str, **options: object) -> subprocess.Popen:
    """Start a command in a session of its own, as a terminal would."""
    return subprocess.Popen(
        [sys.executable, "-m", "lowrank_diffusion", *arguments],
        cwd=PROJECT, start_new_session=True,
        preexec_fn=_as_in_a_terminal,
        **options,  # type: ignore[call-overload]
    )  # fmt: skip


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def names() -> set[str]:
    return {run.name for run in runs.all_runs()}


@pytest.fixture(scope="module")
def trained(shared_cache: Path) -> tuple[Run, subprocess.CompletedProcess[str]]:
    """A run of three steps, from `train` to the end, and what that printed."""
    done = command(
        "train", "presets/smoke.yaml", "--name", "cli", *SMALL, "train.steps=3", "optimizer.lr=1e-2",
        f"sample.prompts=[{PROMPT!r}]", "sample.steps=2", LOWRANK_HOME=str(shared_cache),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return runs.find("cli", shared_cache / "runs"), done


def test_train_tells_its_progress_in_plain_lines_and_lists_the_files(trained: tuple):
    run, done = trained
    lines = lines_of(done, 0)
    assert lines[0] == f"run {run.path}"
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())
    assert not re.search(r"[\r\x1b]", done.stdout)
    assert any(
        line.startswith(("Reading captions", "Encoding pictures", "Loading the UNet", "Starting")) for line in lines
    )
    assert "steps run eager: the device is cpu, and only CUDA captures steps" in lines
    assert f"sample after step 3: {run.path}/samples/step-000003-0.png ({PROMPT})" in lines
    assert [line.strip() for line in lines[-3:]] == [str(path) for path in run.files()]
    assert lines[-4] == f"{run.name}: finished after step 3."
    config = run.config()
    assert (config.adapter.rank, config.train.steps, config.optimizer.lr) == (4, 3, 0.01)
    assert config.data.instance == str(PROJECT / "assets/examples/subject-cat")
    assert config.save.every == 6  # the preset's
    assert all(path.exists() for path in run.files()) and (run.path / "samples/step-000000-0.png").is_file()


def test_wrong_settings_are_all_named_at_once_and_leave_nothing_behind():
    before = names()
    done = command(
        "train", "smoke", "adapter.rnak=8", "train.steps=0", "--name", "bad", "adapter.k=3", "x", "optimizer.lr=a"
    )
    assert [line.partition(":")[0] for line in lines_of(done, 1)] == ["x"]
    done = command(
        "train", "smoke", "adapter.rnak=8", "train.steps=0", "--name", "bad", "adapter.k=3", "optimizer.lr=a"
    )
    assert [line.partition(":")[0] for line in lines_of(done, 1)] == [
        "adapter.rnak", "adapter.k", "optimizer.lr", "train.steps",
    ]  # fmt: skip
    assert "Did you mean adapter.rank?" in done.stderr and "Allowed: [1, 2, 4]" in done.stderr
    assert names() == before and done.stdout == ""
    assert "There is no run 'nope'" in lines_of(command("watch", "nope"), 1)[0]
    assert "no file or preset 'nope'" in lines_of(command("train", "nope"), 1)[0]


class Exploit:
    """What a stranger's checkpoint may do when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@no_gpu
def test_what_cannot_be_trained_on_is_told_before_there_is_a_run(tmp_path: Path):
    """No pictures, a checkpoint that is a pickle, and no GPU: one message each, from one command."""
    before, trap = names(), tmp_path / "was here"
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.ckpt").write_bytes(pickle.dumps({"state_dict": Exploit(trap)}))
    given = (f"data.instance={tmp_path}/empty", f"base.path={tmp_path}/model.ckpt", "train.device=cuda")
    device, base, data = lines_of(command("train", "smoke", *given), 1)
    assert device.startswith("train.device: asks for cuda, but no GPU driver") and "Set train.device=auto" in device
    assert base.startswith("base.path: ") and f"{tmp_path}/model.ckpt is a pickle checkpoint" in base
    assert data.startswith(f"data.instance: {tmp_path}/empty: ")
    assert lines_of(command("train", "smoke", "data.instance="), 1) == [
        "data.instance: is empty. Give the folder with your pictures."
    ]
    assert names() == before and not trap.exists()


def test_what_only_training_finds_out_is_told_too(home: Path):
    done = command("train", "smoke", *SMALL, "train.execution=captured", "--name", "none-left")
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    run = runs.find("none-left")
    assert run.status().state == "failed"
    assert f"{run.name}: failed after step 0. train.execution: captured cannot be had" in done.stdout
    assert f"Resume with: python -m lowrank_diffusion resume {run.name}" in done.stdout


def test_ctrl_c_saves_and_a_closed_terminal_changes_nothing(tmp_path: Path):
    """Ctrl-C, `resume` on a terminal that is then closed, and `watch` from another one to the end."""
    with (tmp_path / "output").open("w") as output:
        cli = begin(
            "train",
            "smoke",
            *SMALL,
            "train.steps=40",
            "save.every=100",
            "sample.prompts=[]",
            "--name",
            "long",
            stdout=output,
        )
    until(lambda: any(run.title == "long" for run in runs.all_runs()))
    run = runs.find("long")
    wait_for_step(run, 3)
    os.kill(cli.pid, signal.SIGINT)
    assert cli.wait(120) == 130
    stopped = run.status()
    printed = (tmp_path / "output").read_text()
    assert stopped.state == "stopped" and 3 <= stopped.step < 40
    assert f"{run.name}: stopped after step {stopped.step}." in printed and "Traceback" not in printed
    assert f"Resume with: python -m lowrank_diffusion resume {run.name}" in printed
    assert run.checkpoints[-1].name == f"step-{stopped.step:06d}" and all(path.exists() for path in run.files())

    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (30, 100))
    cli = begin("resume", "long", stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    shown: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(screen, shown), daemon=True)
    reader.start()
    wait_for_step(run, stopped.step + 3)
    bar = re.compile(rb"\rlong: +\d+%\|.*\| \d+/40 \[.*loss=0\.\d+")
    until(lambda: bar.search(b"".join(shown)) is not None)
    process = run.process()
    os.killpg(cli.pid, signal.SIGHUP)
    assert cli.wait(30) == -signal.SIGHUP
    reader.join(10)
    os.close(screen)
    assert process is not None and process.is_running() and run.status().state == "training"

    lines = lines_of(command("watch", "long"), 0)
    assert f"{run.name}: finished after step 40." in lines
    assert [step for step, _ in wait(run).losses] == list(range(1, 41))


def _drain(descriptor: int, into: list[bytes]) -> None:
    """Read what is shown until the other end is closed."""
    try:
        while data := os.read(descriptor, 4096):
            into.append(data)
    except OSError:
        pass


def test_a_run_can_be_made_for_another_launcher_to_start(home: Path):
    done = command("train", "smoke", "--prepare", "train.gpus=2", LOWRANK_HOME=str(home))
    made, hint = done.stdout.splitlines()
    run = Run(Path(made.removeprefix("run ")))
    assert done.returncode == 0 and run.status().state == "new" and run.config().train.gpus == 2
    wanted = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    assert shlex.split(hint.partition(" with: ")[2]) == [*wanted, "-m", "trainers", str(run.path)]


@pytest.mark.parametrize(
    "words", ["--machines 2", "--address here", "--prepare --machines 3 --address here", "--prepare --machines 0"]
)
def test_machines_that_cannot_be_are_refused_and_no_run_is_left(home: Path, words: str):
    before = sorted((home / "runs").glob("*-refused"))
    done = command("train", "smoke", "--name", "refused", *words.split(), "train.gpus=2", LOWRANK_HOME=str(home))
    assert done.returncode == 1 and "--machines" in done.stderr
    assert sorted((home / "runs").glob("*-refused")) == before == []


def test_a_run_that_ended_can_be_listed_and_watched_but_not_stopped(trained: tuple):
    run, _ = trained
    (line,) = [line for line in lines_of(command("list"), 0) if line.startswith(run.name)]
    assert re.search(r" finished +step 3/3 loss 0\.\d{4}$", line)
    assert lines_of(command("watch", "cli"), 0)[-4] == f"{run.name}: finished after step 3."
    assert lines_of(command("stop", "cli"), 1) == [f"{run.name} is not running (it is finished)."]
    assert lines_of(command("sample", run.name), 1) == [f"{run.name} is not running (it is finished)."]
    assert lines_of(command("resume", str(run.path)), 1) == [
        f"{run.name} is finished. Start a new run to train on."
    ]  # fmt: skip
    assert run.status().state == "finished" and not run.requested("stop")


def test_presets_and_settings():
    listed = lines_of(command("presets"), 0)
    assert [line.split()[0] for line in listed] == sorted(path.stem for path in PRESETS.glob("*.yaml"))
    assert command("presets", "smoke").stdout == (PRESETS / "smoke.yaml").read_text(encoding="utf-8")
    settings = lines_of(command("settings"), 0)
    assert [line.split()[0] for line in settings] == list(fields())
    assert any(re.fullmatch(r"optimizer\.lr +0\.0001 +Peak learning rate\.", line) for line in settings)


def test_export(trained: tuple, tmp_path: Path):
    run, _ = trained
    assert lines_of(command("export", "cli", "--out", str(tmp_path / "whole")), 0) == [
        str(tmp_path / "whole" / path.name) for path in run.files()
    ]
    for path in run.files():
        copy = tmp_path / "whole" / path.name
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        assert all((copy / p.name if path.is_dir() else copy).read_bytes() == p.read_bytes() for p in inside)
    small = lines_of(command("export", "cli", "--rank", "2", "--out", str(tmp_path / "small"), "--step", "3"), 0)
    names = ("cli-r2-diffusers.safetensors", "cli-r2-comfyui-forge.safetensors")
    assert small == [str(tmp_path / "small" / name) for name in names]
    original, diffusers, kohya = load_file(run.files()[0]), load_file(small[0]), load_file(small[1])
    assert diffusers.keys() == original.keys() and len(original) > 20
    for key, tensor in diffusers.items():
        assert tensor.shape[0 if "lora_A" in key else 1] == 2 < original[key].shape[0 if "lora_A" in key else 1]
    assert {float(tensor) for key, tensor in kohya.items() if key.endswith(".alpha")} == {2.0}
    with safe_open(small[1], framework="pt") as file:
        assert file.metadata()["ss_network_dim"] == "2" and file.metadata()["lowrank_diffusion.step"] == "3"
    assert "of step 7. Kept steps: 3." in lines_of(command("export", "cli", "--out", "x", "--step", "7"), 1)[0]
    assert lines_of(command("export", "cli", "--out", small[0]), 1) == [
        f"{small[0]}: File exists. Take away what is there, or give another place."
    ]
    assert not (PROJECT / "x").exists()


def test_generate_with_a_run_beside_the_base(trained: tuple, tmp_path: Path):
    done = command(
        "generate", PROMPT, "--adapter", "cli@4", "--compare", "--seed", "7", "--count", "2", "--steps", "3",
        "--width", "64", "--height", "72", "--out", str(tmp_path / "new" / "folder"),
    )  # fmt: skip
    paths = [Path(line) for line in lines_of(done, 0)]
    assert not [line for line in done.stderr.splitlines() if not line.startswith("Drawn without CUDA graphs")]
    assert [re.sub(r"^\d{8}-\d{6}-", "", path.name) for path in paths] == [
        "seed7-base.png", "seed7-adapted.png", "seed8-base.png", "seed8-adapted.png",
    ]  # fmt: skip
    pictures = [Image.open(path) for path in paths]
    assert all(picture.size == (64, 72) and picture.mode == "RGB" for picture in pictures)
    for one, other in ((0, 1), (2, 3), (0, 2), (1, 3)):
        assert ImageChops.difference(pictures[one], pictures[other]).getbbox() is not None


def test_what_cannot_be_drawn_is_told_at_once(trained: tuple, tmp_path: Path):
    done = command("generate", "x", "--width", "100", "--height", "8", "--steps", "0", "--count", "65", "--seed", "-1")
    assert lines_of(done, 1) == [
        "--count: must be a whole number from 1 to 64, got 65.",
        "--steps: must be a whole number from 1 to 200, got 0.",
        "--seed: must be a whole number from 0 to 4294967295, got -1.",
        "--width: must be a multiple of 8, got 100. Take 96.",
        "--height: must be a whole number from 64 to 4096, got 8.",
    ]
    assert "There is no run 'nope'" in lines_of(command("generate", "x", "--adapter", "nope@2"), 1)[0]
    assert "must be a number, got 'much'" in lines_of(command("generate", "x", "--adapter", "cli@much"), 1)[0]
    assert "unrecognized arguments: y=1" in lines_of(command("generate", "x", "y=1"), 2)[-1]
