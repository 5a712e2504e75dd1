"""A load generator with little overhead: keep-alive connections over httptools, one request at a time on each."""

import asyncio
import time
from collections.abc import Sequence
from typing import cast

import httptools
import msgspec


class Reply(msgspec.Struct, frozen=True):
    """One answer. ``chunks`` counts its SSE data lines; ``first_s`` and ``total_s`` are seconds from sending."""

    status: int
    chunks: int
    first_s: float
    total_s: float


class Connection(asyncio.Protocol):
    """A connection to the server under test. ``ask`` sends one request and waits for its whole answer."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._began = 0.0
        self._first_s = 0.0
        self._chunks = 0

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request. ``ConnectionError`` if the server closes before the answer's end."""
        self._waiter = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._first_s = 0.0
        self._chunks = 0
        self._began = time.perf_counter()
        self._transport.write(request)
        return await self._waiter

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionError(f"the server closed the connection ({exc})"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._chunks and not self._first_s:
            self._first_s = time.perf_counter() - self._began
        self._chunks += body.count(b"data: {")

    def on_message_complete(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            total_s = time.perf_counter() - self._began
            self._waiter.set_result(Reply(self._parser.get_status_code(), self._chunks, self._first_s, total_s))


class Target(msgspec.Struct, frozen=True):
    """A server's port and the model to ask for."""

    port: int
    model: str

    def request(self, *, stream: bool) -> bytes:
        """Return the bytes of one chat request."""
        message = {"role": "user", "content": "Say hello to the mock upstream."}
        body = msgspec.json.encode({"model": self.model, "messages": [message], "stream": stream})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer sk-bench\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
        return connection


async def one_by_one(target: Target, num_requests: int, *, stream: bool) -> list[Reply]:
    """Send requests one after another over one connection, with no other load, to measure latency."""
    connection, request = await target.connect(), target.request(stream=stream)
    replies = [await connection.ask(request) for _ in range(num_requests)]
    connection.close()
    return replies


async def together(target: Target, concurrency: int, seconds: float, *, stream: bool) -> tuple[list[Reply], float]:
    """Keep ``concurrency`` requests in flight for some seconds; return the answers and the actual duration."""
    connections = [await target.connect() for _ in range(concurrency)]
    request = target.request(stream=stream)
    replies: list[Reply] = []
    began = time.perf_counter()

    async def keep_asking(connection: Connection) -> None:
        while time.perf_counter() - began < seconds:
            replies.append(await connection.ask(request))

    await asyncio.gather(*map(keep_asking, connections))
    took = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return replies, took


async def all_at_once(target: Target, num_streams: int) -> list[Reply | BaseException]:
    """Open ``num_streams`` streams at the same time and read all of them to the end."""
    connections = [await target.connect() for _ in range(num_streams)]
    request = target.request(stream=True)
    replies = await asyncio.gather(*(c.ask(request) for c in connections), return_exceptions=True)
    for connection in connections:
        connection.close()
    return replies


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
