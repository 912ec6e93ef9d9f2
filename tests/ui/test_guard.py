"""Who may speak to the app, and how much may be said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from ui import guard
from ui.guard import Guard, Names, Tries


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def login(request: Request) -> Response:
    return PlainTextResponse("", 200 if request.query_params.get("right") else 400)


async def file(request: Request) -> Response:
    return Response(b"<script>", media_type=request.query_params["kind"])


def app(tmp_path: Path, *extra: str, host: str = "127.0.0.1") -> TestClient:
    routes = [
        Route("/", hello, methods=["GET", "POST"]),
        Route("/gradio_api/upload", hello, methods=["POST"]),
        Route("/login", login, methods=["POST"]),
        Route("/gradio_api/file=x", file),
    ]
    return TestClient(Guard(Starlette(routes=routes), Names(host, extra), tmp_path), "http://127.0.0.1:7860")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7861", "LOCALHOST", "[::1]:7860", "localhost.:1"])
def test_this_machine_by_its_names_is_answered(tmp_path: Path, host: str) -> None:
    assert app(tmp_path).get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost@evil.example", "", "192.168.1.7:7860",
     "localhost:x", "[::1", "localhost/evil", "evil.localhost.example"],
)  # fmt: skip
def test_a_name_pointed_at_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    answer = app(tmp_path).get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "--host-name" in answer.text


def test_on_a_network_any_address_and_a_given_name_is_answered(tmp_path: Path) -> None:
    client = app(tmp_path, "studio.example", host="0.0.0.0")
    for host in ("192.168.1.7:7860", "studio.example", "[fe80::1]:7860"):
        assert client.get("/", headers={"Host": host}).status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("path", ["/", "/gradio_api/upload"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_a_page_of_another_site_sends_nothing(tmp_path: Path, path: str, headers: dict[str, str]) -> None:
    assert app(tmp_path).post(path, headers=headers, content=b"x").status_code == 403


def test_a_link_and_our_own_page_are_answered(tmp_path: Path) -> None:
    client = app(tmp_path, "studio.example")
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    for origin in ("http://127.0.0.1:7860", "https://studio.example"):
        assert client.post("/", headers={"Origin": origin}).status_code == 200


def test_what_is_too_large_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LARGEST_BODY", 10)
    monkeypatch.setattr(guard, "LARGEST_UPLOADS", 20)
    client = app(tmp_path)
    assert client.post("/", content=b"x" * 10).status_code == 200
    assert "11 bytes" in client.post("/", content=b"x" * 11).text
    assert client.post("/gradio_api/upload", content=b"x" * 20).status_code == 200
    assert client.post("/gradio_api/upload", content=b"x" * 21).status_code == 413
    assert client.post("/", content=iter([b"x"])).status_code == 411
    monkeypatch.setattr(guard, "SPARE", 10**18)
    assert "no room" in client.post("/gradio_api/upload", content=b"x").text


def test_wrong_passwords_slow_down(tmp_path: Path) -> None:
    client = app(tmp_path)
    assert [client.post("/login").status_code for _ in range(6)] == [400] * 5 + [429]
    assert int(client.post("/login?right=1").headers["Retry-After"]) >= 1


def test_tries_are_bounded_in_time_and_memory_and_a_right_one_forgets() -> None:
    tries = Tries()
    for _ in range(90):
        tries.note("a", False, 0.0)
    assert tries.wait("a", 0.0) <= Tries.LONGEST + 1
    assert tries.wait("b", 0.0) == 0
    tries.note("a", True, 1.0)
    assert tries.wait("a", 1.0) == 0
    for number in range(5000):
        tries.note(str(number), False, 2.0)
    assert len(tries.failed) <= Tries.CLIENTS
    assert tries.wait("new", 2.0) > 0
    assert tries.wait("new", 2.0 + Tries.WINDOW) == 0


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/xhtml+xml", "application/javascript"])
def test_a_file_of_a_run_runs_no_script(tmp_path: Path, kind: str) -> None:
    headers = app(tmp_path).get(f"/gradio_api/file=x?kind={kind}").headers
    assert headers["content-disposition"] == "attachment"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_picture_of_a_run_is_shown(tmp_path: Path) -> None:
    assert "content-disposition" not in app(tmp_path).get("/gradio_api/file=x?kind=image/png").headers


@pytest.mark.parametrize("message", ["http.disconnect", "http.request"])
def test_only_a_page_that_is_gone_lets_the_app_stumble(tmp_path: Path, message: str) -> None:
    async def stumbling(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise KeyError("session")

    async def receive() -> dict[str, str]:
        return {"type": message}

    async def send(_: Any) -> None:
        raise AssertionError("nothing is answered")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    answering = Guard(stumbling, Names("127.0.0.1"), tmp_path)(scope, receive, send)
    with pytest.raises(StopIteration if message == "http.disconnect" else KeyError):
        answering.send(None)  # nothing in it waits
