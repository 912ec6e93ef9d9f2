"""The app as a person starts it, for tests: ``python app.py`` in a home and on a port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lowrank_diffusion.paths import PROJECT

APP = [sys.executable, "app.py", "--no-browser"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return error.code == 401  # it asks for a login
    except (OSError, urllib.error.URLError):
        return False


def chromium() -> str | None:
    """Where the system's Chromium is; ``None`` lets Playwright take the one it installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def running_app(home: Path, *arguments: str) -> Iterator[str]:
    """Start the app and wait for its page; its address. Its output is kept in ``home/app.txt``."""
    url_port = free_port()
    url = f"http://127.0.0.1:{url_port}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "app.txt").open("wb") as log:
        process = subprocess.Popen(
            [*APP, "--port", str(url_port), *arguments],
            cwd=PROJECT,
            env=os.environ | {"LOWRANK_HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,  # as in a foreground shell
        )
    try:
        deadline = time.monotonic() + 90
        while not answers(f"{url}/config"):
            assert process.poll() is None, (home / "app.txt").read_text()
            assert time.monotonic() < deadline, "the app did not answer"
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)
