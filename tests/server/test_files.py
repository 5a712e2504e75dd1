"""Files and uploads over HTTP, with the official client and with clients that are anything but that."""

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.files.content import blobs_on_disk
from tests.server.test_accounts_over_http import new_key
from tests.server.uploading import BOUNDARY, HEADERS, form, upload_in_a_process
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

from antiphon.accounts import KeyBudget, Limits, Principal
from antiphon.accounts.reports import UsageQuery
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.files import FileSettings
from antiphon.protocol.errors import ApiError
from antiphon.protocol.files import safe_filename
from antiphon.server.request.multipart import FieldValue, FileBegin, FileData, FormReader

MAX_BYTES = 300_000
DISPOSITION = "Content-Disposition: form-data; name"


def backend() -> ScriptedBackend:
    return ScriptedBackend(Script(models=("gpt-4o-mini",)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Generator[Running]:
    with running(backend(), home, files=FileSettings(max_file_bytes=MAX_BYTES)) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def test_a_file_lives_as_with_openai(client: openai.OpenAI) -> None:
    """Created, listed, retrieved, downloaded, deleted; then it is gone."""
    content = os.urandom(MAX_BYTES)
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=("data.bin", content), purpose="user_data", expires_after=expiry)
    assert (file.bytes, file.filename, file.status) == (MAX_BYTES, "data.bin", "processed")
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == file
    assert file in list(client.files.list(purpose="user_data", order="asc", limit=1))
    assert client.files.content(file.id).read() == content
    assert client.files.wait_for_processing(file.id) == file
    assert client.files.delete(file.id).deleted
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            gone(file.id)


def test_the_input_of_a_batch_ends_after_thirty_days(client: openai.OpenAI) -> None:
    """Every other file stays until it is deleted."""
    batch = client.files.create(file=("lines.jsonl", b"{}\n"), purpose="batch")
    assert batch.expires_at == batch.created_at + 30 * 86_400
    assert client.files.create(file=("notes.txt", b"x"), purpose="assistants").expires_at is None


def test_a_large_file_comes_in_parts(client: openai.OpenAI, tmp_path: Path) -> None:
    """The client's own helper cuts it, sends the parts, and gives the checksum."""
    content = os.urandom(MAX_BYTES + 1)
    path = tmp_path / "large.txt"
    path.write_bytes(content)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/plain", purpose="user_data", part_size=100_000, md5=md5
    )
    assert (done.status, done.file and done.file.filename) == ("completed", "large.txt")
    assert done.file is not None
    assert client.files.content(done.file.id).read() == content
    upload = client.uploads.create(bytes=1, filename="x.txt", mime_type="text/plain", purpose="assistants")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="no longer pending"):
        client.uploads.parts.create(upload.id, data=b"x")


def part(head: str, content: str = "x") -> str:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n{content}\r\n"


FILE = part(f'{DISPOSITION}="file"; filename="a.txt"')
PURPOSE = part(f'{DISPOSITION}="purpose"', "user_data")
END = f"--{BOUNDARY}--\r\n"


FORMS = {
    "no file": (PURPOSE + END, (400, "missing_required_parameter", "file")),
    "no purpose": (FILE + END, (400, "missing_required_parameter", "purpose")),
    "two files": (FILE + FILE + PURPOSE + END, (400, "invalid_value", "file")),
    "a field twice": (PURPOSE + PURPOSE + FILE + END, (400, "invalid_value", "purpose")),
    "the file as text": (part(f'{DISPOSITION}="file"') + PURPOSE + END, (400, "invalid_type", "file")),
    "an unknown field": (FILE + PURPOSE + part(f'{DISPOSITION}="model"') + END, (400, "unknown_parameter", "model")),
    "a file of another name": (part(f'{DISPOSITION}="doc"; filename="a"') + END, (400, "unknown_parameter", "doc")),
    "a purpose of the server's": (
        part(f'{DISPOSITION}="purpose"', "batch_output") + FILE + END, (400, "invalid_value", "purpose")),
    "an expiry too soon": (
        FILE + PURPOSE + part(f'{DISPOSITION}="expires_after[anchor]"', "created_at")
        + part(f'{DISPOSITION}="expires_after[seconds]"', "60") + END,
        (400, "integer_below_min_value", "expires_after.seconds"),
    ),
    "an expiry in words": (
        FILE + PURPOSE + part(f'{DISPOSITION}="expires_after[anchor]"', "created_at")
        + part(f'{DISPOSITION}="expires_after[seconds]"', "soon") + END,
        (400, "invalid_type", "expires_after.seconds"),
    ),
    "half an expiry": (
        FILE + PURPOSE + part(f'{DISPOSITION}="expires_after[seconds]"', "3600") + END,
        (400, "missing_required_parameter", "expires_after.anchor"),
    ),
    "a long field": (part(f'{DISPOSITION}="purpose"', "x" * 5000) + END, (400, "string_above_max_length", "purpose")),
    "no end": (FILE + PURPOSE, (400, "invalid_multipart_form", None)),
    "cut in a header": (FILE + f"--{BOUNDARY}\r\nContent-Dis", (400, "invalid_multipart_form", None)),
    "another boundary": ("--other\r\n" + END, (400, "invalid_multipart_form", None)),
    "no name": (part("Content-Disposition: form-data") + END, (400, "invalid_multipart_form", None)),
    "no disposition": (part("Content-Type: text/plain") + END, (400, "invalid_multipart_form", None)),
    "many parts": (part(f'{DISPOSITION}="a"') * 99 + END, (400, "invalid_multipart_form", None)),
    "many headers": (part("\r\n".join(["X: y"] * 99)) + END, (400, "invalid_multipart_form", None)),
    "a long header": (part("X: " + "y" * 99_999) + END, (400, "invalid_multipart_form", None)),
    "nothing": ("", (400, "invalid_multipart_form", None)),
    "a batch that is no JSONL": (
        FILE + part(f'{DISPOSITION}="purpose"', "batch") + END, (400, "invalid_file_format", "file")),
    "an empty file": (
        part(f'{DISPOSITION}="file"; filename="a.txt"', "") + PURPOSE + END, (400, "empty_file", "file")),
    "a file without a name": (
        part(f'{DISPOSITION}="file"; filename="../.."') + PURPOSE + END, (400, "invalid_value", "file")),
    "too large": (
        part(f'{DISPOSITION}="file"; filename="a"', "x" * (MAX_BYTES + 1)) + PURPOSE + END,
        (413, "file_too_large", "file"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "error"), FORMS.values(), ids=FORMS)
def test_a_wrong_form_is_refused_and_nothing_is_kept(
    server: Running, home: Path, body: str, error: tuple[int, str, str | None]
) -> None:
    """In OpenAI's envelope, after the client has sent all of it; the connection can be used again."""
    before = blobs_on_disk(home)
    with httpx.Client() as client:
        answer = client.post(f"{server.url}/files", content=body.encode(), headers=HEADERS)
        said = answer.json()["error"]
        assert (answer.status_code, said["code"], said["param"]) == error
        assert client.get(f"{server.url}/files").status_code == 200
    wait_until(lambda: blobs_on_disk(home) == before)
    assert server.service.storage.forms.num_open == 0


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("application/json", 415, "unsupported_content_type"),
        ("", 415, "unsupported_content_type"),
        ("multipart/form-data", 400, "invalid_multipart_form"),
        (f"multipart/form-data; boundary={'b' * 71}", 400, "invalid_multipart_form"),
    ],
)
def test_only_forms_with_a_boundary_are_read(server: Running, content_type: str, status: int, code: str) -> None:
    """Any other content type is refused."""
    headers = {"content-type": content_type} if content_type else {}
    answer = httpx.post(f"{server.url}/files", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_body_that_announces_too_much_is_refused_at_once(server: Running) -> None:
    """Before a byte of it has arrived."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), PATIENCE_S) as connection:
        head = f"POST /v1/files HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {HEADERS['content-type']}\r\n"
        connection.sendall(f"{head}Content-Length: {10 * MAX_BYTES}\r\n\r\n".encode())
        assert b"413" in connection.recv(200)


def test_a_client_that_leaves_in_the_middle_leaves_nothing(server: Running, home: Path) -> None:
    """What had arrived is removed; the ledger records the request."""
    before = blobs_on_disk(home)
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), PATIENCE_S) as connection:
        head = f"POST /v1/files HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {HEADERS['content-type']}\r\n"
        connection.sendall(f"{head}Content-Length: {MAX_BYTES}\r\n\r\n".encode() + (FILE[:-2] + "x" * 1000).encode())
        wait_until(lambda: len(blobs_on_disk(home)) == len(before) + 1)
    wait_until(lambda: blobs_on_disk(home) == before)


def test_uploads_of_all_speeds_are_bounded_together(tmp_path: Path) -> None:
    """While as many forms are read as may be, another gets a 503; one that leaves makes room."""
    with running(backend(), tmp_path) as up:
        up.service.storage.forms._max_forms = 1  # pyright: ignore[reportPrivateUsage]
        waiting = threading.Event()

        def slowly() -> Iterator[bytes]:
            yield FILE.encode()
            waiting.wait(PATIENCE_S)
            yield (PURPOSE + END).encode()

        answers: list[int] = []
        thread = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{up.url}/files", content=slowly(), headers=HEADERS, timeout=PATIENCE_S).status_code
            )
        )
        thread.start()
        wait_until(lambda: up.service.storage.forms.num_open == 1)
        assert httpx.post(f"{up.url}/files", content=form(iter([b"x"])), headers=HEADERS).status_code == 503
        waiting.set()
        thread.join(PATIENCE_S)
        assert answers == [200]
        assert httpx.post(f"{up.url}/files", content=form(iter([b"x"])), headers=HEADERS).status_code == 200


@given(st.text(max_size=300))
def test_no_name_leads_out_of_a_folder(given_name: str) -> None:
    """Whatever a client calls its file, the name has no path and no control character, or it is refused."""
    try:
        name = safe_filename(given_name)
    except ApiError:
        return
    assert Path(name).name == name
    assert not {"/", "\\", "\0", "\n", "\r"} & set(name)
    assert name.strip(".")
    assert len(name) <= 255


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\Users\\\\me\\\\notes.txt", "notes.txt"),
        ("/absolute/name.txt", "name.txt"),
        ("ünï cödé.txt", "ünï cödé.txt"),
        ("a\u202eb\u0000c.txt", "abc.txt"),
    ],
)
def test_a_hostile_name_is_a_name(server: Running, home: Path, given_name: str, kept: str) -> None:
    """Only its last part is kept, and nothing on the disk is called by it."""
    answer = httpx.post(f"{server.url}/files", content=form(iter([b"x"]), given_name), headers=HEADERS)
    assert answer.json()["filename"] == kept
    assert not [path for path in home.rglob("*") if path.name == kept]
    download = httpx.get(f"{server.url}/files/{answer.json()['id']}/content")
    assert download.headers["content-disposition"].isascii()
    assert httpx.get(f"{server.url}/files/..%2f..%2fkey-secret/content").status_code == 404


@given(st.lists(st.integers(1, 60)), st.binary(max_size=200))
def test_a_form_reads_alike_however_it_is_cut(sizes: list[int], content: bytes) -> None:
    """Pieces of any sizes give the same fields and the same file."""
    body = b"".join(form(iter([content.replace(BOUNDARY.encode(), b"")])))
    reader = FormReader(BOUNDARY.encode())
    events: list[Any] = []
    for size in (*sizes, len(body)):
        events += reader.feed(body[:size])
        body = body[size:]
    reader.check_end()
    data = b"".join(event.data for event in events if isinstance(event, FileData))
    assert data == content.replace(BOUNDARY.encode(), b"")
    assert [event for event in events if not isinstance(event, FileData)] == [
        FileBegin("file", "big.txt"),
        FieldValue("purpose", "user_data"),
    ]


def test_files_belong_to_a_key_and_count_against_its_limits(tmp_path: Path) -> None:
    """Another key finds none of them; a key for certain models may keep files; uploads have their own count of requests."""
    limited = Principal(name="a", limits=Limits(rpm=2), models=("other",))
    keys = {"a": new_key(tmp_path, limited), "b": new_key(tmp_path, Principal(name="b"))}
    with running(backend(), tmp_path) as up:
        mine, theirs = (openai.OpenAI(base_url=up.url, api_key=key, max_retries=0) for key in keys.values())
        file = mine.files.create(file=("x.txt", b"x"), purpose="user_data")
        for look in (theirs.files.retrieve, theirs.files.content, theirs.files.delete):
            with pytest.raises(openai.NotFoundError):
                look(file.id)
        assert list(theirs.files.list()) == []
        with pytest.raises(openai.BadRequestError, match="no item with id"):
            theirs.files.list(after=file.id)
        with pytest.raises(openai.BadRequestError):
            mine.files.create(file=b"x", purpose="nothing")  # type: ignore[arg-type]
        with pytest.raises(openai.RateLimitError, match="for files"):
            mine.files.create(file=("x.txt", b"x"), purpose="user_data")
        rows = asyncio.run_coroutine_threadsafe(
            up.service.accounts.report(UsageQuery(kinds=("file",), by=("model",))),
            up.loop,
        ).result(PATIENCE_S)
        assert [(row.model, row.num_requests, row.usd) for row in rows] == [("files", 3, None)]
        for each in (mine, theirs):
            each.close()


def test_a_key_with_a_spent_budget_keeps_its_files(tmp_path: Path) -> None:
    """Files cost nothing, so no budget is asked for them."""
    key = new_key(tmp_path, Principal(name="poor", budget=KeyBudget(usd=1e-12)))
    with running(backend(), tmp_path) as up, openai.OpenAI(base_url=up.url, api_key=key, max_retries=0) as client:
        assert client.files.create(file=("x.txt", b"x"), purpose="user_data").bytes == 1


def test_a_large_upload_takes_little_memory() -> None:
    """A file of 96 MiB goes up and down through less than a third of that."""
    before, after = upload_in_a_process(96)
    assert after - before < 30
