"""A server that implements the part of the hub's HTTP API that downloads need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100_000


class Hub:
    """Repositories as {name: {file: bytes}}, the requests received, and the faults to cause."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        self.claimed_bytes: dict[str, int] = {}
        self.cut_after: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.hold: dict[str, threading.Event] = {}
        self.held = threading.Event()
        self.credentials: list[str] = []
        self.downloads: dict[str, int] = {}
        self.searches: list[dict[str, list[str]]] = []
        self.ranges: list[tuple[str, int]] = []
        self.url = ""

    def add(self, name: str, folder: Path, **changed: bytes) -> None:
        """Serve the files of a folder. `changed` replaces contents."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.repos[name] = {**files, **changed}
        self.commits[name] = COMMIT

    def commit(self, name: str) -> str:
        return self.commits[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        # A request through a proxy has the whole URL.
        path = re.sub(r"^http://[^/]+", "", self.path.partition("?")[0])
        self.hub.credentials += [
            self.headers[name]
            for name in ("Authorization", "Proxy-Authorization")
            if name in self.headers
        ]
        if path == "/api/models":
            return self._search(parse_qs(self.path.partition("?")[2]))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self._info(found[1], found[2])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[3], body=body)
        return self._refuse(404, "EntryNotFound")

    def _search(self, query: dict[str, list[str]]) -> None:
        """Answer with the repositories whose names have all words, most downloaded first."""
        words = query.get("search", [""])[0].lower().split()
        author = query.get("author", [""])[0]
        names = [
            name
            for name in self.hub.repos
            if all(word in name.lower() for word in words) and name.startswith(author)
        ]
        names.sort(key=lambda name: -self.hub.downloads.get(name, 0))
        limit = int(query.get("limit", ["100"])[0])
        records = [{"id": name, "downloads": self.hub.downloads.get(name, 0)} for name in names]
        self.hub.searches.append(query)
        self._send(200, json.dumps(records[:limit]).encode(), {"Content-Type": "application/json"})

    def _info(self, name: str, revision: str) -> None:
        if name in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        if name not in self.hub.repos:
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", self.hub.commit(name)):
            return self._refuse(404, "RevisionNotFound")
        siblings = [self._sibling(*item) for item in self.hub.repos[name].items()]
        record = {"id": name, "sha": self.hub.commit(name), "siblings": siblings}
        return self._send(200, json.dumps(record).encode(), {"Content-Type": "application/json"})

    def _sibling(self, file: str, content: bytes) -> dict[str, Any]:
        size = self.hub.claimed_bytes.get(file, len(content))
        record: dict[str, Any] = {"rfilename": file, "size": size, "blobId": _etag(content)}
        if len(content) > LARGE_BYTES:
            record["lfs"] = {"sha256": _etag(content), "size": size, "pointerSize": 130}
        return record

    def _file(self, name: str, file: str, *, body: bool) -> None:
        content = self.hub.repos.get(name, {}).get(file)
        if content is None:
            return self._refuse(404, "EntryNotFound")
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": self.hub.commit(name),
                   "Accept-Ranges": "bytes"}  # fmt: skip
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if body:
            self.hub.ranges.append((file, start))
        status = 206 if start else 200
        return self._send(status, content[start:], headers, body=body, file=file)

    def _refuse(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self._send(status, b"", headers)

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str],
        *,
        body: bool = True,
        file: str = "",
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if file in self.hub.damaged:
            content = bytes(len(content))
        if file in self.hub.cut_after:
            self.wfile.write(content[: self.hub.cut_after.pop(file)])
            self.close_connection = True
            return
        if (gate := self.hub.hold.get(file)) is not None:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.hub.held.set()
            gate.wait(60)
            content = content[len(content) // 2 :]
        try:
            self.wfile.write(content)
        except OSError:
            self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Run a hub at `hub.url` during a `with` block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        for gate in hub.hold.values():
            gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
