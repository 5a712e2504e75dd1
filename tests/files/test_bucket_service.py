"""Buckets over HTTP: a service that refuses, and, with ``MOTO_PYTHON``, moto's S3 behind a connection that fails.

``MOTO_PYTHON`` is an interpreter that has ``moto[server]``.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger
from tests.files.content import keep
from tests.waiting import wait_until

from antiphon.accounts.database import open_database
from antiphon.files import FileSettings, FileStore
from antiphon.files.blobs import BlobStore, WrittenBlob, bucket, make_blob_store
from antiphon.protocol.errors import ApiError
from antiphon.protocol.paging import PageQuery

pytest.importorskip("obstore", reason="the extra [bucket] is not installed")
pytestmark = pytest.mark.anyio
NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"
DENIED = b"<Error><Code>SignatureDoesNotMatch</Code><Message>Wrong key</Message></Error>"
Answer = tuple[int, dict[str, str], bytes]
Ask = Callable[[str, str, dict[str, str], bytes], Answer]
LARGE = 20_000_000


class Connection:
    """What stands between the client and the service. ``is_cut``: it breaks off in the middle of a long answer."""

    def __init__(self, answer: Ask) -> None:
        self.answer = answer
        self.is_cut = False


@contextmanager
def listening(connection: Connection) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, headers, content = connection.answer(self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if connection.is_cut and len(content) > 1000:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
            elif self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def always(status: int, body: bytes) -> Ask:
    def answer(method: str, path: str, headers: dict[str, str], content: bytes) -> Answer:
        del method, path, headers, content
        return status, {"content-type": "application/xml"}, body

    return answer


def at(url: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> BlobStore:
    given = {
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "REGION": "us-east-1",
        "ENDPOINT_URL": url,
        "ALLOW_HTTP": "true",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return make_blob_store(FileSettings(url="s3://files/folder"), home)


async def written(blobs: BlobStore, num_bytes: int = 10) -> WrittenBlob:
    async with blobs.writer() as writer:
        for start in range(0, num_bytes, 1_000_000):
            await writer.write(b"x" * min(1_000_000, num_bytes - start))
        return await writer.commit()


async def content(blobs: BlobStore, location: str, start: int = 0) -> bytes:
    return b"".join([piece async for piece in blobs.read(location, start)])


@pytest.mark.parametrize(
    "refusal",
    [(404, NO_BUCKET, "NoSuchBucket"), (403, DENIED, "SignatureDoesNotMatch")],
    ids=["no bucket", "wrong credentials"],
)
@pytest.mark.parametrize("num_bytes", [10, LARGE], ids=["small", "in parts"])
async def test_a_bucket_that_refuses_is_a_503_with_its_reason_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: tuple[int, bytes, str], num_bytes: int
) -> None:
    """For writing and reading alike: the client may come again, and the operator learns what is wrong."""
    status, body, reason = refusal
    log = CapturingLogger()  # the module's own may have been bound by an earlier test
    monkeypatch.setattr(bucket, "_log", log)
    with listening(Connection(always(status, body))) as url:
        blobs = at(url, monkeypatch, tmp_path)
        for attempt in (lambda: written(blobs, num_bytes), lambda: content(blobs, "0" * 32)):
            log.calls.clear()
            with pytest.raises(ApiError) as failed:
                await attempt()
            assert failed.value.status == 503
            assert any(reason in str(call.kwargs.get("error")) for call in log.calls)


async def test_a_file_whose_bucket_refuses_leaves_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it count for the key's quota."""
    with listening(Connection(always(404, NO_BUCKET))) as url:
        engine = await open_database(None, tmp_path)
        store = FileStore(engine, at(url, monkeypatch, tmp_path), FileSettings())
        with pytest.raises(ApiError):
            await keep(store, b"content")
        assert await store.page("a", PageQuery(limit=9), None) == ([], False)
        await engine.dispose()


@pytest.fixture
def service() -> Generator[Connection]:
    """Moto's S3 with an empty bucket ``files``, behind a connection."""
    python = os.environ.get("MOTO_PYTHON")
    if python is None:
        pytest.skip("MOTO_PYTHON names no interpreter with moto[server]")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [python, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def ask(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        kept = {name: value for name, value in headers.items() if name.lower() not in {"content-length", "connection"}}
        asked = HTTPConnection("127.0.0.1", port)
        asked.request(method, path, body=body if method in {"PUT", "POST"} else None, headers=kept)
        answer = asked.getresponse()
        dropped = {"content-length", "transfer-encoding", "connection"}
        content = answer.read()
        return answer.status, {n: v for n, v in answer.headers.items() if n.lower() not in dropped}, content

    def is_up() -> bool:
        assert process.poll() is None, "moto ended"
        try:
            return ask("PUT", "/files", {}, b"")[0] == 200
        except OSError:
            return False

    try:
        wait_until(is_up)
        yield Connection(ask)
    finally:
        process.kill()
        process.wait()


async def test_a_service_keeps_what_is_committed(
    service: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small and in parts, whole and from a place on; what is removed or was not committed is not there."""
    with listening(service) as url:
        blobs = at(url, monkeypatch, tmp_path)
        kept = [await written(blobs, size) for size in (10, LARGE)]
        assert [len(await content(blobs, one.location)) for one in kept] == [10, LARGE]
        assert len(await content(blobs, kept[1].location, LARGE - 7)) == 7
        async with blobs.writer() as writer:
            await writer.write(b"y" * LARGE)
        assert {found.location async for found in blobs.listing()} == {one.location for one in kept}
        await blobs.remove(kept[0].location)
        await blobs.remove(kept[0].location)
        with pytest.raises(FileNotFoundError):
            await content(blobs, kept[0].location)


@pytest.mark.parametrize("fault", ["500", "cut"])
async def test_a_service_that_fails_keeps_nothing_half(
    service: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A read that breaks off is an error and not a shorter file; a write that fails leaves no object."""
    ask = service.answer
    with listening(service) as url:
        blobs = at(url, monkeypatch, tmp_path)
        kept = await written(blobs, LARGE)
        service.is_cut = fault == "cut"
        if fault == "500":
            service.answer = always(500, b"")
            with pytest.raises(ApiError) as failed:
                await written(blobs, LARGE)
            assert failed.value.status == 503
        with pytest.raises(ApiError) as failed:
            await content(blobs, kept.location)
        assert failed.value.status == 503
        service.is_cut, service.answer = False, ask
        assert [found.location async for found in blobs.listing()] == [kept.location]
        assert len(await content(blobs, kept.location)) == LARGE
