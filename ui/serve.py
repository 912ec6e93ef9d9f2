"""The app as a server: its options, who may use it, and the page given out until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import hmac
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from lowrank_diffusion import __version__, run_queue
from lowrank_diffusion.errors import UserError
from lowrank_diffusion.paths import expanded

from . import safe, watching
from .first_script import FirstScript
from .form import key_styles
from .guard import Guard, Names
from .studio import TITLE, Engines, build
from .theme import theme
from .toolkit import gr, static_text, uploads_folder

LARGEST_UPLOAD = "2gb"
PAGES_KEPT = 40
"""Pages whose state is remembered, each in most of a megabyte; the oldest are forgotten first."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUEUE_SECONDS = 3
HEALTH = Route("/health", lambda _: JSONResponse({"status": "ok", "version": __version__}))
"""For whatever watches over the app; it is answered without a login."""


class LaunchError(UserError):
    """The app cannot be served as asked; the message says what to type instead."""


def keep_queue(release: Callable[[], None]) -> None:
    """For as long as the app lives, start the runs whose turn has come; a run that ends by itself does so as well."""
    while True:
        try:
            for run in run_queue.advance():
                watching.forget(run)
                release()
        except Exception:  # a full disk, a folder that a person moved: the next look may do better
            traceback.print_exc()
        time.sleep(QUEUE_SECONDS)


def parser() -> argparse.ArgumentParser:
    """The options of ``python app.py``."""
    options = argparse.ArgumentParser(prog="app.py", description=f"Open {TITLE} in the browser.")
    options.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    options.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    options.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    options.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this login; others here can see it")
    options.add_argument("--auth-file", metavar="FILE", help="read USER:PASSWORD from a file (or set LOWRANK_AUTH)")
    options.add_argument(
        "--host-name", action="append", default=[], metavar="NAME",
        help="a further name the app is reached by, as behind a proxy (or LOWRANK_HOSTS, with commas); repeat for more",
    )  # fmt: skip
    options.add_argument("--root-path", metavar="/PATH", help="the path under which a proxy serves the app")
    options.add_argument("--open", action="store_true", help="allow another host than this machine without a login")
    return options


def login(options: argparse.Namespace) -> tuple[str, str] | None:
    """``user:password`` in two, from the one place it was given in. Raises LaunchError."""
    given = {"--auth": options.auth, "--auth-file": options.auth_file, "LOWRANK_AUTH": os.environ.get("LOWRANK_AUTH")}
    places = [place for place, value in given.items() if value is not None]
    if not places:
        return None
    if len(places) > 1:
        raise LaunchError(f"The login is given twice, by {' and by '.join(places)}. Keep one.")
    (place,) = places
    text = _first_line(given[place] or "") if place == "--auth-file" else given[place] or ""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise LaunchError(f"{place}: must be USER:PASSWORD, both of them not empty.")
    return user, password


def _first_line(name: str) -> str:
    try:
        with expanded(name).open(encoding="utf-8") as file:
            return file.readline(4096).rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise LaunchError(f"--auth-file: {name} cannot be read: {error}.") from None


def checker(auth: tuple[str, str]) -> Callable[[str, str], bool]:
    """Compares a login in the same time whatever is wrong with it."""
    known = [part.encode() for part in auth]

    def check(user: str, password: str) -> bool:
        given = [part.encode("utf-8", "replace") for part in (user, password)]
        return all([hmac.compare_digest(one, other) for one, other in zip(given, known, strict=True)])

    return check


def check_port(host: str, port: int) -> None:
    """See that the port is free. Raises LaunchError saying what to type."""
    if not 1 <= port <= 65535:
        raise LaunchError(f"--port: must be from 1 to 65535, got {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise LaunchError(f"--host: {host!r} is not an address of this machine. Take 127.0.0.1 or 0.0.0.0.") from None
    except OSError as error:
        raise LaunchError(
            f"Port {port} on {host} cannot be used: {error.strerror}. If the app runs already, open "
            f"http://{host}:{port}; else choose another port: python app.py --port {port % 65535 + 1}"
        ) from None


def serve(arguments: list[str] | None = None) -> int:
    """Serve the app until Ctrl-C; the exit code."""
    options = parser().parse_args(arguments)
    try:
        auth = login(options)
        if options.host not in LOOPBACK and auth is None and not options.open:
            raise LaunchError(
                f"--host {options.host} lets others on the network use this machine and see its pictures. "
                "Add --auth-file FILE or --auth USER:PASSWORD, or --open if that is meant."
            )
        check_port(options.host, options.port)
        safe.make_folders()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what systemd sends ends it as Ctrl-C does
    with contextlib.suppress(KeyboardInterrupt):
        _launch(options, auth)
        threading.Event().wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it is on its way out; make and a terminal send what they get once more
    gr.close_all(verbose=False)
    return 0


def _launch(options: argparse.Namespace, auth: tuple[str, str] | None) -> None:
    """Serve, in threads of the server's own."""
    engines = Engines()
    demo = build(engines)
    threading.Thread(target=keep_queue, args=(engines.release,), daemon=True).start()
    demo.queue(default_concurrency_limit=8)
    # Gradio's own, 1 and 100 ms, keep a tenth of a core busy, day and night.
    demo._queue.sleep_when_free, demo._queue.progress_update_sleep_when_free = 0.1, 1.0
    print(f"{TITLE} is at http://{options.host}:{options.port}  (Ctrl-C ends it; trainings go on)", flush=True)
    names = Names(options.host, [*options.host_name, *os.environ.get("LOWRANK_HOSTS", "").split(",")])
    guarding: dict[str, Any] = {"names": names, "uploads": uploads_folder(), "served": safe.served_folders()}
    middleware = [Middleware(Guard, **guarding), Middleware(FirstScript, script=static_text("first.js"))]
    demo.launch(
        server_name=options.host,
        server_port=options.port,
        inbrowser=not options.no_browser,
        auth=checker(auth) if auth else None,
        root_path=options.root_path,
        app_kwargs={"middleware": middleware, "routes": [HEALTH]},
        state_session_capacity=PAGES_KEPT,
        allowed_paths=safe.served_folders(),
        max_file_size=LARGEST_UPLOAD,
        theme=theme(),
        css=static_text("style.css") + key_styles(),
        js=static_text("page.js"),
        ssr_mode=False,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        run_history=False,
        footer_links=[],
    )
