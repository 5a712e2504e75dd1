"""What a connection does below the routes: bounds on the head, HTTP/1.0, clients that close one direction or both."""

import json
import socket
from collections.abc import Callable, Generator
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script
from antiphon.server.process.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS

REPLIES = (
    Reply(match=Pattern(last_message="slow"), text="one two", first_token_s=0.4),
    Reply(match=Pattern(last_message="silent"), text="one", fault="hang"),
    Reply(match=Pattern(last_message="hang"), text="one two three", fault="hang", after=2),
)


@pytest.fixture(scope="module")
def backend() -> ScriptedBackend:
    return ScriptedBackend(Script(models=("m",), replies=REPLIES))


@pytest.fixture(scope="module")
def server(backend: ScriptedBackend, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(backend, tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def connect(server: Running) -> Generator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        address = urlsplit(server.url)
        made = socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)
        opened.append(made)
        return made

    yield connect
    for made in opened:
        made.close()


def chat(word: str, *, stream: bool = False, version: str = "1.1") -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": word}], "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def send_often(connection: socket.socket, data: bytes) -> None:
    for _ in range(10_000):
        connection.sendall(data)


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    pieces: list[bytes] = []
    while piece := connection.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def test_http_1_0_gets_bare_events_and_the_end_of_the_connection(connect: Callable[[], socket.socket]) -> None:
    """A stream for an HTTP/1.0 client has no chunks: its head, its events, and then the connection closes."""
    connection = connect()
    connection.sendall(chat("hello there", stream=True, version="1.0"))
    head, _, body = received(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    events = body.decode().strip().split("\n\n")
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"


def test_http_1_0_gets_a_whole_answer_with_its_length(connect: Callable[[], socket.socket]) -> None:
    """A body in one piece says how long it is, and the connection closes."""
    connection = connect()
    connection.sendall(chat("hello", version="1.0"))
    head, _, body = received(connection).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["choices"][0]["message"]["content"] == "hello"


HEADS = {
    "many small headers": [b"x-%d: y\r\n" % number for number in range(MAX_HEADERS + 50)],
    "endless small headers": [b"x: y\r\n" * 1000] * 100,
    "one large header": [b"x: ", *[b"y" * 10_000] * 20, b"\r\n"],
    "one header that never ends": [b"x: ", *[b"y" * 10_000] * 200],
    "a name that never ends": [b"y" * 10_000] * 200,
}


@pytest.mark.parametrize("pieces", HEADS.values(), ids=HEADS)
def test_a_head_past_the_bounds_is_refused(connect: Callable[[], socket.socket], pieces: list[bytes]) -> None:
    """431 in OpenAI's envelope before a key is asked for, however the head comes, and nothing more is read."""
    connection = connect()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
    try:
        for piece in pieces:
            connection.sendall(piece)
        connection.sendall(b"\r\n")
        answer = received(connection)
    except (BrokenPipeError, ConnectionResetError):
        # Refused while it was still sending: the reset may overtake the answer.
        return
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_what_is_not_http_gets_the_envelope(
    connect: Callable[[], socket.socket], capfd: pytest.CaptureFixture[str], data: bytes
) -> None:
    """A TLS greeting or garbage is answered in OpenAI's envelope, and nothing is printed outside of the log's form."""
    connection = connect()
    connection.sendall(data)
    answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
    assert all(line.startswith("{") for line in capfd.readouterr().err.splitlines())


def test_a_long_url_is_refused(connect: Callable[[], socket.socket]) -> None:
    """The URL counts as part of the head."""
    connection = connect()
    connection.sendall(b"GET /" + b"a" * (MAX_HEAD_BYTES + 1) + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert received(connection).startswith(b"HTTP/1.1 431 ")


def test_a_head_within_the_bounds_is_answered(connect: Callable[[], socket.socket]) -> None:
    """Large cookies and many headers are fine; so are requests that follow each other on a connection."""
    connection = connect()
    headers = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 250) for number in range(MAX_HEADERS - 5))
    request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n"
    connection.sendall(request * 3)
    answer = b""
    while answer.count(b"HTTP/1.1 200 ") < 3:
        piece = connection.recv(65_536)
        assert piece, answer
        answer += piece


@pytest.mark.parametrize("tail", [b"1;" + b"x" * 10_000, b"0\r\nx: " + b"y" * 10_000], ids=["extension", "trailer"])
def test_the_framing_of_a_chunked_body_is_bounded(connect: Callable[[], socket.socket], tail: bytes) -> None:
    """Extensions and trailers of chunks are not a way to send without end what no limit counts."""
    connection = connect()
    connection.sendall(
        chat("x").replace(b"content-length: ", b"transfer-encoding: chunked\r\nx-: ").partition(b"\r\n\r\n")[0]
    )
    connection.sendall(b"\r\n\r\n" + tail)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        send_often(connection, b"y" * 10_000)


@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_client_gets_its_answer(connect: Callable[[], socket.socket], *, stream: bool) -> None:
    """A client that has sent its request and closed that direction still reads the whole answer."""
    connection = connect()
    connection.sendall(chat("slow", stream=stream))
    connection.shutdown(socket.SHUT_WR)
    answer = received(connection)
    assert b"HTTP/1.1 200 OK" in answer
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")
    assert b"two" in answer


def test_a_half_closed_client_gets_all_its_answers(connect: Callable[[], socket.socket]) -> None:
    """Requests that follow each other are all answered, with nothing in between that belongs to none of them."""
    connection = connect()
    connection.sendall(chat("slow", stream=True) + chat("second"))
    connection.shutdown(socket.SHUT_WR)
    answer = received(connection)
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"data: [DONE]") < answer.index(b"second")


@pytest.mark.parametrize(("word", "stream"), [("silent", False), ("silent", True), ("hang", True)])
def test_a_client_that_closes_both_directions_ends_the_work(
    connect: Callable[[], socket.socket], backend: ScriptedBackend, word: str, *, stream: bool
) -> None:
    """Closing looks like half-closing until the server sends a probe; then the work ends, begun or not."""
    abandoned = backend.counts.abandoned
    with closing(connect()) as connection:
        connection.sendall(chat(word, stream=stream))
        wait_until(lambda: backend.counts.running == 1)
    wait_until(lambda: backend.counts.abandoned == abandoned + 1)
    assert backend.counts.running == 0
