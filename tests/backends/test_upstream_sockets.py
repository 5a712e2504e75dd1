"""WebSockets of an upstream while they are being opened: they count, and none outlives the backend."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from aiohttp import web
from tests.backends.recording_api import recording_api
from tests.waiting import until

from antiphon.backends.upstream import UpstreamBackend, UpstreamSettings
from antiphon.protocol.errors import ApiError
from antiphon.protocol.forward import SocketRequest

pytestmark = pytest.mark.anyio

REQUEST = SocketRequest(path="/x", headers={}, max_bytes=1000)


class Slow(NamedTuple):
    backend: UpstreamBackend
    asked: asyncio.Event
    go: asyncio.Event
    sockets: list[web.WebSocketResponse]


@asynccontextmanager
async def slow_upstream(max_connections: int) -> AsyncGenerator[Slow]:
    """An upstream that answers the request for a WebSocket when ``go`` is set."""
    asked, go = asyncio.Event(), asyncio.Event()
    sockets: list[web.WebSocketResponse] = []

    async def handle(request: web.Request, body: bytes) -> web.StreamResponse:
        asked.set()
        await go.wait()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sockets.append(socket)
        async for _ in socket:
            pass
        return socket

    async with recording_api(handle) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url, max_connections=max_connections))
        try:
            yield Slow(backend, asked, go, sockets)
        finally:
            go.set()
            await backend.aclose()


async def test_connections_that_are_being_opened_count() -> None:
    """However many come at once, there are never more than ``max_connections``."""
    async with slow_upstream(max_connections=1) as up:
        opening = asyncio.ensure_future(up.backend.connect(REQUEST))
        await up.asked.wait()
        with pytest.raises(ApiError) as raised:
            await up.backend.connect(REQUEST)
        assert raised.value.status == 503
        up.go.set()
        first = await opening
        await first.close(1000)
        # What is closed makes room.
        await (await up.backend.connect(REQUEST)).close(1000)


async def test_a_connection_that_opens_when_the_server_has_ended_is_closed() -> None:
    """Its request gets a 503, and the upstream sees the end."""
    async with slow_upstream(max_connections=5) as up:
        opening = asyncio.ensure_future(up.backend.connect(REQUEST))
        await up.asked.wait()
        await up.backend.aclose()
        up.go.set()
        with pytest.raises(ApiError) as raised:
            await opening
        assert raised.value.status == 503
        await until(lambda: len(up.sockets) == 1 and up.sockets[0].closed)
