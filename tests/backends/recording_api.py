"""An API that keeps every request as bytes and answers as its handler says: real HTTP on loopback."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web


@dataclass
class Received:
    """A request: its path with the query as sent, its headers in lower case, its body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class RecordingApi:
    """``requests`` are those that came. ``url`` ends in ``/v1``."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)


@asynccontextmanager
async def recording_api(handler: Handler) -> AsyncGenerator[RecordingApi]:
    """Serve until the block ends."""
    api = RecordingApi()

    async def serve(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        api.requests.append(Received(request.method, request.raw_path, headers, body))
        return await handler(request, body)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=1, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    api.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield api
    finally:
        await runner.cleanup()


async def echo_socket(request: web.Request, body: bytes) -> web.StreamResponse:
    """Accept a WebSocket and send every message back."""
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket
