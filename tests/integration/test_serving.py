"""The app as others run it: installed from a wheel, asked by a program, watched over, ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lowrank_diffusion.paths import PROJECT
from tests.app_process import answers, free_port, running_app

pytestmark = pytest.mark.slow


def health(url: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        return json.load(answer)


def test_the_example_of_the_documentation_works(home: Path):
    text = (PROJECT / "docs" / "api.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with running_app(home) as url:
        assert health(url)["status"] == "ok"
        code = code.replace("http://127.0.0.1:7860", url)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first.startswith("finished 4 of 4") and second.startswith("done")
        addresses = re.findall(r"gradio_api/file=[^']+", done.stdout)
        assert len(addresses) == 2 + 2, done.stdout  # the adapter for two kinds of programs, two pictures
        for address in addresses:
            with urllib.request.urlopen(f"{url}/{address}", timeout=10) as answer:
                assert answer.status == 200 and answer.read(4)


@pytest.mark.parametrize(
    ("name", "values", "rule"),
    [
        ("/start_run", ["nope", "x", {}], "There is no preset 'nope'"),
        ("/start_run", ["../presets/smoke", "x", {}], "There is no preset"),
        ("/start_run", ["smoke", "x", {"train.steps": 0}], "train.steps"),
        ("/run_status", ["../../etc"], "There is no run"),
        ("/ask_run", ["x", "explode"], "There is no 'explode' to ask for"),
        ("/start_drawing", ["a cat", ["/etc/passwd"], {}], "is a path"),
        ("/start_drawing", ["a cat", [], {"steps": 0}], "steps"),
        ("/start_drawing", ["a cat", [], {"mask": "/etc/passwd"}], "There is no 'mask' to set"),
        ("/drawing_status", ["../x"], "There is no job"),
    ],
)
def test_what_cannot_be_done_is_said(shared_app: str, name: str, values: list, rule: str):
    from gradio_client import Client

    app = Client(shared_app, verbose=False)
    with pytest.raises(Exception, match=rule):
        app.predict(*values, api_name=name)


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory):
    with running_app(tmp_path_factory.mktemp("home")) as url:
        yield url


def test_an_installed_wheel_opens_the_app_and_trains(tmp_path: Path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "runs", "cache", "*.egg-info", "tests", "benchmarks")
    shutil.copytree(PROJECT, source, ignore=ignored, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run(build, check=True, timeout=300)
    shutil.rmtree(source)
    (wheel,) = tmp_path.glob("*.whl")
    clean = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clean)], check=True, timeout=120)
    (library,) = clean.glob("lib/python*/site-packages")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-compile", "--target", str(library), str(wheel)], check=True, timeout=300
    )
    (library / "dependencies.pth").write_text(
        "\n".join(site.getsitepackages()), encoding="utf-8"
    )  # of this environment
    assert not (library / "ui").exists() and not (library / "trainers").exists()
    python, port = str(clean / "bin" / "python"), free_port()
    home = tmp_path / "home"
    environment = {**os.environ, "LOWRANK_HOME": str(home), "PYTHONPATH": ""}
    begin = "import sys; from lowrank_diffusion.{} import main; sys.exit(main())"
    app = subprocess.Popen(
        [python, "-c", begin.format("studio_command"), "--no-browser", "--port", str(port)],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while not answers(f"{url}/config"):
            assert app.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        assert health(url)["status"] == "ok"
        train = [python, "-c", begin.format("cli"), "train", "smoke", "train.steps=2", "sample.prompts="]
        done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(home.glob("runs/*/smoke-diffusers.safetensors"))
    finally:
        app.send_signal(signal.SIGTERM)
        output, _ = app.communicate(timeout=30)
    assert app.returncode == 0, output
