"""The script before all others gets into Gradio's page, and into nothing else."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from ui.first_script import FirstScript

PAGE = b"<html><head><script>window.gradio_config = {};</script></head></html>"


def answered(
    parts: list[bytes], kind: bytes, method: str = "GET", **headers: bytes
) -> tuple[dict[bytes, bytes], bytes]:
    """(headers, body) as they leave the middleware."""
    sent: list[Any] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        named = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        length = str(sum(map(len, parts))).encode()
        await send({
            "type": "http.response.start", "status": 200,
            "headers": [(b"content-type", kind), (b"content-length", length), *named],
        })  # fmt: skip
        for number, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asked = FirstScript(app, "one()")({"type": "http", "method": method, "path": "/"}, receive, send)
    with ThreadPoolExecutor(1) as thread:  # browser tests of the same process have a loop of their own
        thread.submit(asyncio.run, asked).result()  # type: ignore[arg-type]
    return dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("parts", [[PAGE], [PAGE[:20], PAGE[20:40], PAGE[40:]]])
def test_the_page_gets_it_first_and_says_how_long_it_is(parts: list[bytes]):
    headers, body = answered(parts, b"text/html; charset=utf-8")
    assert body == PAGE.replace(b"<head>", b"<head><script>one()</script>")
    assert headers[b"content-length"] == str(len(body)).encode()


@pytest.mark.parametrize(
    ("parts", "kind", "headers"),
    [
        ([b"<head> of another page"], b"text/html", {}),
        ([PAGE], b"text/plain", {}),
        ([PAGE[:20], PAGE[20:]], b"application/json", {}),
        ([PAGE], b"text/html", {"content_encoding": b"br"}),
    ],
)
def test_all_else_is_passed_on_as_it_is(parts: list[bytes], kind: bytes, headers: dict[str, bytes]):
    got, body = answered(parts, kind, **headers)
    assert body == b"".join(parts) and got[b"content-length"] == str(len(body)).encode()


def test_what_is_not_asked_for_by_get_is_passed_on():
    assert answered([PAGE], b"text/html", "POST")[1] == PAGE
