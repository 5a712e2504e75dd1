"""SIGTERM ends ``antiphon serve`` whatever its clients and its database are doing."""

import signal
import socket
import sqlite3
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from tests.processes import ServerProcess, serving
from tests.waiting import PATIENCE_S, wait_until

CONFIG = """
[server]
shutdown_grace_s = 0.2

[models]
chat = "none"
embedding = "none"

[gateway]
script = "script.toml"
"""
SCRIPT = """
models = ["m"]

[[replies]]
match = { last_message = "hang" }
text = "one two three four"
fault = "hang"
after = 2
"""
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def connected(server: ServerProcess, held: ExitStack) -> socket.socket:
    address = urlsplit(server.url)
    return held.enter_context(closing(socket.create_connection((address.hostname, address.port), PATIENCE_S)))


def body(word: str, *, is_streamed: bool = False) -> bytes:
    streamed = b',"stream":true' if is_streamed else b""
    return b'{"model":"m","messages":[{"role":"user","content":"%s"}]%s}' % (word.encode(), streamed)


def send(server: ServerProcess, held: ExitStack, content: bytes) -> socket.socket:
    """Send a whole request on a connection of its own."""
    connection = connected(server, held)
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    return connection


def idle_connections(server: ServerProcess, held: ExitStack) -> None:
    for _ in range(50):
        connected(server, held)


def half_a_head(server: ServerProcess, held: ExitStack) -> None:
    connected(server, held).sendall(HEAD)


def half_a_body(server: ServerProcess, held: ExitStack) -> None:
    connected(server, held).sendall(HEAD + b"Content-Length: 30000000\r\n\r\n" + b"x" * 1_000_000)


def a_hanging_answer(server: ServerProcess, held: ExitStack) -> None:
    send(server, held, body("hang"))
    wait_until(lambda: "antiphon_in_flight 1" in httpx.get(f"{server.url.removesuffix('/v1')}/metrics").text)


def a_hanging_stream(server: ServerProcess, held: ExitStack) -> None:
    assert send(server, held, body("hang", is_streamed=True)).recv(1000)


def a_client_that_half_closed(server: ServerProcess, held: ExitStack) -> None:
    connection = send(server, held, body("hang", is_streamed=True))
    assert connection.recv(1000)
    connection.shutdown(socket.SHUT_WR)


def a_locked_database(server: ServerProcess, held: ExitStack) -> None:
    """Rows wait that cannot be written."""
    database = held.enter_context(closing(sqlite3.connect(server.log.parent / "antiphon.db", timeout=PATIENCE_S)))
    database.execute("BEGIN EXCLUSIVE")
    for _ in range(20):
        assert b" 200 " in send(server, held, body("hello")).recv(1000)


STATES: list[Callable[[ServerProcess, ExitStack], None]] = [
    idle_connections,
    half_a_head,
    half_a_body,
    a_hanging_answer,
    a_hanging_stream,
    a_client_that_half_closed,
]


@pytest.fixture
def server(tmp_path: Path) -> Generator[ServerProcess]:
    (tmp_path / "script.toml").write_text(SCRIPT)
    config = tmp_path / "antiphon.toml"
    config.write_text(CONFIG.replace("script.toml", str(tmp_path / "script.toml")))
    with serving(tmp_path, "--config", str(config)) as up:
        yield up


@pytest.mark.slow
@pytest.mark.parametrize("states", [STATES, [a_locked_database]], ids=["clients", "database"])
def test_sigterm_ends_the_server_in_every_state(
    states: list[Callable[[ServerProcess, ExitStack], None]], server: ServerProcess
) -> None:
    """Without a second signal, and while nothing of these states ends; the deadline's own time has its own test."""
    with ExitStack() as held:
        for state in states:
            state(server, held)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) in {0, 1}
