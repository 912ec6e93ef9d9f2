"""A model hub in miniature on 127.0.0.1, with the answers of huggingface.co that its client library reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves every folder of ``root`` named owner/name; asked paths are in ``asked``."""

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """A hub that lives as long as the block."""
    with Hub(root) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(path)
        parts = path.split("/")
        if len(parts) < 4:
            self._refuse(404, "EntryNotFound")
            return
        model = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        revision = parts[5] if parts[0] == "api" else parts[3]
        if model == "owner/gated":
            self._refuse(403, "GatedRepo")
        elif not (self.server.root / model).is_dir():
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", SHA):
            self._refuse(404, "RevisionNotFound")
        elif parts[0] == "api":
            self._list(self.server.root / model, tree=parts[4] == "tree")
        else:
            self._file(self.server.root / model / "/".join(parts[4:]))

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _list(self, model: Path, tree: bool) -> None:
        files = sorted(path for path in model.rglob("*") if path.is_file())
        names = [path.relative_to(model).as_posix() for path in files]
        if tree:
            rows = zip(names, files, strict=True)
            found = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)} for name, path in rows
            ]
        else:
            found = {"id": "x", "sha": SHA, "siblings": [{"rfilename": name} for name in names]}
        self._answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        if path.is_file():
            self._answer(200, path.read_bytes(), {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": SHA})
        else:
            self._refuse(404, "EntryNotFound")

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
