"""A stand-in for the Hugging Face hub: its resolve endpoint, its storage behind a redirect, and their bad days."""

import hashlib
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the double has and does; tests change it while it runs. ``seen`` are (method, path, range, authorization).

    ``redirects`` lead from a path to a location.
    """

    url: str = ""
    repo: str = "org/repo"
    storage_url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    small_files: dict[str, bytes] = field(default_factory=dict)
    refuse: tuple[int, str] | None = None
    storage_statuses: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    ignores_ranges: bool = False
    wrong_etag: bool = False
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        return [range_ for method, path, range_, _ in self.seen if method == "GET" and path.startswith("/storage/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        if self.path.startswith("/storage/"):
            self._store(self.hub.files[unquote(self.path.removeprefix("/storage/"))])
        else:
            self._resolve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _note(self) -> None:
        self.hub.seen.append((self.command, self.path, self.headers.get("range"), self.headers.get("authorization")))

    def _resolve(self) -> None:
        self._note()
        if self.hub.refuse:
            status, code = self.hub.refuse
            return self._answer(status, {"x-error-code": code} if code else {})
        if self.path in self.hub.redirects:
            return self._answer(307, {"location": self.hub.redirects[self.path]})
        match = re.fullmatch(rf"/{self.hub.repo}/resolve/main/(.+)", self.path)
        if not match:
            return self._answer(
                404, {"x-error-code": "RevisionNotFound" if f"/{self.hub.repo}/" in self.path else "RepoNotFound"}
            )
        name = unquote(match[1])
        if name in self.hub.small_files:
            data = self.hub.small_files[name]
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self._answer(200, {"etag": f'"{etag}"', "x-repo-commit": COMMIT}, data)
        if name not in self.hub.files:
            return self._answer(404, {"x-error-code": "EntryNotFound"})
        data = self.hub.files[name]
        etag = "0" * 64 if self.hub.wrong_etag else hashlib.sha256(data).hexdigest()
        headers = {"x-linked-etag": f'"{etag}"', "x-linked-size": str(len(data)), "x-repo-commit": COMMIT}
        return self._answer(302, headers | {"location": f"{self.hub.storage_url}/storage/{name}"})

    def _store(self, data: bytes) -> None:
        self._note()
        if self.hub.storage_statuses and (status := self.hub.storage_statuses.pop(0)) != 200:
            return self._answer(status, {})
        start = 0
        headers: dict[str, str] = {}
        if (asked := self.headers.get("range")) and not self.hub.ignores_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.hub.cut_after and (cut := self.hub.cut_after.pop(0)) < len(body):
            self._answer(206 if headers else 200, headers | {"content-length": str(len(body))}, body[:cut])
            self.close_connection = True
            return None
        return self._answer(206 if headers else 200, headers, body)


@contextmanager
def running_hub() -> Generator[Hub]:
    """Serve a hub on loopback; its storage has another origin, as in life."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        port = server.server_address[1]
        hub.url, hub.storage_url = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
