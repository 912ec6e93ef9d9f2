"""The server as it is really started: what it gives out, what it refuses, and what it does not load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from gradio.state_holder import StateHolder

from lowrank_diffusion.paths import EMBEDDED_BASE, PROJECT
from tests.app_process import APP, running_app
from ui import serve, studio
from ui.toolkit import gr


def fetch(url: str, body: Any = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a running app, and its home."""
    home = tmp_path_factory.mktemp("server")
    with running_app(home) as url:
        yield url, home


def call(url: str, component: str, data: list[Any]) -> str:
    """Send ``data`` to the upload event of a component, as a hostile client may; all that comes back."""
    config = json.loads(fetch(f"{url}/config")[1])
    number = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == component)
    event = next(item for item in config["dependencies"] if [number, "upload"] in [list(t) for t in item["targets"]])
    ordered = [data[0] if part == number else [] for part in event["inputs"]]
    body = {"data": ordered, "fn_index": event["id"], "session_hash": "test-session"}
    return fetch(f"{url}/gradio_api/run/predict", body)[1].decode()


def test_only_what_answers_bit_by_bit_is_queued(server: tuple[str, Path]) -> None:
    """An answer over the queue can be lost: its stream is closed in the moment in which the next question is asked."""
    events = [event for event in json.loads(fetch(f"{server[0]}/config")[1])["dependencies"] if event["backend_fn"]]
    assert len(events) > 40
    assert [event["queue"] for event in events] == [event["types"]["generator"] for event in events]
    assert 2 <= sum(event["queue"] for event in events) < 10  # Draw, Send of the chat, rows that are encoded


def test_the_page_answers_and_names_the_app(server: tuple[str, Path]) -> None:
    status, text = fetch(server[0])
    assert status == 200
    assert studio.TITLE.encode() in text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(PROJECT / "app.py"), str(EMBEDDED_BASE / "model_index.json"), "../../etc/passwd"]
)
def test_files_outside_the_served_folders_are_refused(server: tuple[str, Path], path: str) -> None:
    status, text = fetch(f"{server[0]}/gradio_api/file={path}")
    assert status in (403, 404)
    assert b"root:" not in text


def test_a_run_picture_is_served_and_the_home_beside_it_is_not(server: tuple[str, Path]) -> None:
    url, home = server
    inside, outside = home / "runs" / "x.png", home / "y.png"
    for path in (inside, outside):
        path.write_bytes(b"\x89PNG picture")
    assert fetch(f"{url}/gradio_api/file={inside}") == (200, b"\x89PNG picture")
    assert fetch(f"{url}/gradio_api/file={outside}")[0] == 403


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_link_in_a_run_leads_nowhere(server: tuple[str, Path], folder: bool) -> None:
    url, home = server
    (home / "secret.txt").write_text("root: a secret")
    link = home / "runs" / f"link{folder}"
    link.symlink_to(home if folder else home / "secret.txt")
    status, text = fetch(f"{url}/gradio_api/file={link / 'secret.txt' if folder else link}")
    assert status == 403 and b"root:" not in text


@pytest.mark.parametrize("component", ["drop", "adapter-file", "text-drop"])
def test_a_forged_upload_does_not_reach_a_handler(server: tuple[str, Path], component: str) -> None:
    forged = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "orig_name": "cat.png"}
    answer = call(server[0], component, [[forged] if component == "drop" else forged])
    assert json.loads(answer)["error"].startswith("Cannot move /etc/passwd")
    assert "root:" not in answer
    assert not list((server[1] / "cache").rglob("passwd"))


def test_a_port_in_use_is_said_with_what_to_type(server: tuple[str, Path], tmp_path: Path) -> None:
    port = server[0].rpartition(":")[2]
    environment = os.environ | {"LOWRANK_HOME": str(tmp_path)}
    result = subprocess.run(
        [*APP, "--port", port], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert f"Port {port}" in result.stderr
    assert f"--port {int(port) + 1}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--auth USER:PASSWORD"),
        (["--host", "no.such.host.invalid", "--open"], "not an address"),
        (["--port", "70000"], "65535"),
        (["--auth", "somebody"], "USER:PASSWORD"),
        (["--auth", ":secret"], "USER:PASSWORD"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.serve(arguments) == 1
    assert words in capsys.readouterr().err


def test_a_login_is_read_from_a_file_in_the_persons_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "auth").write_text("ann:secret\n")
    assert serve.login(serve.parser().parse_args(["--auth-file=~/auth"])) == ("ann", "secret")
    with pytest.raises(serve.LaunchError, match="cannot be read"):
        serve.login(serve.parser().parse_args(["--auth-file", "~nobody-of-this-name/auth"]))


def test_of_very_many_pages_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes most of a megabyte. The app as it is served, all but the serving."""
    served: dict[str, Any] = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda demo, **options: served.update(options, demo=demo))
    serve._launch(serve.parser().parse_args(["--no-browser", "--port", "7999"]), None)
    demo, pages = served["demo"], StateHolder()
    demo.state_session_capacity = served["state_session_capacity"]
    pages.set_blocks(demo)
    for number in range(serve.PAGES_KEPT + 20):
        assert pages[f"page{number}"].blocks_config is not demo.default_config
    assert len(pages.session_data) == serve.PAGES_KEPT <= 100
    assert "page0" not in pages and f"page{serve.PAGES_KEPT + 19}" in pages


def test_with_a_login_nothing_is_given_out_without_it(tmp_path: Path) -> None:
    with running_app(tmp_path, "--auth", "ann:secret") as url:
        picture = tmp_path / "runs" / "x.png"
        picture.write_bytes(b"\x89PNG picture")
        for path in ("config", f"gradio_api/file={picture}"):
            assert fetch(f"{url}/{path}")[0] == 401


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_control_c_ends_the_app_quietly(tmp_path: Path, sent: signal.Signals) -> None:
    with running_app(tmp_path) as url:
        port = url.rpartition(":")[2]
        (process,) = [
            process for process in psutil.process_iter(["cmdline"])
            if "app.py" in (process.info["cmdline"] or []) and port in process.info["cmdline"]
        ]  # fmt: skip
        process.send_signal(sent)
        process.wait(timeout=30)
    assert len((tmp_path / "app.txt").read_text().splitlines()) == 1


def test_importing_and_building_the_app_loads_no_heavy_library() -> None:
    code = (
        "import sys\nfrom ui import studio\nstudio.build()\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_gradio_leaves_no_stub_files_beside_the_app() -> None:
    assert list((PROJECT / "ui").rglob("*.pyi")) == []
