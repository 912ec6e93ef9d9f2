"""Who may speak to the app: one small layer in front of every route.

A browser runs pages of strangers beside ours. Two rules keep them out: the address in ``Host`` must be a name of this
app (a stranger's name that was pointed at this machine is not one), and a request that comes from a page must come from
one of ours.
"""

from __future__ import annotations

import ipaddress
import shutil
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 32 * 2**20
LARGEST_UPLOADS = 8 * 2**30
SPARE = 2**30
"""Bytes that uploads leave free on the disk."""
INLINE = ("image/png", "image/jpeg", "image/webp", "image/gif", "text/plain")
"""What a browser may show from a run's folder by itself; all else is a download."""
FILE_RULES = b"sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"


class Refusal(Exception):
    """A request is not answered; ``status`` and words say why."""

    def __init__(self, status: int, words: str, wait: int = 0):
        self.status, self.words, self.wait = status, words, wait
        super().__init__(words)


class Names:
    """The names this app may be called by."""

    def __init__(self, host: str, extra: Iterable[str] = ()):
        self.extra = {name.strip().lower().strip("[]") for name in extra if name.strip()}
        self.lan = host not in ("127.0.0.1", "localhost", "::1")
        own = {socket.gethostname().lower(), socket.getfqdn().lower()} if self.lan else set()
        own |= {f"{name}.local" for name in own}
        self.known = {"localhost", host.lower(), *own, *self.extra}

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header is one of them; an address cannot be pointed elsewhere, so on a network all are."""
        name = hostname(host)
        try:
            return ipaddress.ip_address(name).is_loopback or self.lan or name in self.known
        except ValueError:
            return bool(name) and name in self.known


def hostname(host: str) -> str:
    """Without the port, small; nothing where there is no such host."""
    try:
        split = urlsplit(f"//{host}")
        plain = not (split.username or split.password or split.path or split.query or split.fragment)
        return (split.hostname or "").rstrip(".") if plain and split.port != 0 else ""
    except ValueError:
        return ""


class Tries:
    """Wrong passwords: after a few, a client waits twice as long each time; all together have a limit too."""

    FREE, LONGEST, CLIENTS, ALL, WINDOW = 5, 300, 1000, 100, 60

    def __init__(self) -> None:
        self.failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.recent: deque[float] = deque(maxlen=self.ALL)

    def wait(self, client: str, now: float) -> int:
        """Seconds this client has to wait before it may try again."""
        count, last = self.failed.get(client, (0, 0.0))
        pause = min(2.0 ** (count - self.FREE + 1), self.LONGEST) if count >= self.FREE else 0.0
        left = last + pause - now
        if len(self.recent) == self.ALL:
            left = max(left, self.recent[0] + self.WINDOW - now)
        return max(0, int(left) + 1) if left > 0 else 0

    def note(self, client: str, right: bool, now: float) -> None:
        """A login was tried."""
        count, _ = self.failed.pop(client, (0, 0.0))
        if right:
            return
        self.failed[client] = min(count + 1, 64), now
        self.recent.append(now)
        while len(self.failed) > self.CLIENTS:
            self.failed.popitem(last=False)


class Guard:
    """The ASGI layer."""

    def __init__(self, app: ASGIApp, names: Names, uploads: Path, served: Iterable[str] = ()):
        self.app, self.names, self.uploads, self.tries = app, names, uploads, Tries()
        self.served = [Path(folder) for folder in served]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse in words."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        try:
            self._check_sender(scope, headers)
            self._check_size(scope, dict(headers))
            self._check_file(str(scope["path"]))
            await self._answer(scope, receive, self._sender(scope, send))
        except Refusal as refusal:
            extra = {"Retry-After": str(refusal.wait)} if refusal.wait else {}
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse(refusal.words, refusal.status, extra)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer.

        When a page is closed or reloaded while it listens to the queue, Gradio forgets its session and stumbles over
        that in the page's other streams. Nobody hears the end of these, and the log is for faults.
        """
        listening = str(scope["path"]).endswith("/queue/data")
        gone = False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] in ("http.disconnect", "websocket.disconnect")
            return message

        begun = ended = False

        async def sent(message: Message) -> None:
            nonlocal begun, ended
            begun, ended = True, message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, heard, sent)
        except (KeyError, RuntimeError):
            if not (gone or listening):
                raise
            if begun and not ended:
                await send({"type": "http.response.body", "body": b""})

    def _check_sender(self, scope: Scope, headers: list[tuple[str, str]]) -> None:
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or not self.names.knows(hosts[0]):
            words = "This app is not known by that name. Start it with --host-name NAME to serve it under another one."
            raise Refusal(421, words)
        given = dict(headers)
        origins = [value for name, value in headers if name == "origin"]
        if any(not self._ours(origin, hosts[0]) for origin in origins):
            raise Refusal(403, "Another page may not use this app.")
        opened = given.get("sec-fetch-mode") == "navigate" and given.get("sec-fetch-dest", "document") == "document"
        foreign = given.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign and not (opened and scope.get("method") in ("GET", "HEAD")) and not origins:
            raise Refusal(403, "Another page may not use this app.")

    def _ours(self, origin: str, host: str) -> bool:
        """A page of the same host and port, or of a name that was given for a proxy."""
        try:
            split = urlsplit(origin)
            return split.scheme in ("http", "https") and (
                split.netloc.lower() == host.lower() or hostname(split.netloc) in self.names.extra
            )
        except ValueError:
            return False

    def _check_size(self, scope: Scope, headers: dict[str, str]) -> None:
        if scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH"):
            if "transfer-encoding" in headers or not headers.get("content-length", "0").isdecimal():
                raise Refusal(411, "The request must say its length.")
            size = int(headers.get("content-length", "0")[:20])
            path = scope["path"].rstrip("/")
            upload = path.endswith("/gradio_api/upload")
            limit = LARGEST_UPLOADS if upload else LARGEST_BODY
            if size > limit:
                raise Refusal(413, f"{size:,} bytes are more than the {limit:,} taken at once. Send less at a time.")
            if upload and size > max(0, free(self.uploads) - SPARE):
                raise Refusal(413, f"The disk has no room for {size:,} bytes more. Free some space.")
            if path.endswith("/login") and (wait := self.tries.wait(client(scope), time.monotonic())):
                raise Refusal(429, f"Too many wrong passwords. Try again in {wait} seconds.", wait)

    def _check_file(self, path: str) -> None:
        """A stranger's run folder may hold links; Gradio follows them, wherever they lead."""
        name = path.partition("/file=")[2]
        if not name:
            return
        try:
            target = Path(name).resolve()
        except (OSError, ValueError, RuntimeError):  # a link to itself, a zero byte
            raise Refusal(404, "There is no such file.") from None
        within = [Path(name).is_relative_to(folder) for folder in self.served]
        if any(within) and not any(target.is_relative_to(folder) for folder in self.served):
            raise Refusal(403, "That is a link out of the folders of this app.")

    def _sender(self, scope: Scope, send: Send) -> Send:
        path = str(scope["path"]).rstrip("/")
        login = scope.get("method") == "POST" and path.endswith("/login")
        file = "/file=" in path or "/file/" in path

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                if login and message["status"] in (200, 400, 401, 403):
                    self.tries.note(client(scope), message["status"] == 200, time.monotonic())
                message = {**message, "headers": _headers(list(message.get("headers", [])), file)}
            await send(message)

        return sent


def _headers(headers: list[tuple[bytes, bytes]], file: bool) -> list[tuple[bytes, bytes]]:
    """Headers that go with every answer: files of a run never run script, and no page frames ours."""
    headers = [*headers, (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
    if not file:
        return [*headers, (b"content-security-policy", b"frame-ancestors 'self'")]
    kept = [(name, value) for name, value in headers if name.lower() != b"content-security-policy"]
    kind = next((value for name, value in kept if name.lower() == b"content-type"), b"").decode("latin-1")
    named = any(name.lower() == b"content-disposition" and value.startswith(b"attachment") for name, value in kept)
    if kind.partition(";")[0].strip() not in INLINE and not named:
        kept = [(name, value) for name, value in kept if name.lower() != b"content-disposition"]
        kept.append((b"content-disposition", b"attachment"))
    return [*kept, (b"content-security-policy", FILE_RULES)]


def client(scope: dict[str, Any] | Scope) -> str:
    """Who asks: the address, of IPv6 the network that one household has."""
    address = (scope.get("client") or ("",))[0]
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else address


def free(folder: Path) -> int:
    """Bytes free where the folder is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
