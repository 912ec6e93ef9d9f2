"""A script before all others of the page: what Gradio takes as ``head`` comes after its own have run."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MARK = b"<head>"
PAGE = b"window.gradio_config"


class FirstScript:
    """Middleware that puts ``script`` at the beginning of the head of Gradio's page, and touches nothing else."""

    def __init__(self, app: ASGIApp, script: str):
        self.app, self.script = app, f"<script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        page = scope["type"] == "http" and scope["method"] == "GET"
        await self.app(scope, receive, self._sender(send) if page else send)

    def _sender(self, send: Send) -> Send:
        start: Message | None = None
        body = b""

        async def sent(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_page(message):
                start = message  # its length is not known yet
            elif start is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    body = self._with_script(body)
                    await send({**start, "headers": _of_length(start["headers"], len(body))})
                    await send({"type": "http.response.body", "body": body})

        return sent

    def _with_script(self, body: bytes) -> bytes:
        return body.replace(MARK, MARK + self.script, 1) if PAGE in body else body


def _is_page(start: Message) -> bool:
    headers = dict(start["headers"])
    return headers.get(b"content-type", b"").startswith(b"text/html") and b"content-encoding" not in headers


def _of_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name != b"content-length"] + [
        (b"content-length", str(length).encode())
    ]
